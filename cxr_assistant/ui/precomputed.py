"""Answers that the examples bring along: computed beforehand by a named revision, and always said to be.

Knows the list's format and how a session grows; knows no film and no markup. An answer of another revision
than the one on the menu is stale and is not shown.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_assistant.errors import SettingsError
from cxr_assistant.generation import Completed, FinishReason, Notice, TextDelta, Usage
from cxr_assistant.tasks import Task
from cxr_assistant.ui.session import Session

__all__ = ["ANSWERS_FILE", "Precomputed", "film_digests", "read_answers", "recall"]

ANSWERS_FILE = "answers.json"
LABEL = "Computed beforehand by {checkpoint} at revision {revision}, not now. Ask again to have it computed."


@dataclass(frozen=True)
class Precomputed:
    """One question about an example, and what a model answered."""

    task: Task
    prompt: str
    text: str
    finish_reason: FinishReason
    checkpoint: str
    revision: str


def read_answers(folder: Path) -> dict[str, tuple[Precomputed, ...]]:
    """The answers of `folder` by the title of their example; none where there is no list, and none for films
    that have changed since. Raises SettingsError for a list that makes no sense.
    """
    listing = folder / ANSWERS_FILE
    if not listing.is_file():
        return {}
    try:
        said = json.loads(listing.read_text(encoding="utf-8"))
        return {
            str(title): tuple(_answer(answer, said) for answer in entry["answers"])
            for title, entry in said["examples"].items()
            if entry["films"] == film_digests(folder / name for name in entry["films"])
        }
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise SettingsError(
            "The answers of the examples cannot be read.", hint="Run: python examples/make_answers.py"
        ) from error


def film_digests(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file by its name; a file that is not there has none."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "" for p in paths}


def recall(
    session: Session, answers: Iterable[Precomputed], revision_of: Callable[[str], str | None]
) -> Session:
    """The session after these answers, each under its label; stale ones are left out."""
    for answer in answers:
        if revision_of(answer.checkpoint) != answer.revision:
            continue
        label = LABEL.format(checkpoint=answer.checkpoint, revision=answer.revision[:7])
        session = session.ask(answer.task, answer.prompt, checkpoint=answer.checkpoint)
        for event in (
            Notice(label, code="precomputed"),
            TextDelta(answer.text),
            Completed(answer.finish_reason, Usage(), answer.checkpoint, answer.revision),
        ):
            session = session.heard(event)
    return session


def _answer(answer: dict[str, Any], said: dict[str, Any]) -> Precomputed:
    return Precomputed(
        task=Task(answer["task"]),
        prompt=str(answer["prompt"]),
        text=str(answer["text"]),
        finish_reason=FinishReason(answer["finish_reason"]),
        checkpoint=str(said["checkpoint"]),
        revision=str(said["revision"]),
    )
