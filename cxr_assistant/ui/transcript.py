"""All that the chat panel shows, as one value: the log, the tasks with their words, the composer's state.

Pure functions of a session and the menu; each entry is drawn by answers.py. Knows no Gradio.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from cxr_assistant.fitting import EVERY_PART
from cxr_assistant.tasks import Task
from cxr_assistant.ui.answers import Menu, comparison_entry, exchange_entry, problem_card
from cxr_assistant.ui.asking import MAX_PROMPT
from cxr_assistant.ui.decoding import LIMITS, longest_answer
from cxr_assistant.ui.exchange import Comparison, Exchange, Item
from cxr_assistant.ui.followups import Suggestion, suggest
from cxr_assistant.ui.guided import list_steps, words_of
from cxr_assistant.ui.session import Session

if TYPE_CHECKING:
    from cxr_assistant.checkpoints.spec import Checkpoint, TaskWording

__all__ = ["chat_view"]


def chat_view(
    session: Session, checkpoint: Checkpoint, others: Sequence[Checkpoint], ready: frozenset[str]
) -> dict[str, Any]:
    """What the panel needs; `ready` names the models that could answer at once."""
    has_film = not session.study.is_empty
    menu = {c.name: c for c in (checkpoint, *others)}
    return {
        "items": [{"key": str(item.number), "html": _entry(item, session, menu)} for item in session.log],
        "busy": session.open_item is not None,
        "ready": has_film,
        "study": session.study.radiographs[0].digest[:16] if has_film else "",
        "indication": session.study.indication,
        "tasks": _tasks(checkpoint, session),
        "welcome": _welcome(checkpoint, has_film=has_film) if not session.log else "",
        "placeholder": _placeholder(checkpoint, has_film=has_film),
        "model": {"name": checkpoint.name, "title": checkpoint.title},
        "rivals": [{"name": c.name, "title": c.title} for c in others if c.name in ready],
        "decoding": session.decoding.as_dict(),
        "limits": _limits(checkpoint),
    }


def _entry(item: Item, session: Session, menu: Menu) -> str:
    is_last = item is session.log[-1]
    match item:
        case Exchange():
            return exchange_entry(
                item, menu, is_last=is_last, suggestions=_suggestions(item, session, menu) if is_last else ()
            )
        case Comparison():
            return comparison_entry(item, menu, is_last=is_last)
    return problem_card(item.problem, menu, is_error=item.is_error)


def _suggestions(exchange: Exchange, session: Session, menu: Menu) -> tuple[Suggestion, ...]:
    """What the model that is chosen now could be asked next."""
    if not exchange.counts or session.checkpoint not in menu:
        return ()
    asked = frozenset(item.prompt for item in session.asked)
    return suggest(menu[session.checkpoint], session.study, exchange.text, asked)


def _limits(checkpoint: Checkpoint) -> dict[str, Any]:
    limits: dict[str, Any] = {
        name: {"min": low, "max": high, "step": step} for name, (low, high, step) in LIMITS.items()
    }
    limits["max_new_tokens"]["max"] = longest_answer(checkpoint)
    limits["max_new_tokens"]["usual"] = checkpoint.max_new_tokens
    return limits


# The tasks -------------------------------------------------------------------------------------------


def _tasks(checkpoint: Checkpoint, session: Session) -> list[dict[str, Any]]:
    """The buttons: each task that this model was trained for, but free questions, which are typed; and the
    whole report in steps, where there is one."""
    has_prior = session.study.prior is not None
    offered = [
        _task(task, wording, session)
        for task, wording in checkpoint.tasks.items()
        if task is not Task.QUESTION and (has_prior or not wording.needs_prior)
    ]
    return [*offered, *_in_steps(checkpoint), *_further(checkpoint)]


def _task(task: Task, wording: TaskWording, session: Session) -> dict[str, Any]:
    filled = _filled(task, wording, session)
    return {
        "task": task.value,
        "title": task.label,
        "prompt": filled or wording.prompt,
        "hint": wording.hint,
        "needs_text": wording.needs_text and not filled,
        "choices": list(wording.choices) if wording.needs_text else [],
    }


def _in_steps(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    steps = list_steps(checkpoint)
    if not steps:
        return []
    return [
        {
            "task": "steps",
            "title": "Report in steps",
            "prompt": ", ".join(step.title for step in steps),
            "detail": words_of(steps),
            "hint": "",
            "needs_text": False,
            "choices": [],
            "in_steps": True,
        }
    ]


def _further(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """One button for the requests of the training that have none of their own; each opens in the composer."""
    wording = checkpoint.tasks.get(Task.QUESTION)
    if wording is None or not wording.templates:
        return []
    forms = [{"title": _title_of(name), "prompt": prompt} for name, prompt in wording.templates]
    return [
        {
            "task": Task.QUESTION.value,
            "title": "Other requests",
            "prompt": ", ".join(form["title"] for form in forms),
            "hint": "",
            "needs_text": True,
            "choices": [],
            "forms": forms,
        }
    ]


def _title_of(name: str) -> str:
    """The authors' name of a request as words on a button."""
    return name.replace("_", " ").capitalize()


def _filled(task: Task, wording: TaskWording, session: Session) -> str:
    """The words of a task that need nothing more from the person: an impression concludes the findings
    that were described last, and a report section by section asks for every part."""
    if task is Task.SECTIONS and wording.needs_text and wording.choices:
        return wording.prompt.replace("{text}", EVERY_PART)
    findings = next((e.described for e in reversed(session.exchanges) if e.counts and e.described), "")
    if task is not Task.IMPRESSION or not wording.needs_text or not findings:
        return ""
    return wording.prompt.replace("{text}", findings)[:MAX_PROMPT]


# The empty chat --------------------------------------------------------------------------------------


def _welcome(checkpoint: Checkpoint, *, has_film: bool) -> str:
    lead = "The film is on the viewbox." if has_film else "Nothing is on the viewbox yet."
    lines = "".join(f"<li>{escape(line)}</li>" for line in checkpoint.can)
    return (
        f'<div class="welcome"><p class="lead">{lead}</p>'
        f"<p><b>{escape(checkpoint.title)}</b> can</p><ul>{lines}</ul>"
        f'<p class="fine-print">{escape(checkpoint.weakness)}</p></div>'
    )


def _placeholder(checkpoint: Checkpoint, *, has_film: bool) -> str:
    if not has_film:
        return "Add a film first"
    wording = checkpoint.tasks.get(Task.QUESTION)
    return wording.hint if wording and wording.hint else "Ask about this film"
