"""What a checkpoint can do with a study: the part it reads, and a sentence for each part it does not.

It knows the declarations of checkpoints; it must not know who asks, or how an answer is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cxr_assistant.checkpoints.spec import Checkpoint, TaskWording
from cxr_assistant.conversation import Conversation, Role
from cxr_assistant.errors import GenerationError, MissingRadiograph, UnsupportedTask
from cxr_assistant.generation import Notice
from cxr_assistant.study import Radiograph, Study, ViewPosition
from cxr_assistant.tasks import Task

EVERY_PART = "each part in turn"
"""Stands where a part of the chest would, when all of them are asked for."""

__all__ = [
    "EVERY_PART",
    "deed",
    "fit_study",
    "in_words",
    "needs_findings_first",
    "put_in_words",
    "questions_of",
    "replace_last",
    "task_names",
    "task_on_films",
    "trained_for",
]


def fit_study(
    study: Study, checkpoint: Checkpoint, task: Task, *, shown: str = ""
) -> tuple[Study, tuple[Notice, ...]]:
    """The part of `study` that `checkpoint` reads for `task`, and a notice for whatever it does not.

    Where not all films can be read, the one in front of the person (`shown`, its digest) goes first, then the
    newest frontal and the newest lateral one; those that are read keep their order.
    """
    wording = checkpoint.tasks.get(task)
    if wording is not None and wording.most_images == 0:
        return replace(study, prior=None), _no_film_looked_at(study, checkpoint)
    if study.is_empty:
        raise MissingRadiograph(
            "There is no radiograph to look at yet.", hint="Add a chest radiograph first."
        )
    study, prior_notices = _fit_prior(study, checkpoint, task)
    readable = [r for r in study.radiographs if r.view in checkpoint.views or not r.view.is_lateral]
    if not readable:
        raise MissingRadiograph(
            f"{checkpoint.title} reads frontal radiographs; this study holds lateral ones only.",
            hint="Add the PA or AP radiograph of the study.",
        )
    used = _preferred(readable, _room(checkpoint, study, wording), shown)
    needed = 1 if wording is None else wording.num_images
    if len(used) + (1 if study.prior else 0) < needed:
        raise MissingRadiograph(
            f"To {deed(task)}, {needed} radiographs are needed; this study has fewer.",
            hint="Add another radiograph of the study.",
        )
    notices = _unused_films(study, used, checkpoint, shown)
    return replace(study, radiographs=used), (*notices, *prior_notices)


def _room(checkpoint: Checkpoint, study: Study, wording: TaskWording | None) -> int:
    """How many current films are read, beside the prior."""
    most = checkpoint.max_images if wording is None else wording.most_images or checkpoint.max_images
    return max(most - (1 if study.prior else 0), 1)


def _preferred(films: Sequence[Radiograph], room: int, shown: str = "") -> tuple[Radiograph, ...]:
    """At most `room` of `films`, in their own order."""
    newest = list(reversed(films))
    one_per_view = [
        *[r for r in newest if r.digest == shown],
        *[r for r in newest if not r.view.is_lateral][:1],
        *[r for r in newest if r.view.is_lateral][:1],
    ]
    chosen = list(dict.fromkeys([*one_per_view, *newest]))[:room]
    return tuple(r for r in films if r in chosen)


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
        films = study.prior.radiographs
        unused = () if len(films) == 1 else (_unused_priors(checkpoint, len(films)),)
        return replace(study, prior=replace(study.prior, radiographs=_preferred(films, 1))), (
            *stranger,
            *unused,
        )
    reason = (
        "this task looks at the current study"
        if checkpoint.supports_prior
        else "it was not trained to compare"
    )
    notice = Notice(f"The prior was not used by {checkpoint.title}: {reason}.", code="unused-prior")
    return replace(study, prior=None), (*stranger, notice)


def _unused_priors(checkpoint: Checkpoint, number: int) -> Notice:
    text = (
        f"{checkpoint.title} compares with one radiograph; of the {number} of the prior, the newest was used."
    )
    return Notice(text, code="unused-film")


def _no_film_looked_at(study: Study, checkpoint: Checkpoint) -> tuple[Notice, ...]:
    if study.is_empty:
        return ()
    text = f"{checkpoint.title} concludes from the findings in words here; no radiograph was looked at."
    return (Notice(text, code="unused-film"),)


def _unused_films(
    study: Study, used: Sequence[Radiograph], checkpoint: Checkpoint, shown: str
) -> tuple[Notice, ...]:
    """One sentence about laterals, one about all others that were not read."""
    unused = [r for r in study.radiographs if r not in used]
    if not unused:
        return ()
    reads = f"{checkpoint.title} reads {_num_films(len(used))}"
    notices = []
    if any(r.view.is_lateral for r in unused):
        frontal = "" if ViewPosition.LATERAL in checkpoint.views else "frontal "
        text = f"{reads.replace('radiograph', f'{frontal}radiograph')}; the lateral view was not used."
        notices.append(Notice(text, code="unused-lateral"))
    if any(not r.view.is_lateral for r in unused):
        notices.append(Notice(f"{reads}; {_which(study, used, shown)}.", code="unused-film"))
    return tuple(notices)


def _which(study: Study, used: Sequence[Radiograph], shown: str) -> str:
    """`this is about film 2 of 3, the one shown`."""
    numbers = [str(number) for number, r in enumerate(study.radiographs, 1) if r in used]
    films = f"film{'s' * (len(numbers) > 1)} {' and '.join(numbers)} of {len(study.radiographs)}"
    why = ", the one shown" if any(r.digest == shown for r in used) else ", the newest"
    return f"this is about {films}{why if len(used) == 1 else ''}"


def _num_films(number: int) -> str:
    return "one radiograph" if number == 1 else f"{number} radiographs"


def questions_of(conversation: Conversation, checkpoint: Checkpoint, task: Task) -> tuple[str, ...]:
    """The parts to ask for one after the other, where a report is wanted section by section and no part is
    named; empty where one question is asked."""
    wording = checkpoint.tasks.get(task)
    if task is not Task.SECTIONS or wording is None or not (wording.needs_text and wording.choices):
        return ()
    asked = _open_question(conversation)
    is_unnamed = _is_open(asked, wording) or asked == wording.prompt.replace("{text}", EVERY_PART)
    return wording.choices if is_unnamed else ()


def _is_open(asked: str, wording: TaskWording) -> bool:
    """True for nothing at all, or the task's words with nothing in their gap."""
    prompt = wording.prompt
    return asked in ("", prompt, prompt.replace("{text}", "").strip()) if wording.needs_text else not asked


