"""Box markup in streamed text becomes Grounding events; what is no box stays text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cxr_assistant.checkpoints.boxes import separate_boxes
from cxr_assistant.generation import Completed, FinishReason, Grounding, TextDelta, Usage, collect
from cxr_assistant.report import BoundingBox

DONE = Completed(FinishReason.STOP, Usage())
ANSWER = (
    "There is <|ref|>left apical pneumothorax<|/ref|><|box|>(61,8),(90,37)<|/box|> and "
    "<|ref|>tube<|/ref|><|box|>(5,0),(100,99)<|/box|>."
)


def stream(text: str, step: int) -> Iterator[TextDelta | Completed]:
    for start in range(0, len(text), step):
        piece = text[start : start + step]
        yield TextDelta(piece, (-0.5,) * len(piece))
    yield DONE


def groundings(text: str) -> tuple[Grounding, ...]:
    return collect(separate_boxes(stream(text, 5), "film")).groundings


@pytest.mark.parametrize("step", [1, 3, 7, 1000], ids=lambda step: f"by-{step}")
def test_boxes_are_the_same_however_the_text_arrives(step: int) -> None:
    answer = collect(separate_boxes(stream(ANSWER, step), "film"))
    assert answer.text == "There is left apical pneumothorax and tube."
    assert answer.groundings == (
        Grounding("left apical pneumothorax", BoundingBox(0.61, 0.08, 0.90, 0.37), "film"),
        Grounding("tube", BoundingBox(0.05, 0.0, 1.0, 0.99), "film"),
    )
    assert len(answer.logprobs) == len(ANSWER)  # every token keeps its confidence
    assert answer.finish_reason is FinishReason.STOP


def test_spaces_that_the_authors_decoder_inserts_do_not_matter() -> None:
    spaced = "<|ref|> tube <|/ref|> <|box|> (5, 0), (100, 99) <|/box|> "
    assert groundings(spaced) == (Grounding("tube", BoundingBox(0.05, 0.0, 1.0, 0.99), "film"),)


def test_a_phrase_may_have_several_boxes_and_a_box_no_phrase() -> None:
    assert [found.phrase for found in groundings("<|box|>(1,2),(3,4)<|/box|>")] == [""]
    several = "<|ref|>rib<|/ref|><|box|>(1,2),(3,4)<|/box|><|box|>(5,6),(7,8)<|/box|>"
    assert [found.phrase for found in groundings(several)] == ["rib", "rib"]


@pytest.mark.parametrize(
    "corners",
    ["(90,8),(61,37)", "(0,0),(132,32)", "somewhere", "(1,2)"],
    ids=["swapped", "outside", "words", "half"],
)
def test_what_is_no_box_is_shown_and_not_drawn(corners: str) -> None:
    answer = collect(separate_boxes(stream(f"Here: <|box|>{corners}<|/box|>.", 4), "film"))
    assert answer.groundings == ()
    assert answer.text == f"Here: {corners}."


def test_an_answer_cut_off_inside_a_tag_loses_no_text() -> None:
    answer = collect(separate_boxes(stream("Here is <|ref|>left apic", 5), "film"))
    assert answer.text.replace("  ", " ") == "Here is left apic"


def test_plain_text_is_passed_on_at_once() -> None:
    events = separate_boxes(iter([TextDelta("No abnormalities "), TextDelta("detected.")]), "film")
    assert next(events) == TextDelta("No abnormalities ")


def test_a_less_than_sign_is_only_a_sign() -> None:
    assert collect(separate_boxes(stream("a nodule < 3 cm", 1), "film")).text == "a nodule < 3 cm"
