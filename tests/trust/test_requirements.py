"""Every security requirement has a test, and the table of them is the one that the tests make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.requirements import REQUIREMENTS, RESULTS, TABLE, find_tests, main, table

RUN = "run: python benchmarks/requirements.py --table"


def test_every_requirement_has_a_test() -> None:
    assert [name for name, tests in find_tests().items() if not tests] == []


def test_the_table_is_as_generated() -> None:
    results = json.loads(RESULTS.read_text())
    assert TABLE.read_text("utf-8") == table(find_tests(), results), RUN


def test_no_recorded_test_failed() -> None:
    results = json.loads(RESULTS.read_text())
    assert [name for name, result in results.items() if result["outcome"] != "passed"] == []


def test_marks_are_found_in_modules_and_on_functions(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_some.py").write_text(
        'pytestmark = [pytest.mark.slow, pytest.mark.requirement("U1")]\n'
        '@pytest.mark.requirement("U2", "P4")\ndef test_one(): ...\n'
        "def test_two(): ...\ndef helper(): ...\n"
    )
    found = {name: tests for name, tests in find_tests(tmp_path).items() if tests}
    one, two = "tests/test_some.py::test_one", "tests/test_some.py::test_two"
    assert found == {"U1": [one, two], "U2": [one], "P4": [one]}


def test_an_unknown_requirement_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_some.py").write_text('@pytest.mark.requirement("X9")\ndef test_one(): ...\n')
    with pytest.raises(KeyError, match="X9"):
        find_tests(tmp_path)


def test_a_row_tells_outcome_date_and_figures() -> None:
    tests = {name: [] for name in REQUIREMENTS} | {"U2": ["tests/test_a.py::test_b_c"]}
    result = {"outcome": "passed", "date": "2026-11-21", "figures": {"slowest": [0.91234, "s"]}}
    text = table(tests, {"tests/test_a.py::test_b_c": result})
    assert "| [b c](../tests/test_a.py) | passed 2026-11-21; slowest 0.912 s |" in text
    assert "| U1 | " in text and "| none |" in text


def test_the_command_needs_no_run_to_write_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.requirements.RESULTS", tmp_path / "r.json")
    monkeypatch.setattr("benchmarks.requirements.TABLE", tmp_path / "t.md")
    assert main(["--table"]) == 0
    assert (tmp_path / "t.md").read_text("utf-8").startswith("# Security requirements")
