"""The conversation as markup: questions, answers, errors, and the state of the composer. Pure functions.

Everything that a person, a file or a model wrote passes through `escape` here, on the server, before it is
sent; no text is ever read as Markdown, LaTeX or HTML. Knows no Gradio.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from cxr_assistant.errors import ForeignImage, LicenceNotAccepted, MissingWeights
from cxr_assistant.fitting import EVERY_PART
from cxr_assistant.generation import FinishReason
from cxr_assistant.tasks import Task
from cxr_assistant.ui.exchange import Exchange, Phase, Problem, Remark, Truth
from cxr_assistant.ui.session import Session

if TYPE_CHECKING:
    from cxr_assistant.checkpoints.spec import Checkpoint, TaskWording

__all__ = ["chat_view", "log_item", "problem_card"]

MAX_FILLED = 2000  # as long as a question may be (chat.py)

# The chat --------------------------------------------------------------------------------------------


def chat_view(session: Session, checkpoint: Checkpoint, others: Sequence[Checkpoint]) -> dict[str, Any]:
    """All that the chat panel shows: the log as markup, the tasks' exact words, the composer's state."""
    has_film = not session.study.is_empty
    titles = {c.name: c.title for c in (checkpoint, *others)}
    return {
        "items": [
            {"key": str(item.number), "html": log_item(item, titles, others, is_last=item is session.log[-1])}
            for item in session.log
        ],
        "busy": session.open_exchange is not None,
        "ready": has_film,
        "study": session.study.radiographs[0].digest[:16] if has_film else "",
        "indication": session.study.indication,
        "tasks": _tasks(checkpoint, session),
        "welcome": _welcome(checkpoint, has_film=has_film) if not session.log else "",
        "placeholder": _placeholder(checkpoint, has_film=has_film),
    }


def _tasks(checkpoint: Checkpoint, session: Session) -> list[dict[str, Any]]:
    """The buttons: each task that this model was trained for, but free questions, which are typed."""
    has_prior = session.study.prior is not None
    return [
        {
            "task": task.value,
            "title": task.label,
            "prompt": (filled := _filled(task, wording, session)) or wording.prompt,
            "hint": wording.hint,
            "needs_text": wording.needs_text and not filled,
            "choices": list(wording.choices) if wording.needs_text else [],
        }
        for task, wording in checkpoint.tasks.items()
        if task is not Task.QUESTION and (has_prior or not wording.needs_prior)
    ]


def _filled(task: Task, wording: TaskWording, session: Session) -> str:
    """The words of a task that need nothing more from the person: an impression concludes the last
    answer, and a report section by section asks for every part."""
    if task is Task.SECTIONS and wording.needs_text and wording.choices:
        return wording.prompt.replace("{text}", EVERY_PART)
    findings = next((e.text for e in reversed(session.exchanges) if e.counts), "")
    if task is not Task.IMPRESSION or not wording.needs_text or not findings:
        return ""
    return wording.prompt.replace("{text}", findings)[:MAX_FILLED]


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


def log_item(
    item: Exchange | Remark, titles: dict[str, str], others: Sequence[Checkpoint], *, is_last: bool
) -> str:
    """One entry of the chat: a question with its answer, or a remark that no model wrote."""
    if isinstance(item, Remark):
        return problem_card(item.problem, others, is_error=item.is_error)
    return _question(item) + _answer(item, titles, others, is_last=is_last)


def _question(exchange: Exchange) -> str:
    label = exchange.task.label if exchange.task is not Task.QUESTION else "Question"
    edit = "" if exchange.is_open else '<button type="button" data-act="edit">Edit</button>'
    return (
        f'<div class="question" data-testid="user"><p class="who">You <span>{escape(label)}</span></p>'
        f'<p class="words">{_prose(exchange.prompt)}</p><div class="acts">{edit}</div></div>'
    )


def _answer(
    exchange: Exchange, titles: dict[str, str], others: Sequence[Checkpoint], *, is_last: bool
) -> str:
    who = escape(titles.get(exchange.checkpoint, exchange.checkpoint))
    notices = "".join(f'<p class="notice">{escape(notice.text)}</p>' for notice in exchange.notices)
    draft = (
        f'<div class="draft"><p class="who">{who} <span>draft</span></p>{notices}'
        f'<div class="words" data-testid="bot">{_prose(exchange.text)}{_pending(exchange)}</div>'
        f"{_boxes(exchange)}{_ending(exchange)}{_footer(exchange)}</div>"
    )
    body = _side_by_side(draft, exchange) if exchange.truth else draft
    problem = problem_card(exchange.problem, others, speaker=exchange.checkpoint) if exchange.problem else ""
    if exchange.problem and not exchange.text:
        body = notices + (_truth_card(exchange.truth) if exchange.truth else "")
    return f'<div class="answer">{body}{problem}{_actions(exchange, is_last=is_last)}</div>'


def _boxes(exchange: Exchange) -> str:
    """Each box of the answer in words; the viewer draws them."""
    if not exchange.groundings:
        return ""
    items = "".join(
        f"<li><b>{escape(g.phrase or 'Box')}</b> "
        f'<span class="mono">x {g.box.x_min:.2f} to {g.box.x_max:.2f}, '
        f"y {g.box.y_min:.2f} to {g.box.y_max:.2f}</span></li>"
        for g in exchange.groundings
    )
    return (
        f'<ul class="boxes" aria-label="Boxes on the film">{items}</ul>'
        '<div class="acts"><button type="button" data-act="boxes">Show on the film</button></div>'
    )


def _side_by_side(draft: str, exchange: Exchange) -> str:
    # The truth waits until the draft is written: nobody should read it first.
    if exchange.truth is None or exchange.is_open:
        return draft
    return f'<div class="beside">{draft}{_truth_card(exchange.truth)}</div>'


def _truth_card(truth: Truth) -> str:
    items = "".join(
        f"<li>{escape(f.words)}{'' if f.is_visible else ' <i>(below what can be seen)</i>'}</li>"
        for f in truth.findings
    )
    where = any(f.box for f in truth.findings)
    button = '<button type="button" data-act="boxes">Show on the film</button>' if where else ""
    return (
        f'<div class="truth"><p class="who">Truth <span>generator, seed {truth.seed}</span></p>'
        f"<ul>{items or '<li>No abnormal finding</li>'}</ul>"
        f'<p class="words">{_prose(truth.report)}</p>{button}</div>'
    )


def _pending(exchange: Exchange) -> str:
    words = {
        Phase.SENT: "Preparing",
        Phase.QUEUED: f"Waiting, {exchange.ahead} ahead of you"
        if exchange.ahead
        else "Waiting, you are next",
        Phase.READING: "Reading the film",
    }.get(exchange.phase)
    if words:
        return f'<span class="pending">{words}</span>'
    return '<span class="caret" aria-hidden="true"></span>' if exchange.is_open else ""


def _ending(exchange: Exchange) -> str:
    words = (
        {
            FinishReason.CANCELLED: "Stopped." if exchange.text else "Stopped before the first word.",
            FinishReason.LENGTH: "Cut off: the answer reached its longest allowed length.",
        }.get(exchange.finish_reason)
        if exchange.finish_reason
        else None
    )
    return f'<p class="ending">{words}</p>' if words else ""


def _footer(exchange: Exchange) -> str:
    """Who spoke, at which revision, how many tokens, how long: quiet, and always there."""
    if exchange.phase is not Phase.DONE:
        return ""
    usage, parts = exchange.usage, [escape(exchange.checkpoint)]
    if exchange.revision:
        parts.append(f'<span class="mono">{escape(exchange.revision[:7])}</span>')
    if usage.completion_tokens:
        parts.append(f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens".replace(",", " "))
        parts.append(f"{usage.total_s:.1f} s, first word {usage.time_to_first_token_s:.1f} s")
    return f'<p class="colophon">{" · ".join(parts)}</p>'


def _actions(exchange: Exchange, *, is_last: bool) -> str:
    if exchange.is_open:
        return ""
    copy = '<button type="button" data-act="copy">Copy</button>' if exchange.text else ""
    again = (
        '<button type="button" data-act="retry">Retry</button>'
        '<button type="button" data-act="undo">Undo</button>'
    )
    return f'<div class="acts">{copy}{again if is_last else ""}</div>'


def problem_card(
    problem: Problem, others: Sequence[Checkpoint] = (), *, is_error: bool = True, speaker: str = ""
) -> str:
    """An error or a remark: what happened, what to do, and where it helps a button that does it."""
    choices = ""
    if speaker and problem.code in (MissingWeights.code, LicenceNotAccepted.code):
        choices = f'<button type="button" data-plan="{escape(speaker)}">See what fetching takes</button>'
    if problem.code == ForeignImage.code:
        choices = "".join(
            f'<button type="button" data-model="{escape(c.name)}">Use {escape(c.title)}</button>'
            for c in others
            if not c.phantoms_only
        )
    hint = f"<p>{escape(problem.hint)}</p>" if problem.hint else ""
    role = ' role="alert"' if is_error else ""
    return (
        f'<div class="card{" is-error" if is_error else ""}" data-code="{escape(problem.code)}"{role}>'
        f'<p class="card-title">{escape(problem.message)}</p>{hint}<div class="acts">{choices}</div></div>'
    )


def _prose(text: str) -> str:
    """Text as it was written, line breaks kept, nothing in it interpreted."""
    return escape(text).replace("\n", "<br>")
