"""One entry of the conversation as markup: a question, its answer or two of them, what stands under it.

Everything that a person, a file or a model wrote passes through `escape` here, on the server, before it is
sent; no text is ever read as Markdown, LaTeX or HTML. Pure functions; knows no Gradio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from cxr_assistant.errors import ForeignImage, LicenceNotAccepted, MissingWeights
from cxr_assistant.generation import FinishReason, Grounding, SamplingParams
from cxr_assistant.tasks import Task
from cxr_assistant.ui.exchange import Comparison, Exchange, Phase, Problem, Step, Truth, Verdict

if TYPE_CHECKING:
    from cxr_assistant.checkpoints.spec import Checkpoint
    from cxr_assistant.ui.followups import Suggestion

__all__ = ["comparison_entry", "decoding_words", "exchange_entry", "problem_card"]

Menu = Mapping[str, "Checkpoint"]


def exchange_entry(
    exchange: Exchange, menu: Menu, *, is_last: bool, suggestions: Sequence[Suggestion] = ()
) -> str:
    """A question and its answer; the last one can be retried, taken back and followed up."""
    title = menu[exchange.checkpoint].title if exchange.checkpoint in menu else exchange.checkpoint
    body = _draft(exchange, title)
    if exchange.truth and not exchange.is_open:  # nobody should read the truth first
        body = f'<div class="beside">{body}{_truth_card(exchange.truth)}</div>'
    problem = problem_card(exchange.problem, menu, speaker=exchange.checkpoint) if exchange.problem else ""
    if exchange.problem and not exchange.text:
        body = _notices(exchange) + (_truth_card(exchange.truth) if exchange.truth else "")
    acts = "" if exchange.is_open else _acts(_copy(exchange), is_last=is_last)
    label = "Report in steps" if exchange.steps else _label(exchange.task)
    return (
        f"{_question(exchange, label, can_edit=not exchange.steps)}"
        f'<div class="answer">{body}{problem}{acts}{_suggestions(suggestions)}</div>'
    )


def comparison_entry(comparison: Comparison, menu: Menu, *, is_last: bool) -> str:
    """One question and two answers; while it is veiled, nothing in it tells who wrote which."""
    names = ("A", "B") if comparison.is_blind else ("", "")
    sides = "".join(
        _side(side, name, menu, is_veiled=comparison.is_veiled)
        for side, name in zip(comparison.sides, names, strict=True)
    )
    truth = comparison.sides[0].truth
    shows_truth = truth and not comparison.is_open and not comparison.is_veiled
    acts = "" if comparison.is_open else _acts("", is_last=is_last)
    label = f"{_label(comparison.task)}, {'two models unnamed' if comparison.is_blind else 'two models'}"
    given, asked = (
        ("", _ballot(comparison)) if comparison.verdict is None else (_verdict(comparison, menu), "")
    )
    return (
        f"{_question(comparison, label, can_edit=True)}"
        f'<div class="answer">{given}<div class="pair">{sides}</div>{asked}'
        f"{_truth_card(truth) if truth and shows_truth else ''}{acts}</div>"
    )


# The question ----------------------------------------------------------------------------------------


def _question(item: Exchange | Comparison, label: str, *, can_edit: bool) -> str:
    edit = '<button type="button" data-act="edit">Edit</button>' if can_edit and not item.is_open else ""
    return (
        f'<div class="question" data-testid="user"><p class="who">You <span>{escape(label)}</span></p>'
        f'<p class="words">{_prose(item.prompt)}</p><div class="acts">{edit}</div></div>'
    )


def _label(task: Task) -> str:
    return task.label if task is not Task.QUESTION else "Question"


# The answer ------------------------------------------------------------------------------------------


def _draft(exchange: Exchange, title: str, *, is_veiled: bool = False, copy: str = "") -> str:
    what = "" if is_veiled else _notices(exchange)
    words = _steps(exchange) if exchange.steps else _words(exchange) + _pending(exchange, title)
    foot = "" if is_veiled else _colophon(exchange)
    return (
        f'<div class="draft"><p class="who">{escape(title)} <span>draft</span></p>{what}'
        f'<div class="words" data-testid="bot" lang="en">{words}</div>'
        f"{_boxes(exchange)}{_ending(exchange)}{foot}{copy}</div>"
    )


def _side(exchange: Exchange, name: str, menu: Menu, *, is_veiled: bool) -> str:
    known = menu[exchange.checkpoint].title if exchange.checkpoint in menu else exchange.checkpoint
    title = name if is_veiled else f"{name}: {known}" if name else known
    if exchange.problem and is_veiled:  # what is wrong would tell who it is
        return (
            f'<div class="draft"><p class="who">{escape(title)}</p>'
            '<p class="ending">This model could not answer.</p></div>'
        )
    problem = problem_card(exchange.problem, menu, speaker=exchange.checkpoint) if exchange.problem else ""
    if exchange.problem and not exchange.text:
        return f'<div class="draft"><p class="who">{escape(title)}</p>{_notices(exchange)}{problem}</div>'
    copy = "" if exchange.is_open else f'<div class="acts">{_copy(exchange)}</div>'
    return _draft(exchange, title, is_veiled=is_veiled, copy=copy) + problem


def _words(exchange: Exchange) -> str:
    """The answer; a phrase that has a box is a button, once nothing moves any more."""
    if exchange.is_open or not exchange.groundings:
        return _prose(exchange.text)
    html, end, lowered = "", 0, exchange.text.lower()
    for number, grounding in enumerate(exchange.groundings):
        start = lowered.find(grounding.phrase.lower(), end) if grounding.phrase else -1
        if start < 0 or len(lowered) != len(exchange.text):
            continue
        html += _prose(exchange.text[end:start])
        end = start + len(grounding.phrase)
        html += _box_button(grounding, number, exchange.text[start:end], "phrase")
    return html + _prose(exchange.text[end:])


def _box_button(grounding: Grounding, number: int, words: str, kind: str) -> str:
    box = grounding.box
    corners = f"{box.x_min:.6g},{box.y_min:.6g},{box.x_max:.6g},{box.y_max:.6g}"
    return (
        f'<button type="button" class="{kind}" data-box="{corners}" data-index="{number}" '
        f'data-label="{escape(grounding.phrase)}" data-film="{escape(grounding.digest)}" '
        f'title="Show on the film">{_prose(words)}</button>'
    )


def _boxes(exchange: Exchange) -> str:
    """Each box of the answer in words; the viewer draws them."""
    if not exchange.groundings:
        return ""
    items = "".join(
        f"<li>{_box_button(g, number, g.phrase or f'Box {number + 1}', 'box')} "
        f'<span class="mono">x {g.box.x_min:.2f} to {g.box.x_max:.2f}, '
        f"y {g.box.y_min:.2f} to {g.box.y_max:.2f}</span></li>"
        for number, g in enumerate(exchange.groundings)
    )
    return (
        f'<ul class="boxes" aria-label="Boxes on the film">{items}</ul>'
        '<div class="acts"><button type="button" data-act="boxes">Show on the film</button></div>'
    )


def _steps(exchange: Exchange) -> str:
    """The steps of a report, those to come included; what was measured is told from what a model wrote."""
    current = exchange.current_step
    return '<ol class="steps">' + "".join(_step(s, exchange, s is current) for s in exchange.steps) + "</ol>"


def _step(step: Step, exchange: Exchange, is_current: bool) -> str:
    is_running = is_current and exchange.is_open
    state = "is-running" if is_running else "is-done" if step.has_begun else "is-to-come"
    measured = "".join(f"<span>{_prose(remark)}</span> " for remark in step.remarks) if step.has_begun else ""
    remarks = f'<p class="measured">{measured}</p>' if measured else ""
    caret = '<span class="caret" aria-hidden="true"></span>' if is_running else ""
    words = f"<p>{_prose(step.text.strip())}{caret}</p>" if step.text or is_running else ""
    return f'<li class="step {state}"><h4>{escape(step.title)}</h4>{remarks}{words}</li>'


def _pending(exchange: Exchange, title: str) -> str:
    ahead = exchange.ahead
    words = {
        Phase.SENT: "Preparing",
        Phase.LOADING: f"Loading {title} into memory: the first answer takes longer",
        Phase.QUEUED: f"Waiting, {ahead} ahead of you" if ahead else "Waiting, you are next",
        Phase.READING: "Reading the film",
    }.get(exchange.phase)
    if words:
        return f'<span class="pending">{escape(words)}</span>'
    return '<span class="caret" aria-hidden="true"></span>' if exchange.is_open else ""


def _notices(exchange: Exchange) -> str:
    return "".join(f'<p class="notice">{escape(notice.text)}</p>' for notice in exchange.notices)


def _ending(exchange: Exchange) -> str:
    words = {
        FinishReason.CANCELLED: "Stopped." if exchange.text else "Stopped before the first word.",
        FinishReason.LENGTH: "Cut off: the answer reached its longest allowed length.",
    }
    reason = exchange.finish_reason
    return f'<p class="ending">{words[reason]}</p>' if reason in words else ""


# Under the answer ------------------------------------------------------------------------------------


def decoding_words(params: SamplingParams) -> str:
    """How the tokens were chosen, in a few words."""
    if params.is_greedy:
        return "greedy"
    top_p = f", top-p {params.top_p:g}" if params.top_p < 1 else ""
    return f"temperature {params.temperature:g}{top_p}, seed {params.seed}"


def _colophon(exchange: Exchange) -> str:
    """Who spoke, how, how many tokens and how long: one quiet line, and behind it all that it takes to get
    the same answer again."""
    if exchange.phase is not Phase.DONE:
        return ""
    usage, parts = exchange.usage, [escape(exchange.checkpoint)]
    if exchange.revision:
        parts.append(f'<span class="mono">{escape(exchange.revision[:7])}</span>')
    if usage.completion_tokens:
        parts.append(escape(decoding_words(exchange.params)))
        parts.append(f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens".replace(",", " "))
        parts.append(f"{usage.total_s:.1f} s, first word {usage.time_to_first_token_s:.1f} s")
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{_prose(value)}</dd>" for name, value in _record(exchange))
    return (
        f'<details class="colophon"><summary>{" · ".join(parts)}</summary><dl>{rows}</dl>'
        '<button type="button" data-act="record">Copy this record</button></details>'
    )


def _record(exchange: Exchange) -> list[tuple[str, str]]:
    """What one needs to get this answer again, in the order in which one would need it."""
    params, usage = exchange.params, exchange.usage
    rows = [
        (
            "Model",
            f"{exchange.checkpoint} @ {exchange.revision}" if exchange.revision else exchange.checkpoint,
        ),
        ("Precision", exchange.precision),
        ("Task", exchange.task.value),
        ("Prompt", exchange.prompt),
        ("Decoding", f"{decoding_words(params)}, at most {params.max_new_tokens} tokens"),
        ("Films (SHA-256)", "\n".join(digest[:16] for digest in exchange.films)),
        ("Film and preprocessing", "\n".join(digest[:16] for digest in exchange.inputs)),
        ("Tokens read again", str(usage.reused_tokens) if usage.reused_tokens else ""),
    ]
    return [(name, value) for name, value in rows if value]


def _suggestions(suggestions: Sequence[Suggestion]) -> str:
    if not suggestions:
        return ""
    buttons = "".join(
        f'<button type="button" data-suggest="{escape(s.task.value)}" data-prompt="{escape(s.prompt)}" '
        f'title="{escape(s.prompt)}">{escape(s.title)}</button>'
        for s in suggestions
    )
    return f'<div class="follow-ups" role="group" aria-label="What could be asked next">{buttons}</div>'


def _copy(exchange: Exchange) -> str:
    return '<button type="button" data-act="copy">Copy</button>' if exchange.text else ""


def _acts(copy: str, *, is_last: bool) -> str:
    again = (
        '<button type="button" data-act="retry">Retry</button>'
        '<button type="button" data-act="undo">Undo</button>'
    )
    return f'<div class="acts">{copy}{again if is_last else ""}</div>'


def _verdict(comparison: Comparison, menu: Menu) -> str:
    """What was voted for, and a way to go on with it."""
    winner, verdict = comparison.winner, comparison.verdict
    if winner is None or winner.checkpoint not in menu:
        said, choice = _UNDECIDED.get(verdict, "") if verdict else "", ""
    else:
        title, name = menu[winner.checkpoint].title, escape(winner.checkpoint)
        said = f"You preferred {title}."
        choice = f'<button type="button" data-model="{name}">Go on with {escape(title)}</button>'
    return f'<div class="verdict is-given"><p tabindex="-1">{escape(said)}</p>{choice}</div>'


def _ballot(comparison: Comparison) -> str:
    """The vote of a blind comparison, once there is something to vote on."""
    if not comparison.is_blind or comparison.is_open:
        return ""
    options = list(Verdict) if comparison.can_be_judged else [Verdict.NONE]
    buttons = "".join(
        f'<button type="button" data-verdict="{verdict.value}">{escape(verdict.label)}</button>'
        for verdict in options
    )
    ask = "Which answer is better?" if len(options) > 1 else "There are no two answers to choose from."
    return f'<div class="verdict" role="group" aria-label="{ask}"><p>{ask}</p>{buttons}</div>'


_UNDECIDED = {
    Verdict.TIE: "You called it a tie.",
    Verdict.BOTH_BAD: "You found both bad.",
    Verdict.NONE: "Revealed without a vote.",
}


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


def problem_card(
    problem: Problem, menu: Menu | None = None, *, is_error: bool = True, speaker: str = ""
) -> str:
    """An error or a remark: what happened, what to do, and where it helps a button that does it."""
    choices = ""
    if speaker and problem.code in (MissingWeights.code, LicenceNotAccepted.code):
        choices = f'<button type="button" data-plan="{escape(speaker)}">See what fetching takes</button>'
    if problem.code == ForeignImage.code:
        choices = "".join(
            f'<button type="button" data-model="{escape(c.name)}">Use {escape(c.title)}</button>'
            for c in (menu or {}).values()
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
