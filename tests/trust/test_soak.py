"""Many visitors at once: nothing but "busy" goes wrong, nothing grows, nothing stays behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.served import Load
from benchmarks.soak import Outcome, Plan, judge, soak
from tests.figures import Figure

ALONE_S = 0.011


def missed(figures: dict[str, Any], *unmeasured: str) -> dict[str, Any]:
    return {
        name: target
        for name, target in figures["targets"].items()
        if not target["is_reached"] and name not in unmeasured
    }


def is_late(figures: dict[str, Any], load: float) -> bool:
    """Whether refusals took too long for this machine; `load` is its load average over its cores.

    The target is for a machine on which one visitor alone is refused in 11 ms; one that is up to twice as
    slow, or whose cores others want as well, may take longer in proportion. More is the app's own doing.
    """
    refusal, alone_s = figures["targets"]["refusal_p99_s"], figures["refusal_alone_s"]
    if refusal["value"] is None or alone_s is None:
        return True
    pace, crowd = min(max(1.0, alone_s / ALONE_S), 2.0), max(1.0, 2 * load)
    return bool(refusal["value"] > refusal["limit"] * max(pace, crowd))


@pytest.mark.parametrize(
    ("p99_s", "alone_s", "load", "late"),
    [
        (0.19, 0.011, 0.4, False),
        (0.21, 0.011, 0.4, True),
        (0.21, 0.013, 0.4, False),  # a slower machine
        (0.21, 0.011, 0.6, False),  # a busy one
        (0.45, 0.15, 0.4, True),  # refusals that are slow by themselves
        (None, 0.011, 0.4, True),
        (0.1, None, 0.4, True),
    ],
)
def test_what_is_late_depends_on_the_machine(
    p99_s: float | None, alone_s: float | None, load: float, late: bool
) -> None:
    figures = {"targets": {"refusal_p99_s": {"value": p99_s, "limit": 0.2}}, "refusal_alone_s": alone_s}
    assert is_late(figures, load) is late


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
    for attempt in ("first", "second"):  # another guest of the machine may be why it is late, but not twice
        figures = judge(plan, soak(plan, tmp_path / attempt))
        assert missed(figures, "refusal_p99_s") == {}, json.dumps(figures)
        if not (late := is_late(figures, os.getloadavg()[0] / (os.cpu_count() or 1))):
            break
    assert not late, json.dumps(figures)
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
