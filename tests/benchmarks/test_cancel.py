"""How the benchmark of cancelling judges, and what its last run found."""

from __future__ import annotations

import json

import pytest

from benchmarks.cancel import LIMITS_MS, RESULT, ROWS, judged, percentile


def test_the_slowest_hundredth_is_held_against_the_limit_of_its_moment() -> None:
    rows = judged({"stop, waiting": [10.0] * 98 + [101.0] * 2, "stop, decode": [10.0] * 98 + [101.0] * 2})
    assert not rows["stop, waiting"]["is_within"] and rows["stop, decode"]["is_within"]
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0


@pytest.mark.requirement("D3")
def test_no_cancel_was_lost_or_late_in_the_last_run() -> None:
    rows = json.loads(RESULT.read_text())["rows"]
    assert set(rows) == set(ROWS)
    for name, row in rows.items():
        assert row["rounds"] >= 100 and row["p99_ms"] <= LIMITS_MS[name.split(", ")[1]], name
