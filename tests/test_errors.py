"""Errors are sentences for a person, with a code for programs, and survive the way between processes."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_assistant import errors
from cxr_assistant.errors import CxrAssistantError, StudyError, UnsupportedModality

KINDS = [getattr(errors, name) for name in errors.__all__]
PACKAGE = Path(errors.__file__).parent


def classes_made_by(path: Path) -> Iterator[str]:
    """Names that are called in `path`, or stand in a row of the reader's table of refusals."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id
            if node.func.id == "_Line":
                yield from (argument.id for argument in node.args if isinstance(argument, ast.Name))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_crosses_a_process_boundary_whole(kind: type[CxrAssistantError]) -> None:
    error = kind("The film is blank.", hint="Export it again.", code="blank")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.message, copy.hint, copy.code) == (kind, error.message, error.hint, "blank")


def test_codes_are_unique_so_that_programs_can_tell_errors_apart() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(codes) == len(set(codes))


def test_the_tree_in_the_docstring_names_every_error() -> None:
    assert [name for name in errors.__all__ if name not in (errors.__doc__ or "")] == []


def test_an_error_reads_as_message_and_hint() -> None:
    assert str(UnsupportedModality("Modality is 'CT'.", hint="Export the radiograph.")) == (
        "Modality is 'CT'. Export the radiograph."
    )
    assert str(StudyError("It is empty.")) == "It is empty."


def test_every_error_is_made_by_the_code_of_the_project() -> None:
    sources = [path for path in PACKAGE.rglob("*.py") if path.name != "errors.py"]
    made = {name for path in sources for name in classes_made_by(path)}
    assert sorted(set(errors.__all__) - made) == ["CxrAssistantError"]  # the base alone has no sentence
