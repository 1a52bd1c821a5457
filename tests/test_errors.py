"""Errors are sentences for a person, with a code for programs, and survive the way between processes."""

from __future__ import annotations

import pickle

import pytest

from cxr_assistant import errors
from cxr_assistant.errors import CxrAssistantError, StudyError, UnsupportedModality

KINDS = [getattr(errors, name) for name in errors.__all__]


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
