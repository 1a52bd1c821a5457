"""A report in steps: what the film is, then each part that the model was trained to write, then a conclusion.

Knows what a checkpoint declares and what can be measured on a film; asks nothing itself (chat.py). Measured
remarks are told apart from a model's words: they stand in `Step.remarks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cxr_assistant.imaging.rendering import render_for_people
from cxr_assistant.study import Radiograph, Study, ViewPosition
from cxr_assistant.tasks import Task
from cxr_assistant.ui.exchange import Step

if TYPE_CHECKING:
    from cxr_assistant.checkpoints.spec import Checkpoint

__all__ = ["FINDINGS_SLOT", "film_remarks", "list_steps", "plan_report", "words_of"]

FINDINGS_SLOT = "{findings}"
"""Stands in a prompt where the words of the earlier steps go."""

_SMALL_PX = 512
_BLUNT = 0.04  # share of the middle that lies at one end of the grey scale: more is no lung and no marker
_FLAT = 0.09  # standard deviation of the displayed middle, of 0 to 1
_NARROW = 0.10  # share of the film that a crop may take before it is worth a word


def list_steps(checkpoint: Checkpoint) -> tuple[Step, ...]:
    """The steps of a report by `checkpoint`, the view and the film's quality first; none where it was trained
    to describe nothing."""
    described = _describing_steps(checkpoint)
    if not described:
        return ()
    view = checkpoint.tasks.get(Task.VIEW)
    first = Step("View and quality", Task.VIEW, view.prompt if view else "")
    return (first, *described, *_conclusion(checkpoint))


def plan_report(checkpoint: Checkpoint, study: Study, shown: str = "") -> tuple[Step, ...]:
    """The steps for one study, with what was measured on its film (by digest the one that is shown, else the
    frontal one) in the first of them."""
    steps = list_steps(checkpoint)
    if not steps or study.is_empty:
        return ()
    in_front = next((film for film in study.radiographs if film.digest == shown), None)
    remarks = film_remarks(in_front or study.frontal or study.radiographs[0], checkpoint)
    return (replace(steps[0], remarks=remarks), *steps[1:])


def words_of(steps: Sequence[Step]) -> str:
    """The exact words of every step that asks something, a line each."""
    words = (step.prompt.replace(FINDINGS_SLOT, "(the findings above)") for step in steps if step.prompt)
    return "\n".join(words)


def film_remarks(film: Radiograph, checkpoint: Checkpoint) -> tuple[str, ...]:
    """What the file states and its pixels show of view and quality, in sentences; no model is asked."""
    stated = {
        ViewPosition.UNKNOWN: "The file does not state the view.",
        ViewPosition.LATERAL: "Lateral view, as the file states.",
    }.get(film.view, f"{film.view.value} view, as the file states.")
    return (stated, _size(film), *_grey(film), *_cut(film, checkpoint))


def _describing_steps(checkpoint: Checkpoint) -> tuple[Step, ...]:
    sections = checkpoint.tasks.get(Task.SECTIONS)
    if sections is not None and sections.choices:
        return tuple(
            Step(part.split(" (")[0], Task.SECTIONS, sections.prompt.replace("{text}", part))
            for part in sections.choices
        )
    for task, title in ((Task.FINDINGS, "Findings"), (Task.REPORT, "Report")):
        wording = checkpoint.tasks.get(task)
        if wording is not None and not wording.needs_text:
            return (Step(title, task, wording.prompt),)
    return ()


def _conclusion(checkpoint: Checkpoint) -> tuple[Step, ...]:
    wording = checkpoint.tasks.get(Task.IMPRESSION)
    if wording is None:
        return ()
    return (Step("Impression", Task.IMPRESSION, wording.prompt.replace("{text}", FINDINGS_SLOT)),)


def _size(film: Radiograph) -> str:
    size = f"{film.width} × {film.height} pixels, {film.bits_stored} bit"
    return f"{size}: small for a radiograph." if min(film.width, film.height) < _SMALL_PX else f"{size}."


def _grey(film: Radiograph) -> tuple[str, ...]:
    """Whether the middle of the film, as it is displayed, is washed out or burnt out."""
    height, width = film.height, film.width
    step = max(min(height, width) // 256, 1)
    top, left = height // 5, width // 5
    middle = render_for_people(film)[top : height - top : step, left : width - left : step]
    said = [
        f"{share:.0%} of its middle is pure {name}."
        for name, share in (
            ("black", float((middle <= 0.0).mean())),
            ("white", float((middle >= 1.0).mean())),
        )
        if share > _BLUNT
    ]
    if float(np.std(middle)) < _FLAT:
        said.append("Low contrast.")
    return tuple(said) or ("Grey scale and contrast are in the usual range.",)


def _cut(film: Radiograph, checkpoint: Checkpoint) -> tuple[str, ...]:
    lost = 1 - min(film.width, film.height) / max(film.width, film.height)
    if not checkpoint.image.resize.cuts_ends or lost < _NARROW:
        return ()
    ends = "top and bottom" if film.height > film.width else "sides"
    return (f"{checkpoint.title} does not see the outer {lost / 2:.0%} at its {ends}.",)
