"""Figures over structured answers: F1, accuracy, intervals, and the constant answer to beat.

It knows counts and chance only; it must not know who answered, or how text became labels. What cannot be
scored is None and counted, never a number; an answer that could not be understood counts as wrong.
"""

# S samples, K kinds of finding, D bootstrap draws

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cxr_assistant.errors import EvaluationError

__all__ = [
    "Estimate",
    "FindingLabel",
    "Presence",
    "ReportLabels",
    "accuracy",
    "accuracy_by_sample",
    "majority_accuracy",
    "presence",
    "severity_accuracy",
    "side_accuracy",
]

NUM_DRAWS = 1000
_LEVEL = (2.5, 97.5)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FindingLabel:
    """One finding as it was reported; None where the report says nothing about it."""

    kind: str
    side: str | None = None
    severity: str | None = None


@dataclass(frozen=True)
class ReportLabels:
    """All findings that one report affirms."""

    findings: frozenset[FindingLabel] = frozenset()

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(finding.kind for finding in self.findings)

    def of_kind(self, kind: str) -> frozenset[FindingLabel]:
        return frozenset(finding for finding in self.findings if finding.kind == kind)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its 95 % bootstrap interval over `num` cases; None when there was no case to score."""

    value: float | None
    low: float | None
    high: float | None
    num: int
    num_unscored: int = 0


@dataclass(frozen=True, kw_only=True)
class Presence:
    """Whether findings are reported when they are there, kind by kind and over all.

    `constant_f1` is the F1 of the best constant answer (always "present", 2p / (1 + p) at prevalence p;
    "never" scores 0), the floor that a model which does not look at the image cannot pass.
    """

    f1: dict[str, Estimate]
    precision: dict[str, Estimate]
    recall: dict[str, Estimate]
    macro_f1: Estimate
    constant_f1: dict[str, float]
    constant_macro_f1: float | None
    prevalence: dict[str, float] = field(default_factory=dict)


def presence(
    truths: Sequence[ReportLabels], answers: Sequence[ReportLabels], kinds: Sequence[str], *, seed: int = 0
) -> Presence:
    """Precision, recall and F1 of each of `kinds`; one that never occurs is unscored, not in the mean."""
    _require_pairs(truths, answers)
    truth_SK = np.array([[kind in labels.kinds for kind in kinds] for labels in truths], dtype=float)
    answer_SK = np.array([[kind in labels.kinds for kind in kinds] for labels in answers], dtype=float)
    weights_DS = _resamples(len(truths), seed)
    hits_SK = truth_SK * answer_SK
    counts = tuple(weights_DS @ part for part in (hits_SK, answer_SK, truth_SK))
    hits_DK, answered_DK, present_DK = counts
    f1_DK = _ratio(2 * hits_DK, answered_DK + present_DK)
    scored: NDArray[np.bool_] = np.asarray(truth_SK.any(axis=0))
    num_present = truth_SK.sum(axis=0).astype(int)
    prevalence = truth_SK.mean(axis=0)
    constant = {kind: float(2 * p / (1 + p)) for kind, p in zip(kinds, prevalence, strict=True)}

    def per_kind(values_DK: Floats) -> dict[str, Estimate]:
        return {
            kind: _estimate(values_DK[:, i] if scored[i] else None, int(num_present[i]))
            for i, kind in enumerate(kinds)
        }

    macro_D = _mean_over_kinds(f1_DK[:, scored]) if scored.any() else None
    return Presence(
        f1=per_kind(f1_DK),
        precision=per_kind(_ratio(hits_DK, answered_DK)),
        recall=per_kind(_ratio(hits_DK, present_DK)),
        macro_f1=_estimate(macro_D, len(truths), num_unscored=int((~scored).sum())),
        constant_f1=constant,
        constant_macro_f1=float(np.mean([constant[k] for k, s in zip(kinds, scored, strict=True) if s]))
        if scored.any()
        else None,
        prevalence={kind: float(p) for kind, p in zip(kinds, prevalence, strict=True)},
    )


def accuracy(truths: Sequence[str], answers: Sequence[str | None], *, seed: int = 0) -> Estimate:
    """Share of right answers; None is an answer that could not be understood: wrong, and counted."""
    _require_pairs(truths, answers)
    right = np.array([truth == answer for truth, answer in zip(truths, answers, strict=True)], dtype=float)
    return _share(right, np.ones(len(right)), seed, num_unscored=sum(answer is None for answer in answers))


def accuracy_by_sample(
    truths: Sequence[Sequence[str]], answers: Sequence[Sequence[str | None]], *, seed: int = 0
) -> Estimate:
    """As `accuracy`, of several answers about each sample: the interval is over samples, whose answers are
    right or wrong together, and not over answers."""
    _require_pairs(truths, answers)
    cases = [
        [t == a for t, a in zip(truth, answer, strict=True)]
        for truth, answer in zip(truths, answers, strict=True)
    ]
    return _share_of_cases(cases, seed, num_unscored=sum(a is None for answer in answers for a in answer))


def majority_accuracy(truths: Sequence[str]) -> float | None:
    """Accuracy of the best constant answer."""
    return Counter(truths).most_common(1)[0][1] / len(truths) if truths else None


def side_accuracy(
    truths: Sequence[ReportLabels], answers: Sequence[ReportLabels], *, seed: int = 0
) -> Estimate:
    """Of the findings with a side that both report, the share in which the side, or both sides, agree."""
    cases = [_side_cases(truth, answer) for truth, answer in _pairs(truths, answers)]
    return _share_of_cases(cases, seed)


def severity_accuracy(
    truths: Sequence[ReportLabels], answers: Sequence[ReportLabels], *, seed: int = 0
) -> Estimate:
    """Of the graded findings that both report, the share with the right grade.

    A finding is compared with the one of the same kind and side; when the answer has one of that kind only,
    with that one, so that a wrong side is not counted twice.
    """
    cases = [_severity_cases(truth, answer) for truth, answer in _pairs(truths, answers)]
    return _share_of_cases(cases, seed)


def _side_cases(truth: ReportLabels, answer: ReportLabels) -> list[bool]:
    cases = []
    for kind in sorted(truth.kinds & answer.kinds):
        sides = {finding.side for finding in truth.of_kind(kind)}
        if None not in sides:
            cases.append(sides == {finding.side for finding in answer.of_kind(kind)})
    return cases


def _severity_cases(truth: ReportLabels, answer: ReportLabels) -> list[bool]:
    cases = []
    for finding in truth.findings:
        candidates = answer.of_kind(finding.kind)
        if finding.severity is None or not candidates:
            continue
        same_side = {c for c in candidates if c.side == finding.side}
        compared = same_side or candidates
        if len(compared) == 1:
            cases.append(next(iter(compared)).severity == finding.severity)
    return cases


def _share_of_cases(cases: Sequence[Sequence[bool]], seed: int, num_unscored: int = 0) -> Estimate:
    right = np.array([sum(case) for case in cases], dtype=float)
    total = np.array([len(case) for case in cases], dtype=float)
    return _share(right, total, seed, num_unscored)


def _share(right_S: Floats, total_S: Floats, seed: int, num_unscored: int = 0) -> Estimate:
    num = int(total_S.sum())
    if num == 0:
        return Estimate(value=None, low=None, high=None, num=0, num_unscored=num_unscored)
    weights_DS = _resamples(len(total_S), seed)
    return _estimate(_ratio(weights_DS @ right_S, weights_DS @ total_S), num, num_unscored)


def _resamples(num_samples: int, seed: int) -> Floats:
    """(1 + D, S) weights: the sample itself first, then its bootstrap resamples."""
    if num_samples == 0:
        raise EvaluationError("There is nothing to score.", hint="Give at least one sample.")
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(num_samples, np.full(num_samples, 1 / num_samples), size=NUM_DRAWS)
    return np.vstack([np.ones(num_samples), drawn]).astype(float)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient; NaN, which is left out later, where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def _mean_over_kinds(values_DK: Floats) -> Floats:
    # A rare kind can be absent from a resample: the mean of that draw is over the others.
    is_there = ~np.isnan(values_DK)
    return _ratio(np.where(is_there, values_DK, 0.0).sum(axis=1), is_there.sum(axis=1).astype(float))


def _estimate(values_D: Floats | None, num: int, num_unscored: int = 0) -> Estimate:
    """The first value is the figure, the rest are its bootstrap draws."""
    if values_D is None or np.isnan(values_D[0]):
        return Estimate(value=None, low=None, high=None, num=num, num_unscored=num_unscored)
    low, high = np.nanpercentile(values_D[1:], _LEVEL)
    return Estimate(
        value=float(values_D[0]), low=float(low), high=float(high), num=num, num_unscored=num_unscored
    )


def _pairs(
    truths: Sequence[ReportLabels], answers: Sequence[ReportLabels]
) -> list[tuple[ReportLabels, ReportLabels]]:
    _require_pairs(truths, answers)
    return list(zip(truths, answers, strict=True))


def _require_pairs(truths: Sequence[object], answers: Sequence[object]) -> None:
    if len(truths) != len(answers):
        raise EvaluationError(f"{len(truths)} truths were given for {len(answers)} answers.")