def _open_question(conversation: Conversation) -> str:
    is_open = conversation.turns and conversation.turns[-1].role is Role.USER
    return conversation.last_question.strip() if is_open else ""


def put_in_words(conversation: Conversation, checkpoint: Checkpoint, task: Task) -> Conversation:
    """`conversation` ending in a question: the person's, or the checkpoint's own words for `task`."""
    wording, asked = checkpoint.tasks.get(task), _open_question(conversation)
    if asked and not (wording and _is_open(asked, wording)):
        return conversation
    if wording is None and task is not Task.QUESTION:
        raise UnsupportedTask(
            f"{checkpoint.title} has no words of its own to {deed(task)}; it has: {task_names(checkpoint)}.",
            hint="Choose one of these, or put the request into your own words.",
        )
    if wording is not None and task is Task.IMPRESSION and (findings := conversation.last_answer):
        return replace_last(conversation, wording.prompt.replace("{text}", findings))
    if wording is None or task is Task.QUESTION:
        raise GenerationError(
            "The question is empty.", hint="Write what you want to know.", code="empty_question"
        )
    if wording.needs_text:
        raise GenerationError(
            f"The question is empty: to {deed(task)}, {checkpoint.title} needs words of yours.",
            hint=f"Write them: {wording.hint[:1].lower()}{wording.hint[1:]}",
            code="empty_question",
        )
    return conversation.ask(wording.prompt)


def needs_findings_first(conversation: Conversation, checkpoint: Checkpoint, task: Task) -> bool:
    """True where an impression is wanted and nothing was said yet from which it could be concluded."""
    wording, asked = checkpoint.tasks.get(task), _open_question(conversation)
    if task is not Task.IMPRESSION or wording is None or not wording.needs_text:
        return False
    is_open = _is_open(asked, wording) and not conversation.last_answer
    return is_open and Task.FINDINGS in checkpoint.tasks


def task_on_films(conversation: Conversation, checkpoint: Checkpoint, task: Task) -> Task:
    """The task that decides which films are read."""
    return Task.FINDINGS if needs_findings_first(conversation, checkpoint, task) else task


def in_words(checkpoint: Checkpoint, task: Task, text: str = "") -> str:
    """The checkpoint's exact words around `text`, or `text` where it has none."""
    wording = checkpoint.tasks.get(task)
    if wording is None:
        return text
    return wording.prompt.replace("{text}", text) if wording.needs_text else text or wording.prompt


def replace_last(conversation: Conversation, question: str) -> Conversation:
    """`conversation` with `question` in the place of the one that is open, or after the last answer."""
    turns = conversation.turns
    is_open = bool(turns) and turns[-1].role is Role.USER
    return Conversation(turns[:-1] if is_open else turns).ask(question)


_DEEDS = {  # where the words on the button do not follow "to"
    Task.IMPRESSION: "write an impression",
    Task.REPORT: "write a report",
    Task.QUESTION: "answer questions",
    Task.DIFFERENTIAL: "write a differential diagnosis",
    Task.PROGRESSION: "compare with a prior",
}


def deed(task: Task) -> str:
    """What the task does, as it follows "to": `locate a phrase`."""
    return _DEEDS.get(task) or task.label[0].lower() + task.label[1:]


def task_names(checkpoint: Checkpoint) -> str:
    return ", ".join(task.value for task in checkpoint.tasks)


def trained_for(checkpoint: Checkpoint) -> str:
    """`findings on one frontal radiograph`."""
    frontal = "" if ViewPosition.LATERAL in checkpoint.views else "frontal "
    most = checkpoint.max_images
    films = f"one {frontal}radiograph" if most == 1 else f"up to {most} {frontal}radiographs"
    return f"{task_names(checkpoint)} on {films}"
