"""Many visitors at once: nothing but "busy" goes wrong, nothing grows, nothing stays behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.served import Load
from benchmarks.soak import Outcome, Plan, judge, soak
from tests.figures import Figure


def missed(figures: dict[str, Any], *unmeasured: str) -> dict[str, Any]:
    return {
        name: target
        for name, target in figures["targets"].items()
        if not target["is_reached"] and name not in unmeasured
    }


@pytest.mark.requirement("D1", "P6")
@pytest.mark.timeout(900)
def test_a_short_soak_meets_nothing_but_busy(tmp_path: Path, figure: Figure) -> None:
    plan = Plan(num_sessions=5, seconds=8, num_words=8, delay_ms=5, think_s=0.2, leave_s=1)
    figures = judge(plan, soak(plan, tmp_path), least_answers=1)
    # A few seconds are no time in which to see memory grow, a page lives on for a while after it was left,
    # and clocks mean little while others want the same cores.
    wrong = missed(figures, "rss_mb_per_1000_requests", "files_left", "refusal_p99_s", "descriptors_grown")
    assert wrong == {}, json.dumps(figures)
    figure("answers in the short soak", figures["answers"], "")


@pytest.mark.requirement("D1", "P6", "D4")
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_three_minutes_of_twenty_visitors(tmp_path: Path, figure: Figure) -> None:
    plan = Plan(num_sessions=20, seconds=180)
    figures = judge(plan, soak(plan, tmp_path / "hurried"))
    assert missed(figures, "refusal_p99_s") == {}, json.dumps(figures)
    if missed(figures):
        # Twenty who think for a second fill most of a core, and on a slower one whoever is refused waits for
        # them. What stops the server for a moment would still be seen among twenty who think for three.
        patient = Plan(num_sessions=20, seconds=60, think_s=3.0)
        slower = judge(patient, soak(patient, tmp_path / "patient"), least_answers=3)
        assert missed(slower, "rss_mb_per_1000_requests") == {}, json.dumps([figures, slower])
    for name, target in figures["targets"].items():
        figure(name.replace("_", " "), target["value"], "")


def an_outcome(rss_mb: list[int], num_requests: list[int]) -> Outcome:
    outcome = Outcome(num_files_left=0, num_files_after_stop=0)
    outcome.loads = [
        (float(n), count, Load(mb * 10**6, 10, 20))
        for n, (mb, count) in enumerate(zip(rss_mb, num_requests, strict=True))
    ]
    return outcome


def test_memory_that_grows_with_requests_is_found_and_warm_up_is_not() -> None:
    plan, requests = Plan(1, 1), list(range(0, 8000, 1000))
    steady = an_outcome([100, 200, 300, 300, 300, 300, 300, 300], requests)
    leaking = an_outcome([100, 200, 300, 400, 500, 600, 700, 800], requests)
    assert judge(plan, steady)["targets"]["rss_mb_per_1000_requests"]["is_reached"]
    found = judge(plan, leaking)["targets"]["rss_mb_per_1000_requests"]
    assert found["value"] == pytest.approx(100) and not found["is_reached"]


def test_a_session_that_got_few_answers_and_a_late_refusal_are_found() -> None:
    outcome = an_outcome([1] * 8, [1] * 8)
    outcome.answers.update({0: 12, 1: 9})
    outcome.refusals_s = [0.01] * 50 + [0.9]
    outcome.errors = ["ReadTimeout"]
    targets = judge(Plan(2, 1), outcome)["targets"]
    wrong = {name for name, target in targets.items() if not target["is_reached"]}
    assert wrong == {"sessions_below_answers", "refusal_p99_s", "errors"}


def test_a_soak_in_which_nobody_was_refused_says_nothing_about_refusals() -> None:
    found = judge(Plan(1, 1), an_outcome([1] * 8, [1] * 8))["targets"]["refusal_p99_s"]
    assert found["value"] is None and not found["is_reached"]
