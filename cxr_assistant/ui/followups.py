"""What could be asked next: from what an answer says, in words that the model was made for.

Knows the declared tasks of a checkpoint and the common findings of a chest radiograph by their names; never
offers what the checkpoint did not declare.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from cxr_assistant.study import Study
from cxr_assistant.tasks import Task

if TYPE_CHECKING:
    from cxr_assistant.checkpoints.spec import Checkpoint, TaskWording

__all__ = ["MAX_SUGGESTIONS", "Sign", "Suggestion", "mentioned", "suggest"]

MAX_SUGGESTIONS = 4
_SHOW = "Show the "


@dataclass(frozen=True)
class Suggestion:
    """One question that can be asked with one press: its task, the words on the button, the words sent."""

    task: Task
    title: str
    prompt: str


class Sign(NamedTuple):
    """A finding by its name, how it is recognised, and what more can be said of it."""

    noun: str
    pattern: str
    aspects: frozenset[str]


def _sign(noun: str, pattern: str, *aspects: str) -> Sign:
    return Sign(noun, pattern, frozenset(aspects))


_SIGNS = (
    _sign("pleural effusion", r"effusion", "side", "size"),
    _sign("pneumothorax", r"pneumothora", "side", "size"),
    _sign("consolidation", r"consolidat", "side", "zone"),
    _sign("atelectasis", r"atelecta", "side"),
    _sign("nodule", r"nodul", "side", "zone"),
    _sign("mass", r"\bmass(es)?\b", "side", "zone"),
    _sign("cardiomegaly", r"cardiomegaly|(heart|silhouette) is (\w+ )?enlarged", "grade"),
    _sign("pulmonary edema", r"o?edema", "grade"),
    _sign("endotracheal tube", r"endotracheal"),
    _sign("central venous catheter", r"central (venous )?(line|catheter)", "side"),
    _sign("pacemaker", r"pacemaker", "side"),
)
_UNCOUNTED = frozenset({"consolidation", "atelectasis", "cardiomegaly", "pulmonary edema"})
_STATED = {
    "side": re.compile(r"\b(left|right|bilateral|both)\b"),
    "zone": re.compile(r"\b(upper|middle|lower|base|basal|apex|apical)\b"),
    "size": re.compile(r"\b(small|moderate|large|tiny|trace)\b"),
    "grade": re.compile(r"\b(mild|mildly|moderate|moderately|severe|severely)\b"),
}
_DENIAL = re.compile(r"\b(no|not|without|normal|absent|cannot|clear of|free of)\b")


def mentioned(text: str) -> tuple[tuple[Sign, str], ...]:
    """Each finding that `text` affirms, with the clause that does; what a clause denies is left out."""
    found: dict[str, tuple[Sign, str]] = {}
    for clause in re.split(r"[.;\n]|, but ", text.lower()):
        if _DENIAL.search(clause):
            continue
        for sign in _SIGNS:
            if sign.noun not in found and re.search(sign.pattern, clause):
                found[sign.noun] = (sign, clause)
    return tuple(found.values())


def suggest(
    checkpoint: Checkpoint, study: Study, text: str, asked: frozenset[str] = frozenset()
) -> tuple[Suggestion, ...]:
    """Up to MAX_SUGGESTIONS questions after an answer `text`; none that stands in `asked` already."""
    offers: dict[str, Suggestion] = {}
    for offer in _offers(checkpoint, study, text):
        if not _was_asked(offer, asked):
            offers.setdefault(offer.prompt, offer)
    return tuple(offers.values())[:MAX_SUGGESTIONS]


def _was_asked(offer: Suggestion, asked: frozenset[str]) -> bool:
    """Whether it was asked already; "left pleural effusion" was looked for when its words are in a question
    of the same form."""
    if offer.prompt in asked or offer.task is not Task.GROUNDING:
        return offer.prompt in asked
    noun = offer.title.removeprefix(_SHOW)
    form = offer.prompt.split(noun)[0]
    return any(prompt.startswith(form) and noun in prompt.lower() for prompt in asked)


def _offers(checkpoint: Checkpoint, study: Study, text: str) -> Iterator[Suggestion]:
    found = mentioned(text)
    for sign, clause in found[:3]:
        yield from _on(sign, clause, checkpoint, study)
    differential = checkpoint.tasks.get(Task.DIFFERENTIAL)
    if differential is not None and found and not differential.needs_text:
        yield Suggestion(Task.DIFFERENTIAL, Task.DIFFERENTIAL.label, differential.prompt)
    wording = checkpoint.tasks.get(Task.QUESTION)
    if wording is not None:
        for question in wording.follow_ups.get("any", ()):
            yield Suggestion(Task.QUESTION, question, question)
        yield from _presences(wording, text)


def _on(sign: Sign, clause: str, checkpoint: Checkpoint, study: Study) -> Iterator[Suggestion]:
    """What more can be asked of one finding: where it is in the picture, then what its clause left open."""
    grounding = checkpoint.tasks.get(Task.GROUNDING)
    if grounding is not None:
        prompt = grounding.prompt.replace("{text}", sign.noun)
        yield Suggestion(Task.GROUNDING, _SHOW + sign.noun, prompt)
    progression = checkpoint.tasks.get(Task.PROGRESSION)
    if progression is not None and progression.needs_text and study.prior is not None:
        prompt = progression.prompt.replace("{text}", sign.noun)
        yield Suggestion(Task.PROGRESSION, f"Has the {sign.noun} changed?", prompt)
    question = checkpoint.tasks.get(Task.QUESTION)
    for aspect, forms in (question.follow_ups if question else {}).items():
        if aspect in sign.aspects and not _STATED[aspect].search(clause):
            yield from (_question(form, sign) for form in forms[:1])


def _presences(wording: TaskWording, text: str) -> Iterator[Suggestion]:
    """Whether something is there of which the answer says nothing at all."""
    for form in wording.follow_ups.get("presence", ())[:1]:
        for sign in _SIGNS:
            if not re.search(sign.pattern, text.lower()):
                yield _question(form, sign)


def _question(form: str, sign: Sign) -> Suggestion:
    article = "" if sign.noun in _UNCOUNTED else ("an " if sign.noun[0] in "aeiou" else "a ")
    words = form.replace("{a_noun}", article + sign.noun).replace("{noun}", sign.noun)
    return Suggestion(Task.QUESTION, words, words)
