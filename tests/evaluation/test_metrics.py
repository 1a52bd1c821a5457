"""Figures by hand-counted examples and by properties that must hold for any sample."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_assistant.errors import EvaluationError
from cxr_assistant.evaluation.metrics import (
    FindingLabel,
    ReportLabels,
    accuracy,
    accuracy_by_sample,
    majority_accuracy,
    presence,
    severity_accuracy,
    side_accuracy,
)

KINDS = ("effusion", "nodule")
NOTHING = ReportLabels()


def labels(*findings: tuple[str, ...]) -> ReportLabels:
    return ReportLabels(frozenset(FindingLabel(*finding) for finding in findings))


EFFUSION = labels(("effusion", "left", "small"))


def test_f1_is_counted_as_by_hand() -> None:
    # effusion: 2 hits, 1 missed, 1 false alarm
    truths = [EFFUSION, EFFUSION, EFFUSION, NOTHING]
    answers = [EFFUSION, EFFUSION, NOTHING, EFFUSION]
    scores = presence(truths, answers, KINDS)
    assert scores.f1["effusion"].value == pytest.approx(2 * 2 / (3 + 3))
    assert scores.precision["effusion"].value == pytest.approx(2 / 3)
    assert scores.recall["effusion"].value == pytest.approx(2 / 3)


def test_answers_about_one_sample_are_right_or_wrong_together() -> None:
    right = [sample % 4 != 0 for sample in range(40)]
    truths = [["yes"] * 10 for _ in right]
    answers = [["yes" if is_right else None] * 10 for is_right in right]
    by_sample = accuracy_by_sample(truths, answers)
    by_answer = accuracy([t for ts in truths for t in ts], [a for row in answers for a in row])
    assert (by_sample.value, by_sample.num, by_sample.num_unscored) == (0.75, 400, 100)
    assert by_answer.value == 0.75
    widths = [e.high - e.low for e in (by_sample, by_answer) if e.high is not None and e.low is not None]
    assert widths[0] > 2 * widths[1]


def test_a_finding_that_never_occurs_is_unscored_and_counted() -> None:
    scores = presence([EFFUSION, NOTHING], [EFFUSION, NOTHING], KINDS)
    assert scores.f1["nodule"].value is None
    assert (scores.macro_f1.value, scores.macro_f1.num_unscored) == (1.0, 1)


def test_a_finding_that_is_never_reported_has_no_precision_and_an_f1_of_zero() -> None:
    scores = presence([EFFUSION, NOTHING], [NOTHING, NOTHING], KINDS)
    assert scores.precision["effusion"].value is None
    assert scores.f1["effusion"].value == 0.0


def test_a_perfect_reader_has_a_perfect_interval() -> None:
    scores = presence([EFFUSION, NOTHING] * 20, [EFFUSION, NOTHING] * 20, KINDS)
    macro = scores.macro_f1
    assert (macro.value, macro.low, macro.high) == (1.0, 1.0, 1.0)


def test_the_order_of_samples_does_not_change_a_figure() -> None:
    rng = np.random.default_rng(0)
    pool = [NOTHING, EFFUSION, labels(("nodule", "right", None))]
    truths = [pool[i] for i in rng.integers(3, size=60)]
    answers = [pool[i] for i in rng.integers(3, size=60)]
    order = rng.permutation(60)
    shuffled = presence([truths[i] for i in order], [answers[i] for i in order], KINDS)
    assert shuffled.macro_f1.value == pytest.approx(presence(truths, answers, KINDS).macro_f1.value)


def test_a_blind_reader_does_not_pass_the_constant_answer() -> None:
    rng = np.random.default_rng(1)
    truths = [EFFUSION if present else NOTHING for present in rng.random(4000) < 0.3]
    blind = [EFFUSION if said else NOTHING for said in rng.random(4000) < 0.3]
    scores = presence(truths, blind, ("effusion",))
    assert scores.f1["effusion"].value == pytest.approx(0.3, abs=0.03)
    assert scores.f1["effusion"].value < scores.constant_f1["effusion"]


def test_intervals_hold_the_truth_and_narrow_with_the_sample() -> None:
    rng = np.random.default_rng(2)
    widths = []
    for num in (100, 4_000):
        right = rng.random(num) < 0.9
        score = accuracy(["yes"] * num, ["yes" if r else "no" for r in right])
        assert score.low is not None and score.high is not None
        assert score.low <= 0.9 <= score.high
        widths.append(score.high - score.low)
    assert widths[1] < widths[0] / 4


def test_an_answer_that_is_not_understood_is_wrong_and_counted() -> None:
    score = accuracy(["yes", "no"], ["yes", None])
    assert (score.value, score.num, score.num_unscored) == (0.5, 2, 1)


def test_the_majority_answer_is_the_most_frequent_one() -> None:
    assert majority_accuracy(["no", "no", "yes"]) == pytest.approx(2 / 3)
    assert majority_accuracy([]) is None


def test_sides_are_compared_where_both_report_the_finding() -> None:
    truths = [EFFUSION, EFFUSION, EFFUSION, labels(("effusion", None))]
    answers = [EFFUSION, labels(("effusion", "right")), NOTHING, EFFUSION]
    score = side_accuracy(truths, answers)
    assert (score.value, score.num) == (0.5, 2)


def test_both_sides_must_be_named() -> None:
    both = labels(("effusion", "left"), ("effusion", "right"))
    assert side_accuracy([both], [both]).value == 1.0
    assert side_accuracy([both], [EFFUSION]).value == 0.0


def test_a_wrong_side_is_not_a_wrong_grade() -> None:
    other_side = labels(("effusion", "right", "small"))
    other_grade = labels(("effusion", "left", "large"))
    assert severity_accuracy([EFFUSION], [other_side]).value == 1.0
    assert severity_accuracy([EFFUSION], [other_grade]).value == 0.0
    assert severity_accuracy([EFFUSION], [NOTHING]).value is None


def test_two_grades_are_compared_side_by_side() -> None:
    both = labels(("effusion", "left", "small"), ("effusion", "right", "large"))
    swapped = labels(("effusion", "left", "large"), ("effusion", "right", "small"))
    assert severity_accuracy([both], [swapped]).value == 0.0


def test_an_empty_or_uneven_sample_is_refused() -> None:
    with pytest.raises(EvaluationError, match="nothing to score"):
        presence([], [], KINDS)
    with pytest.raises(EvaluationError, match="2 truths were given for 1 answers"):
        accuracy(["yes", "no"], ["yes"])
