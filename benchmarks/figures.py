"""From readings to figures, and from figures to a verdict on each target. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from benchmarks.reading import PhantomReading, SwapReading
from cxr_assistant.evaluation.metrics import (
    Estimate,
    ReportLabels,
    accuracy,
    accuracy_by_sample,
    majority_accuracy,
    presence,
    severity_accuracy,
    side_accuracy,
)
from cxr_assistant.imaging.phantom import FindingKind

__all__ = ["TARGETS", "figures", "judge", "swap_figures"]

KINDS = tuple(str(kind) for kind in FindingKind)
BLIND_MARGIN = 0.05
_OTHER = {"left": "right", "right": "left"}


def figures(readings: Sequence[PhantomReading]) -> dict[str, Any]:
    """All figures of one set of phantoms, beside those over replaced images and the constant answer."""
    if not readings:
        return {"num": 0}
    truths = [r.truth for r in readings]
    answers = [r.answer for r in readings]
    replaced = [r.answer_replaced for r in readings]
    views = [r.view for r in readings]
    asked = [[q.truth for q in r.questions] for r in readings]
    found, found_replaced = presence(truths, answers, KINDS), presence(truths, replaced, KINDS)
    return {
        "num": len(readings),
        "gate_admits": float(np.mean([r.is_admitted for r in readings])),
        "view": _beside(
            accuracy(views, [r.view_answer for r in readings]),
            accuracy(views, [r.view_replaced for r in readings]),
            majority_accuracy(views),
        ),
        "macro_f1": _beside(found.macro_f1, found_replaced.macro_f1, found.constant_macro_f1),
        "findings": {
            kind: {
                "f1": asdict(found.f1[kind]),
                "precision": asdict(found.precision[kind]),
                "recall": asdict(found.recall[kind]),
                "f1_replaced": found_replaced.f1[kind].value,
                "f1_constant": found.constant_f1[kind],
            }
            for kind in KINDS
        },
        "side": _beside(
            side_accuracy(truths, answers),
            side_accuracy(truths, replaced),
            majority_accuracy(_side_truths(truths)),
        ),
        "severity": _beside(
            severity_accuracy(truths, answers),
            severity_accuracy(truths, replaced),
            _majority_severity(truths),
        ),
        "yes_no": _beside(
            accuracy_by_sample(asked, [[q.answer for q in r.questions] for r in readings]),
            accuracy_by_sample(asked, [[q.answer_replaced for q in r.questions] for r in readings]),
            majority_accuracy([truth for truths_of_one in asked for truth in truths_of_one]),
        ),
        "exact_reports": float(np.mean([r.is_admitted and r.truth == r.answer for r in readings])),
    }


def swap_figures(readings: Sequence[SwapReading]) -> dict[str, Any]:
    """How often the answer follows the finding to the other side; mirrored pixels are told apart.

    Swapped means right on both films. On mirrored pixels heart and side marker are mirrored as well; a
    report should follow the picture, and one that declines the film does not.
    """
    if not readings:
        return {"num": 0}
    patients = [[r for r in readings if r.seed == seed] for seed in dict.fromkeys(r.seed for r in readings)]

    def share(follows: Callable[[SwapReading], bool]) -> dict[str, Any]:
        found = [["yes" if follows(r) else "no" for r in patient] for patient in patients]
        return asdict(accuracy_by_sample([["yes"] * len(patient) for patient in patients], found))

    return {
        "num": len(readings),
        "swapped": share(lambda r: (r.answered, r.answered_other_side) == (r.side, _OTHER[r.side])),
        "mirrored_pixels": share(lambda r: r.answered_mirrored_pixels == _OTHER[r.side]),
    }


class Target(NamedTuple):
    """A figure, the least or most it may be, and where it stands in the results."""

    name: str
    low: float | None
    value_of: Callable[[dict[str, Any]], float | None]


def _value(figure: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda results: results["test"][figure]["value"]["value"]


def _above_constant(figure: str) -> Callable[[dict[str, Any]], float | None]:
    def excess(results: dict[str, Any]) -> float | None:
        found = results["test"][figure]
        replaced, constant = found["replaced"]["value"], found["constant"]
        return None if replaced is None or constant is None else float(replaced - constant)

    return excess


def _refused_share(results: dict[str, Any]) -> float | None:
    films = results.get("real_films", {"num": 0})
    return films["num_refused"] / films["num"] if films["num"] else None


TARGETS = (
    Target("view accuracy", 0.99, _value("view")),
    Target("macro-F1 of presence", 0.95, _value("macro_f1")),
    Target("side", 0.97, _value("side")),
    Target("severity", 0.85, _value("severity")),
    Target("yes/no questions", 0.95, _value("yes_no")),
    Target("side follows the finding", 0.95, lambda results: results["swap"].get("swapped", {}).get("value")),
    Target("gate admits phantoms", 0.99, lambda results: results["test"]["gate_admits"]),
    *(
        Target(f"{name}: other image minus constant answer", None, _above_constant(figure))
        for name, figure in (
            ("view", "view"),
            ("macro-F1", "macro_f1"),
            ("side", "side"),
            ("severity", "severity"),
            ("yes/no", "yes_no"),
        )
    ),
    Target("gate refuses real films (--films)", 1.0, _refused_share),
)


def judge(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Each target with its value; without the image a figure may pass the constant answer by 0.05 at most."""
    return [_verdict(target, target.value_of(results)) for target in TARGETS]


def _verdict(target: Target, value: float | None) -> dict[str, Any]:
    if target.low is None:
        is_reached, bound = value is not None and value <= BLIND_MARGIN, f"<= {BLIND_MARGIN}"
    else:
        is_reached, bound = value is not None and value >= target.low, f">= {target.low}"
    return {"name": target.name, "value": value, "bound": bound, "is_reached": is_reached}


def _beside(estimate: Estimate, replaced: Estimate, constant: float | None) -> dict[str, Any]:
    return {"value": asdict(estimate), "replaced": asdict(replaced), "constant": constant}


def _side_truths(truths: Sequence[ReportLabels]) -> list[str]:
    """Of each sided finding, the side or sides: what a constant answer would be compared with."""
    sides = [{f.side for f in labels.of_kind(kind)} for labels in truths for kind in labels.kinds]
    return ["+".join(sorted(map(str, found))) for found in sides if None not in found]


def _majority_severity(truths: Sequence[ReportLabels]) -> float | None:
    """Accuracy of naming each kind's most frequent grade."""
    grades: dict[str, list[str]] = {}
    for finding in (finding for labels in truths for finding in labels.findings):
        if finding.severity:
            grades.setdefault(finding.kind, []).append(finding.severity)
    num = sum(map(len, grades.values()))
    right = sum(len(found) * (majority_accuracy(found) or 0.0) for found in grades.values())
    return right / num if num else None
