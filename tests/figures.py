"""Requirements and figures: which test holds which requirement, and what it measured.

`@pytest.mark.requirement("U1")` says that a test holds a requirement of docs/security-requirements.md; the
fixture `figure` takes down what it measured. With CXR_FIGURES_FILE set, a run writes all of it to that file;
`python benchmarks/requirements.py` does so and makes the table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

__all__ = ["figure", "pytest_runtest_logreport", "pytest_runtest_setup", "pytest_sessionfinish"]

Figure = Callable[[str, float, str], None]
_results: dict[str, dict[str, Any]] = {}


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """`figure("slowest file", 0.9, "s")`: of several parameters the largest value is kept."""

    def take_down(name: str, value: float, unit: str) -> None:
        request.node.user_properties.append(("figure", (name, float(value), unit)))

    return take_down


def pytest_runtest_setup(item: pytest.Item) -> None:
    ids = [name for mark in item.iter_markers("requirement") for name in mark.args]
    item.user_properties.append(("requirements", ids))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if not any(name == "requirements" and ids for name, ids in report.user_properties):
        return
    if report.when == "teardown" and report.passed:
        return
    entry = _results.setdefault(report.nodeid.split("[")[0], {"outcome": "skipped", "figures": {}})
    if report.failed:
        entry["outcome"] = "failed"
    elif report.when == "call" and report.passed and entry["outcome"] != "failed":
        entry["outcome"] = "passed"
    if report.when == "call":
        for _, (name, value, unit) in (p for p in report.user_properties if p[0] == "figure"):
            known = entry["figures"].get(name)
            entry["figures"][name] = [max(value, known[0]) if known else value, unit]


def pytest_sessionfinish() -> None:
    if target := os.environ.get("CXR_FIGURES_FILE"):
        Path(target).write_text(json.dumps(_results, indent=1))
