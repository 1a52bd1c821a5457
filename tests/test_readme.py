"""The README keeps its word: its commands run, its tables are fresh, its links lead somewhere."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks import tables
from benchmarks.tables import quality_table
from cxr_assistant.checkpoints.spec import get_checkpoint
from cxr_assistant.cli.main import _parser
from cxr_assistant.imaging.phantom import VISIBILITY, FindingKind
from cxr_assistant.ui.api import ENDPOINTS
from cxr_assistant.ui.programs import Box, Reply

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The subcommands of a parser by their names."""
    chosen = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(next(chosen, {}))


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """The long options of a command and of its own subcommands; every command has --help and --json."""
    own = {option for action in parser._actions for option in action.option_strings if len(option) > 2}
    below = (options_of(inner) for inner in commands_of(parser).values())
    return own.union(*below) - {"--help", "--json"}


def commands_in(text: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


@pytest.mark.parametrize("document", tables.DOCUMENTS, ids=lambda path: path.name)
def test_the_tables_are_as_generated(document: Path) -> None:
    text = document.read_text("utf-8")
    assert tables.with_tables(text) == text, "run: python benchmarks/tables.py"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_within_the_project_leads_to_a_file(document: Path) -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", document.read_text("utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_ci_runs_the_test_command_of_the_readme() -> None:
    (command,) = (line for line in commands_in(README) if "pytest" in line)
    assert command in (ROOT / ".ci" / "run").read_text("utf-8").splitlines()


def test_the_commands_of_the_readme_are_understood() -> None:
    ours = [line for line in commands_in(README) if line.startswith("python -m cxr_assistant")]
    assert len(ours) >= 3
    for line in ours:
        _parser().parse_args(shlex.split(line)[3:])


def test_the_python_example_of_the_readme_names_things_that_exist() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = re.findall(r"from cxr_assistant import (.*)", example)[0].split(", ")
    import cxr_assistant

    assert set(names) <= set(cxr_assistant.__all__)
    compile(example, "README.md", "exec")


def test_the_space_runs_the_door_with_the_gradio_of_the_tested_set() -> None:
    front_matter = README.split("---")[1]
    assert "app_file: app.py" in front_matter
    pinned = re.search(r"^gradio==(.*)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    assert pinned and f"sdk_version: {pinned[1]}" in front_matter


def test_every_requirement_is_in_the_tested_set() -> None:
    names = re.compile(r"^([A-Za-z0-9_-]+)[>=<]", re.MULTILINE)
    pinned = {
        n.lower().replace("_", "-") for n in names.findall((ROOT / "constraints.txt").read_text("utf-8"))
    }
    for file in ("requirements.txt", "requirements-dev.txt"):
        assert set(names.findall((ROOT / file).read_text("utf-8"))) <= pinned, file


def test_every_field_of_the_file_tree_exists() -> None:
    (tree,) = re.findall(r"```\n(app\.py .*?)```", README, re.DOTALL)
    listed = [name for line in tree.splitlines() for name in re.split(r"  +", line.strip())[0].split()]
    places = [ROOT, ROOT / "cxr_assistant"]
    assert [name for name in listed if not any((place / name).exists() for place in places)] == []


def test_the_file_tree_leaves_out_no_module() -> None:
    (tree,) = re.findall(r"```\n(app\.py .*?)```", README, re.DOTALL)
    tops = {path.name for path in (ROOT / "cxr_assistant").iterdir() if path.suffix == ".py" or path.is_dir()}
    told = {name.rstrip("/") for name in tree.split()}
    assert sorted(tops - told - {"__init__.py", "__main__.py", "__pycache__"}) == []


def test_the_command_line_is_documented_option_by_option() -> None:
    sections = re.split(r"^## ", (ROOT / "docs" / "cli.md").read_text("utf-8"), flags=re.MULTILINE)
    told = {section.split("\n", 1)[0]: section for section in sections}
    told["report"] += told["ask"]  # what both take stands once
    missing = [
        f"{name} {option}"
        for name, parser in commands_of(_parser()).items()
        for option in sorted(options_of(parser))
        if not re.search(rf"{option}(?![\w-])", told[name])
    ]
    assert missing == []


def test_the_api_is_documented_key_by_key() -> None:
    told = (ROOT / "docs" / "api.md").read_text("utf-8")
    keys = [field.name for kind in (Reply, Box) for field in fields(kind)]
    assert [name for name in keys if f"`{name}`" not in told] == []
    assert [name for name in ENDPOINTS if f"`/{name}`" not in told] == []


def test_every_setting_is_documented() -> None:
    declared = set(
        re.findall(r"CXR_[A-Z_]+[A-Z]", (ROOT / "cxr_assistant" / "settings.py").read_text("utf-8"))
    )
    told = README + (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert sorted(name for name in declared if name not in told) == []


def test_a_table_of_memory_shows_what_a_gpu_was_seen_to_hold() -> None:
    precisions = {"device": "a GPU", "nf4": {"device_peak_bytes": 5 * 1024**3}}
    table = tables.memory_table({"llava-rad": {"precisions": precisions}})
    assert "| `llava-rad` | 27.0 | 14.2 | 14.2 | 8.5 | 5.7, 5.0 |" in table
    assert "after the comma, what a GPU was seen to hold" in table
    assert "not yet measured on a GPU" in tables.memory_table({})


def test_the_figures_of_quality_are_those_of_the_committed_weights() -> None:
    results = json.loads(tables.QUALITY.read_text("utf-8"))
    assert results["revision"] == get_checkpoint("embedded").revision, "run: python benchmarks/quality.py"
    if tables.FRESH.exists():
        fresh = json.loads(tables.FRESH.read_text("utf-8"))
        assert fresh["revision"] == results["revision"], "run: python benchmarks/quality.py --fresh"
        for kind in ("test", "swap"):
            (first, last), (begin, end) = results["seeds"][kind], fresh["seeds"][kind]
            assert end <= first or last <= begin, "those are not fresh"


def test_the_figures_with_fainter_nodules_are_of_the_same_films_and_weights() -> None:
    results, faint = (json.loads(path.read_text("utf-8")) for path in (tables.QUALITY, tables.FAINT))
    assert faint["revision"] == results["revision"], "run: python benchmarks/quality.py --nodule-contrast ..."
    assert all(faint["seeds"][kind] == results["seeds"][kind] for kind in ("test", "swap"))
    shown, counted = (run["test"]["findings"]["nodule"]["f1"]["num"] for run in (results, faint))
    assert faint["nodule_contrast"] < VISIBILITY[FindingKind.NODULE].contrast and counted > shown


def test_a_quality_table_without_results_says_so() -> None:
    assert quality_table(None).startswith("Not measured yet")


def test_a_quality_table_marks_what_was_not_reached() -> None:
    estimate = {"value": 0.9, "low": 0.8, "high": 1.0, "num": 10, "num_unscored": 0}
    figure = {"value": estimate, "replaced": estimate | {"value": None}, "constant": 0.5}
    figures = {name: figure for name in ("view", "macro_f1", "side", "severity", "yes_no")}
    finding = {"f1": estimate, "f1_replaced": 0.1, "f1_constant": 0.2}
    results = {
        "revision": "a" * 40,
        "test": figures | {"num": 10, "gate_admits": 1.0, "findings": {"nodule": finding}},
        "unseen_anatomy": {"num": 0},
        "swap": {"num": 0},
        "real_films": {"num": 2, "num_refused": 2},
        "made_with": {"torch": "2", "transformers": "5"},
        "targets": [{"name": "side", "value": 0.9, "is_reached": False}],
    }
    table = quality_table(results)
    assert "| F1, nodule | 0.900 (0.800 to 1.000) | 0.100 | 0.200 | unscored |" in table
    assert "Targets not reached: side." in table
    assert "further phantoms" not in table
    again = results | {"swap": {"num": 7, "swapped": estimate | {"value": 0.625}}}
    followed = "follows in 0.625 (0.800 to 1.000) of 7 cases"
    assert followed not in table and f"{followed}. Targets not reached: side." in quality_table(
        results, again
    )
    unmeasured = again | {"targets": [{"name": "gate", "value": None, "is_reached": False}]}
    assert "Every target that was measured there is reached." in quality_table(results, unmeasured)
    assert quality_table(results, again | {"revision": "b" * 40}) == table, "of other weights"
    fainter = quality_table(results, faint=again | {"nodule_contrast": 0.05})
    assert "from 0.05 of the display range on, 10 of 10 films would show one: F1 0.900" in fainter
    assert followed in fainter
