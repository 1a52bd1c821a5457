"""Boxes in generated text: `<|ref|>phrase<|/ref|><|box|>(x1,y1),(x2,y2)<|/box|>` on a scale of 0 to 100.

Knows this markup; must not know which model wrote it. What is no valid box stays text and is never drawn.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace

from cxr_assistant.errors import InvalidStudy
from cxr_assistant.generation import GenerationEvent, Grounding, TextDelta
from cxr_assistant.report import BoundingBox

__all__ = ["separate_boxes", "split_markup"]

SCALE = 100.0  # training rounds int(1000 v / size) / 10 (CheXinstruct data processors, e4f31e6)

_BOX = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*,\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)")
_PIECE = re.compile(r"<\|ref\|>(?P<ref>.*?)<\|/ref\|>|<\|box\|>(?P<box>.*?)<\|/box\|>", re.DOTALL)
_OPENERS = ("<|ref|>", "<|box|>")
_STRAY_TAG = re.compile(r"\s*<\|/?(?:ref|box|quad)\|>\s*")


def split_markup(text: str) -> list[dict[str, str]]:
    """Pieces of `text` in order, each {"ref": ...}, {"box": ...} or {"text": ...}."""
    pieces: list[dict[str, str]] = []
    end = 0
    for match in _PIECE.finditer(text):
        if text[end : match.start()]:
            pieces.append({"text": text[end : match.start()]})
        kind = "ref" if match["ref"] is not None else "box"
        pieces.append({kind: match[kind]})
        end = match.end()
    if text[end:]:
        pieces.append({"text": text[end:]})
    return pieces


def separate_boxes(events: Iterable[GenerationEvent], digest: str) -> Iterator[GenerationEvent]:
    """The same events with the markup taken out of the text and given as `Grounding` events.

    Text inside an open tag is held back until the tag is closed; `digest` names the film that is meant.
    """
    held: TextDelta | None = None
    phrase = ""
    for event in events:
        if isinstance(event, TextDelta):
            held = event if held is None else _joined(held, event)
            if not _is_open(held.text):
                phrase = yield from _release(held, phrase, digest)
                held = None
            continue
        if held is not None:  # the answer ended inside a tag
            phrase = yield from _release(held, phrase, digest)
            held = None
        yield event


def _release(held: TextDelta, phrase: str, digest: str) -> Generator[GenerationEvent, None, str]:
    """Text first, then its boxes; returns the last phrase, which a box of the next delta may belong to."""
    text = ""
    boxes: list[Grounding] = []
    for piece in split_markup(held.text):
        if "ref" in piece:
            phrase = piece["ref"].strip()
            text += piece["ref"]
        elif "box" in piece:
            box = _parse_box(piece["box"])
            if box is None:
                text += piece["box"]  # not a box: shown as it was written, drawn nowhere
            else:
                boxes.append(Grounding(phrase, box, digest))
        else:
            text += _STRAY_TAG.sub(" ", piece["text"])
    yield replace(held, text=text)
    yield from boxes
    return phrase


def _joined(held: TextDelta, event: TextDelta) -> TextDelta:
    return TextDelta(held.text + event.text, held.logprobs + event.logprobs)


def _is_open(text: str) -> bool:
    """True while a tag was opened, or may be about to be, that is not closed yet."""
    rest = _PIECE.sub("", text)
    if any(opener in rest for opener in _OPENERS):
        return True
    return any(rest.endswith(opener[:n]) for opener in _OPENERS for n in range(1, len(opener)))


def _parse_box(text: str) -> BoundingBox | None:
    match = _BOX.search(text)
    if match is None:
        return None
    x_min, y_min, x_max, y_max = (int(value) / SCALE for value in match.groups())
    try:
        return BoundingBox(x_min, y_min, x_max, y_max)
    except InvalidStudy:
        return None
