"""A model's words are a stranger's words: nothing that it writes is a tag, a link or an escape sequence."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from cxr_assistant.generation import Completed, FinishReason, Grounding, TextDelta, Usage, collect
from cxr_assistant.harmless import Defuser, defused, harmless
from cxr_assistant.report import BoundingBox
from tests.payloads import PAYLOADS, RADIOLOGY

LINK = re.compile(
    r"[a-z][a-z0-9+.-]*:/?/|//|www\.|(javascript|vbscript|data|file|blob|mailto|tel):\S|\]\(|\]\[|\]:|\w@\w",
    re.IGNORECASE,
)
ESCAPE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\u00ad]")


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.found.append(tag)

    def handle_comment(self, data: str) -> None:
        self.found.append(data)

    def unknown_decl(self, data: str) -> None:
        self.found.append(data)

    handle_decl = handle_pi = unknown_decl


def tags_in(text: str) -> list[str]:
    parser = Tags()
    parser.feed(text)
    parser.close()
    return parser.found


def in_pieces(*pieces: str) -> str:
    defuser = Defuser()
    return "".join(defuser.push(piece) for piece in pieces) + defuser.flush()


def test_there_are_enough_payloads() -> None:
    assert len(set(PAYLOADS)) >= 60


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_a_payload_comes_out_without_tag_link_or_escape_wherever_it_is_cut(payload: str) -> None:
    text = f"No pneumothorax. {payload} The heart is normal."
    whole = in_pieces(text)
    assert tags_in(whole) == []
    assert LINK.findall(whole) == []
    assert ESCAPE.findall(whole) == []
    for cut in range(len(text) + 1):
        assert in_pieces(text[:cut], text[cut:]) == whole
    assert in_pieces(*text) == whole


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_what_is_shown_so_far_is_harmless_at_each_moment(payload: str) -> None:
    defuser, shown = Defuser(), ""
    for character in payload:
        shown += defuser.push(character)
        assert tags_in(shown + ">") == [] and LINK.findall(shown) == []


def test_two_payloads_make_no_third() -> None:
    for first, second in pairwise(PAYLOADS):
        whole = defused(first + second)
        assert tags_in(whole) == [] and LINK.findall(whole) == []


@pytest.mark.parametrize("sentence", RADIOLOGY[:-1])
def test_radiology_survives(sentence: str) -> None:
    assert defused(sentence) == sentence
    assert in_pieces(*sentence) == sentence


def test_a_sign_between_two_letters_is_changed_for_one_that_looks_like_it() -> None:
    assert defused(RADIOLOGY[-1]) == RADIOLOGY[-1].replace("a<b", "a‹b")


def test_at_most_one_character_is_held_back() -> None:
    for payload in (*PAYLOADS, *RADIOLOGY):
        defuser = Defuser()
        for character in payload:
            defuser.push(character)
            assert len(defuser._held) <= 1


def test_log_probabilities_stay_with_their_text() -> None:
    box = BoundingBox(0.1, 0.1, 0.2, 0.2)
    events = [
        TextDelta("SpO2 <", (-0.1,)),
        TextDelta("90", (-0.2,)),
        Grounding("<b>left</b>", box),
        TextDelta("<", (-0.3,)),
        Completed(FinishReason.STOP, Usage()),
    ]
    answer = collect(harmless(event for event in events))
    assert answer.text == "SpO2 <90<"
    assert answer.logprobs == (-0.1, -0.2, -0.3)
    assert answer.groundings[0].phrase == "‹b>left‹/b>"


def test_closing_the_stream_closes_what_it_reads() -> None:
    closed = []

    def events() -> object:
        try:
            yield TextDelta("a")
            yield TextDelta("b")
        finally:
            closed.append(True)

    reading = harmless(events())  # type: ignore[arg-type]
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert closed == [True]
