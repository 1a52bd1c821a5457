"""What a checkpoint can do with a study: the part it reads, and a sentence for each part it does not.

It knows the declarations of checkpoints; it must not know who asks, or how an answer is computed.
"""

from __future__ import annotations

from dataclasses import replace

from cxr_assistant.checkpoints.spec import Checkpoint
from cxr_assistant.conversation import Conversation, Role
from cxr_assistant.errors import GenerationError, MissingRadiograph, UnsupportedTask
from cxr_assistant.generation import Notice
from cxr_assistant.study import Radiograph, Study
from cxr_assistant.tasks import Task

EVERY_PART = "each part in turn"
"""Stands where a part of the chest would, when all of them are asked for."""

__all__ = ["EVERY_PART", "deed", "fit_study", "put_in_words", "questions_of", "task_names"]


def fit_study(study: Study, checkpoint: Checkpoint, task: Task) -> tuple[Study, tuple[Notice, ...]]:
    """The part of `study` that `checkpoint` reads for `task`, and a notice for each film it does not."""
    if study.is_empty:
        raise MissingRadiograph(
            "There is no radiograph to look at yet.", hint="Add a chest radiograph first."
        )
    study, prior_notices = _fit_prior(study, checkpoint, task)
    room = max(checkpoint.max_images - (1 if study.prior else 0), 1)
    readable = [r for r in study.radiographs if r.view in checkpoint.views or not r.view.is_lateral]
    if not readable:
        raise MissingRadiograph(
            f"{checkpoint.title} reads frontal radiographs; this study holds lateral ones only.",
            hint="Add the PA or AP radiograph of the study.",
        )
    frontal_first = sorted(readable, key=lambda r: r.view.is_lateral)
    used = frontal_first[:room] if len(readable) > room else readable
    needed = checkpoint.tasks[task].num_images if task in checkpoint.tasks else 1
    if len(used) + (1 if study.prior else 0) < needed:
        raise MissingRadiograph(f"To {deed(task)}, {needed} radiographs are needed; this study has fewer.")
    unused = [r for r in study.radiographs if r not in used]
    notices = tuple(_unused_film(r, checkpoint) for r in unused)
    return replace(study, radiographs=tuple(used)), (*notices, *prior_notices)


def _fit_prior(study: Study, checkpoint: Checkpoint, task: Task) -> tuple[Study, tuple[Notice, ...]]:
    if study.prior is None:
        if task is Task.PROGRESSION:
            raise MissingRadiograph(
                "A comparison needs a prior radiograph; this study has none.",
                hint="Add the earlier film as prior.",
            )
        return study, ()
    stranger: tuple[Notice, ...] = ()
    if study.prior_is_of_another_patient:
        text = (
            "The prior carries another patient identifier than the current study: check that it belongs here."
        )
        stranger = (Notice(text, code="stranger-prior"),)
    if checkpoint.supports_prior and task is Task.PROGRESSION:
        frontal = study.prior.frontal or study.prior.radiographs[0]
        return replace(study, prior=replace(study.prior, radiographs=(frontal,))), stranger
    reason = (
        "this task looks at the current study"
        if checkpoint.supports_prior
        else "it was not trained to compare"
    )
    unused = Notice(f"The prior was not used by {checkpoint.title}: {reason}.", code="unused-prior")
    return replace(study, prior=None), (*stranger, unused)


def _unused_film(radiograph: Radiograph, checkpoint: Checkpoint) -> Notice:
    count = "one radiograph" if checkpoint.max_images == 1 else f"{checkpoint.max_images} radiographs"
    if radiograph.view.is_lateral:
        kind = (
            count
            if radiograph.view in checkpoint.views
            else count.replace("radiograph", "frontal radiograph")
        )
        return Notice(
            f"{checkpoint.title} reads {kind}; the lateral view was not used.", code="unused-lateral"
        )
    return Notice(f"{checkpoint.title} reads {count}; a further film was not used.", code="unused-film")


def questions_of(conversation: Conversation, checkpoint: Checkpoint, task: Task) -> tuple[str, ...]:
    """The parts to ask for one after the other, where a report is wanted section by section and no part is
    named; empty where one question is asked."""
    wording = checkpoint.tasks.get(task)
    if task is not Task.SECTIONS or wording is None or not (wording.needs_text and wording.choices):
        return ()
    asked = _open_question(conversation)
    unnamed = ("", wording.prompt, wording.prompt.replace("{text}", EVERY_PART))
    return wording.choices if asked in unnamed else ()


def _open_question(conversation: Conversation) -> str:
    is_open = conversation.turns and conversation.turns[-1].role is Role.USER
    return conversation.last_question.strip() if is_open else ""


def put_in_words(conversation: Conversation, checkpoint: Checkpoint, task: Task) -> Conversation:
    """`conversation` ending in a question: the person's, or the checkpoint's own words for `task`."""
    wording, asked = checkpoint.tasks.get(task), _open_question(conversation)
    if asked and not (wording and wording.needs_text and asked == wording.prompt):  # its gap was left open
        return conversation
    if wording is None and task is not Task.QUESTION:
        raise UnsupportedTask(
            f"{checkpoint.title} has no words of its own to {deed(task)}; it has: {task_names(checkpoint)}.",
            hint="Choose one of these, or put the request into your own words.",
        )
    if wording is None or wording.needs_text:
        raise GenerationError(
            "The question is empty.", hint="Write what you want to know.", code="empty_question"
        )
    return conversation.ask(wording.prompt)


def deed(task: Task) -> str:
    return task.label[0].lower() + task.label[1:]


def task_names(checkpoint: Checkpoint) -> str:
    return ", ".join(task.value for task in checkpoint.tasks)
