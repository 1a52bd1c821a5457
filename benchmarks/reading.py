"""Show phantoms to a reader and write down what it says beside what is true.

A reader is any function (radiograph, task, question) -> text, or None when it declines the film, so that
the figures can be tested with readers that know everything or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cxr_assistant.evaluation.metrics import FindingLabel, ReportLabels
from cxr_assistant.imaging.phantom import (
    TRAINING_RANGES,
    UNSEEN_RANGES,
    FindingKind,
    FindingRequest,
    Mention,
    Phantom,
    QuestionAnswer,
    Threshold,
    make_phantom,
    mentions,
    read_report,
)
from cxr_assistant.study import Radiograph
from cxr_assistant.tasks import Task

__all__ = ["PhantomReading", "Reader", "SwapReading", "YesNo", "read_phantoms", "read_swaps"]

Reader = Callable[[Radiograph, Task, str], str | None]
RANGES = {ranges.name: ranges for ranges in (TRAINING_RANGES, UNSEEN_RANGES)}
NUM_ABSENT_QUESTIONS = 3  # beside one for each finding that is there: about as many "no" as "yes"


@dataclass(frozen=True)
class YesNo:
    """One presence question: the truth, the answer, and the answer over another phantom's image."""

    kind: str
    truth: str
    answer: str | None
    answer_replaced: str | None


@dataclass(frozen=True)
class PhantomReading:
    """One phantom: truth and answers. `*_replaced` were given over another phantom's image."""

    seed: int
    is_admitted: bool
    view: str
    view_answer: str | None
    view_replaced: str | None
    truth: ReportLabels
    answer: ReportLabels
    answer_replaced: ReportLabels
    questions: tuple[YesNo, ...]


@dataclass(frozen=True)
class SwapReading:
    """A one-sided finding, again with the finding on the other side, and with mirrored pixels."""

    seed: int
    kind: str
    side: str
    answered: str | None
    answered_other_side: str | None
    answered_mirrored_pixels: str | None


def read_phantoms(
    reader: Reader,
    seeds: Sequence[int],
    ranges: str,
    visibility: Mapping[FindingKind, Threshold] | None = None,
) -> list[PhantomReading]:
    """Findings, view and presence questions of each phantom; the next one of `seeds` lends the other image.

    The prompts for findings and view are the same for every phantom, so that the answer over the other
    image is the one that was given there; questions differ in wording and are asked anew.
    """
    phantoms = [make_phantom(seed, ranges=RANGES[ranges], visibility=visibility) for seed in seeds]
    reports = [reader(phantom.radiograph, Task.FINDINGS, "") for phantom in phantoms]
    views = [reader(phantom.radiograph, Task.VIEW, "") for phantom in phantoms]
    readings = []
    for index, phantom in enumerate(phantoms):
        other = (index + 1) % len(phantoms)
        readings.append(
            PhantomReading(
                seed=phantom.seed,
                is_admitted=reports[index] is not None,
                view=phantom.view.value,
                view_answer=read_view(views[index]),
                view_replaced=read_view(views[other]),
                truth=_labels(mentions(phantom)),
                answer=_labels_in(reports[index]),
                answer_replaced=_labels_in(reports[other]),
                questions=_ask(reader, phantom, phantoms[other]),
            )
        )
    return readings


def read_swaps(
    reader: Reader, seeds: Sequence[int], visibility: Mapping[FindingKind, Threshold] | None = None
) -> list[SwapReading]:
    """Every one-sided finding that a frontal phantom shows on its side and, swapped, on the other as well."""
    readings: list[SwapReading] = []
    for seed in seeds:
        phantom = make_phantom(seed, visibility=visibility)
        one_sided = _one_sided(phantom)
        if not one_sided or phantom.view.is_lateral:
            continue
        requests = [FindingRequest(f.kind, f.side, f.severity, f.zone).mirrored() for f in phantom.findings]
        swapped = make_phantom(seed, findings=requests, view=phantom.view, visibility=visibility)
        visible_there = _one_sided(swapped)
        films = (phantom.radiograph, swapped.radiograph, _mirrored(phantom.radiograph))
        sides = [_sides_in(reader(film, Task.FINDINGS, "")) for film in films]
        for kind, side in one_sided.items():
            if kind in visible_there:
                readings.append(SwapReading(seed, kind, side, *(said.get(kind) for said in sides)))
    return readings


def read_view(text: str | None) -> str | None:
    """The view that an answer names, or None."""
    found = re.search(r"\b(PA|AP|lateral)\b", text or "", re.IGNORECASE)
    return found[1].upper() if found else None


def read_yes_no(text: str | None) -> str | None:
    found = re.match(r"\W*(yes|no)\b", text or "", re.IGNORECASE)
    return found[1].lower() if found else None


def _ask(reader: Reader, phantom: Phantom, other: Phantom) -> tuple[YesNo, ...]:
    return tuple(
        YesNo(
            kind=str(asked.kind),
            truth=str(read_yes_no(asked.answer)),
            answer=read_yes_no(reader(phantom.radiograph, Task.QUESTION, asked.question)),
            answer_replaced=read_yes_no(reader(other.radiograph, Task.QUESTION, asked.question)),
        )
        for asked in _presence_questions(phantom)
    )


def _presence_questions(phantom: Phantom) -> list[QuestionAnswer]:
    """All with the answer yes, and a few with the answer no, drawn by the seed."""
    asked = [q for q in phantom.questions if q.topic == "presence"]
    present = [q for q in asked if read_yes_no(q.answer) == "yes"]
    absent = [q for q in asked if read_yes_no(q.answer) == "no"]
    rng = np.random.default_rng((phantom.seed, 77))
    drawn = rng.choice(len(absent), size=min(NUM_ABSENT_QUESTIONS, len(absent)), replace=False)
    return present + [absent[i] for i in sorted(drawn)]


def _labels(stated: Sequence[Mention]) -> ReportLabels:
    return ReportLabels(
        frozenset(
            FindingLabel(
                str(m.kind), str(m.side) if m.side else None, str(m.severity) if m.severity else None
            )
            for m in stated
        )
    )


def _labels_in(text: str | None) -> ReportLabels:
    return _labels(read_report(text).mentions) if text else ReportLabels()


def _one_sided(phantom: Phantom) -> dict[str, str]:
    return _sides(_labels(mentions(phantom)))


def _sides_in(text: str | None) -> dict[str, str]:
    return _sides(_labels_in(text))


def _sides(labels: ReportLabels) -> dict[str, str]:
    """Kinds that are reported on exactly one side, with that side."""
    found = {kind: {f.side for f in labels.of_kind(kind)} for kind in labels.kinds}
    return {kind: str(*sides) for kind, sides in found.items() if len(sides) == 1 and None not in sides}


def _mirrored(radiograph: Radiograph) -> Radiograph:
    return replace(radiograph, stored=np.ascontiguousarray(np.fliplr(radiograph.stored)))
