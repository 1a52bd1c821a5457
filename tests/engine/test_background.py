"""What takes long beside the loop: no pull waits for it, nothing is lost, nothing is left over."""

from __future__ import annotations

from collections.abc import Callable, Generator
from threading import Event
from time import monotonic
from typing import Any

import pytest

from cxr_assistant.engine.background import in_background
from cxr_assistant.errors import MissingWeights
from cxr_assistant.generation import Queued

WAIT_S = 20.0


def finish(deed: Generator[Any, None, Any]) -> Any:
    """What a deed returned in the end."""
    until = monotonic() + WAIT_S
    while monotonic() < until:
        try:
            assert next(deed) == Queued(0)
        except StopIteration as end:
            return end.value
    raise TimeoutError


def wait_for(is_so: Callable[[], bool]) -> bool:
    until, pause = monotonic() + WAIT_S, Event()
    while not is_so() and monotonic() < until:
        pause.wait(0.01)
    return is_so()


def test_its_result_comes_back() -> None:
    undone: list[int] = []
    assert finish(in_background(lambda: 7, undone.append)) == 7
    assert undone == []


def test_its_error_is_raised_where_it_is_waited_for() -> None:
    def refuse() -> None:
        raise MissingWeights("not here", hint="Fetch it.")

    with pytest.raises(MissingWeights, match="not here"):
        finish(in_background(refuse, lambda _: None))


def test_a_pull_does_not_wait_until_it_is_done() -> None:
    may_end = Event()
    deed = in_background(lambda: may_end.wait(WAIT_S), lambda _: None)
    assert [next(deed) for _ in range(3)] == [Queued(0)] * 3
    may_end.set()
    assert finish(deed) is True


@pytest.mark.parametrize("ending", ["closed", "cancelled"])
def test_what_nobody_waits_for_any_more_is_undone(ending: str) -> None:
    may_end, undone = Event(), []  # type: Event, list[int]

    def lend() -> int:
        may_end.wait(WAIT_S)
        return 7

    is_cancelled = False
    deed = in_background(lend, undone.append, lambda: is_cancelled)
    next(deed)
    if ending == "closed":
        deed.close()
    else:
        is_cancelled = True
        assert finish(deed) is None
    assert undone == []
    may_end.set()
    assert wait_for(lambda: undone == [7])
