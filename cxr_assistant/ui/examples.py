"""The bundled examples: synthetic studies that the empty room offers, as `examples/studies.json` lists them.

Knows the list's format and nothing else: films are read like any upload, when somebody opens one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cxr_assistant.errors import SettingsError
from cxr_assistant.settings import PROJECT_ROOT
from cxr_assistant.ui.precomputed import Precomputed, read_answers

__all__ = ["Example", "read_examples"]


@dataclass(frozen=True)
class Example:
    """One study of the list, by the title under which it is offered, and what was asked about it before."""

    title: str
    films: tuple[Path, ...]
    answers: tuple[Precomputed, ...] = ()


def read_examples(folder: Path = PROJECT_ROOT / "examples") -> tuple[Example, ...]:
    """The examples of `folder`, whose `studies.json` gives the file names of each title.

    None when there is no list. Raises SettingsError for a list that makes no sense.
    """
    listing = folder / "studies.json"
    if not listing.is_file():
        return ()
    try:
        entries = json.loads(listing.read_text(encoding="utf-8")).items()
        answers = read_answers(folder)
        return tuple(
            Example(str(title), tuple(folder / name for name in names), answers.get(str(title), ()))
            for title, names in entries
        )
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise SettingsError(
            "The list of examples cannot be read: it gives the file names of each title.",
            hint="Compare examples/studies.json with the repository.",
        ) from error
