from __future__ import annotations

from collections.abc import Iterator

from cxr_assistant.errors import OutOfMemory
from cxr_assistant.generation import GenerationEvent, TextDelta
from cxr_assistant.ui.abreast import Told, abreast


def words(*said: str) -> Iterator[GenerationEvent]:
    return (TextDelta(word) for word in said)


def failing() -> Iterator[GenerationEvent]:
    yield TextDelta("half")
    raise OutOfMemory("No memory.")


def test_each_side_is_told_in_its_own_order() -> None:
    told = list(abreast([lambda: words("a", "b", "c"), lambda: words("x", "y")]))
    for side, said in enumerate((["a", "b", "c"], ["x", "y"])):
        assert [t.said.text for t in told if t.side == side and isinstance(t.said, TextDelta)] == said
        assert [t for t in told if t.side == side][-1].said is None


def test_one_side_fails_and_the_other_goes_on() -> None:
    told = list(abreast([failing, lambda: words("x", "y")]))
    assert any(isinstance(t.said, OutOfMemory) and t.side == 0 for t in told)
    assert [t.said for t in told if t.side == 1] == [TextDelta("x"), TextDelta("y"), None]


def test_a_side_that_cannot_even_begin_is_a_failure_of_that_side() -> None:
    def refused() -> Iterator[GenerationEvent]:
        raise OutOfMemory("No memory.")

    told = list(abreast([refused, lambda: words("x")]))
    assert {(t.side, type(t.said)) for t in told} >= {(0, OutOfMemory), (1, TextDelta)}


def test_text_is_known_as_text() -> None:
    assert Told(0, TextDelta("x")).is_text and not Told(0, None).is_text
