"""The cards of the models and the sheet on which one is fetched, as markup. Pure functions of their input.

Knows what a checkpoint declares and what is on this machine; everything it shows passes through `escape`.
Knows no Gradio.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from cxr_assistant.ui.answers import problem_card
from cxr_assistant.ui.fetching import FetchPhase, FetchView

if TYPE_CHECKING:
    from cxr_assistant.checkpoints.spec import Checkpoint
    from cxr_assistant.models.precision import Fit

__all__ = ["Shelf", "fetch_sheet", "model_menu"]

Fits = tuple["Fit", ...]


@dataclass(frozen=True)
class Shelf:
    """What is on this machine: models that need no fetching, whether others may be fetched, what fits."""

    ready: frozenset[str] = frozenset()
    may_fetch: bool = True
    fits: Mapping[str, Fits] = field(default_factory=dict)
    precision: str = ""  # what the person asked for; empty is the best that fits


def model_menu(checkpoints: Sequence[Checkpoint], chosen: str, shelf: Shelf) -> str:
    """The model that speaks, and behind it the cards of all that can be chosen."""
    current = next(c for c in checkpoints if c.name == chosen)
    cards = "".join(_model_card(c, shelf, is_chosen=c.name == chosen) for c in checkpoints)
    return (
        '<details class="model-menu"><summary><span class="label">Model</span> '
        f"<b>{escape(current.title)}</b>{_phantom_tag(current)}</summary>"
        f'<div class="model-cards" role="group" aria-label="Models">{cards}</div></details>'
    )


def fetch_sheet(view: FetchView | None, checkpoint: Checkpoint | None, fits: Fits) -> dict[str, Any]:
    """The sheet as markup, and beside it what changes while it runs: how far, and in which words."""
    if view is None or checkpoint is None:
        return {"html": "", "fraction": None, "sentence": ""}
    progress = view.progress
    return {
        "html": _sheet(view, checkpoint, fits),
        "fraction": progress.fraction if progress and progress.total_bytes else None,
        "sentence": progress.sentence if progress else "Asking for the files",
    }


def _model_card(checkpoint: Checkpoint, shelf: Shelf, *, is_chosen: bool) -> str:
    licence, name = checkpoint.licence, escape(checkpoint.name)
    precision = shelf.precision if is_chosen else ""
    use = '<span class="chosen">In use</span>' if is_chosen else ""
    if not is_chosen and checkpoint.name in shelf.ready:
        use = f'<button type="button" data-model="{name}">Use this model</button>'
    return (
        f'<article class="model-card{" is-chosen" if is_chosen else ""}">'
        f"<header><h3>{escape(checkpoint.title)}{_phantom_tag(checkpoint)}</h3>{use}</header>"
        f"<p>{escape(checkpoint.summary)}</p>"
        f'<div class="abilities">{_bullets("Can", "can", checkpoint.can)}'
        f"{_bullets('Cannot', 'cannot', checkpoint.cannot)}</div>"
        f'<p class="weakness"><b>Known weakness.</b> {escape(checkpoint.weakness)}</p>'
        f"{_absence(checkpoint, shelf)}"
        f"{_precision_choice(checkpoint, shelf.fits.get(checkpoint.name, ()), precision)}"
        f'<p class="fine-print">{_size(checkpoint)} · {escape(licence.name)}: {escape(licence.terms)}<br>'
        f'<span class="mono">{escape(checkpoint.repository)} @ {escape(checkpoint.revision[:12])}</span></p>'
        "</article>"
    )


def _absence(checkpoint: Checkpoint, shelf: Shelf) -> str:
    """What can be done about weights that are not there."""
    if checkpoint.name in shelf.ready:
        return ""
    if not shelf.may_fetch:
        return '<p class="absent">Not on this server. Its owner adds the models.</p>'
    return (
        '<p class="absent">Not on this computer yet. '
        f'<button type="button" data-plan="{escape(checkpoint.name)}">See what fetching takes</button></p>'
    )


def _precision_choice(checkpoint: Checkpoint, fits: Fits, asked: str) -> str:
    """What each precision needs against what is free, as a choice; nothing for a model that fits anywhere."""
    if checkpoint.is_embedded or not fits:
        return ""
    options = "".join(
        f'<option value="{escape(fit.precision)}"{" selected" if fit.precision == asked else ""}'
        f"{'' if fit.is_possible else ' disabled'}>{escape(fit.sentence)}{_verdict(fit)}</option>"
        for fit in fits
    )
    name = escape(checkpoint.name)
    return (
        f'<label class="precision">Precision <select data-precision="{name}" aria-label="Precision of '
        f'{escape(checkpoint.title)}"><option value="">the best that fits</option>{options}</select></label>'
    )


def _verdict(fit: Fit) -> str:
    return "" if fit.fits or not fit.is_possible else ": does not fit"


# The sheet -------------------------------------------------------------------------------------------


def _sheet(view: FetchView, checkpoint: Checkpoint, fits: Fits) -> str:
    title = escape(checkpoint.title)
    body = {
        FetchPhase.OFFERED: _offer,
        FetchPhase.RUNNING: _running,
        FetchPhase.READY: _ready,
        FetchPhase.FAILED: _failed,
    }[view.phase](view, checkpoint, fits)
    close = '<button type="button" data-do="close" aria-label="Close">&times;</button>'
    is_running = view.phase is FetchPhase.RUNNING
    return (
        f'<section class="fetch" role="dialog" aria-label="Fetch {title}" tabindex="-1">'
        f"<header><h3>{title}</h3>{'' if is_running else close}</header>{body}</section>"
    )


def _offer(view: FetchView, checkpoint: Checkpoint, fits: Fits) -> str:
    licence = checkpoint.licence
    fetch = "Accept the licence and fetch" if licence.needs_acceptance else "Fetch"
    verb = "Accept the licence" if view.is_here else fetch
    lines = "".join(f"<li>{escape(fit.sentence)}{_verdict(fit)}</li>" for fit in fits if fit.is_possible)
    memory = f'<h4>Memory of this computer</h4><ul class="fits">{lines}</ul>' if lines else ""
    return (
        f"<p>{escape(view.plan)}.</p>{memory}"
        f"<h4>Licence</h4><p><b>{escape(licence.name)}</b>: {escape(licence.terms)}{_link(licence.url)}</p>"
        f'<div class="choices"><button type="button" class="primary" data-fetch="{escape(checkpoint.name)}">'
        f'{verb}</button><button type="button" data-do="close">Not now</button></div>'
    )


def _running(view: FetchView, checkpoint: Checkpoint, fits: Fits) -> str:
    return (
        f'<progress max="1" aria-label="Fetching {escape(checkpoint.title)}"></progress>'
        '<p class="progress-words"></p>'
        '<p class="fine-print">Keep this page open. If it is cut off, the next try goes on from there.</p>'
        '<div class="choices"><button type="button" class="stop" data-do="stop">Cancel</button></div>'
    )


def _ready(view: FetchView, checkpoint: Checkpoint, fits: Fits) -> str:
    return (
        '<p role="status">Ready on this computer.</p><div class="choices">'
        f'<button type="button" class="primary" data-model="{escape(checkpoint.name)}">'
        "Use this model</button></div>"
    )


def _failed(view: FetchView, checkpoint: Checkpoint, fits: Fits) -> str:
    card = problem_card(view.problem) if view.problem else ""
    again = f'<button type="button" data-plan="{escape(checkpoint.name)}">Try again</button>'
    return f'{card}<div class="choices">{again}</div>'


def _link(url: str) -> str:
    if not url.startswith("https://"):
        return ""
    return f' <a href="{escape(url)}" target="_blank" rel="noopener noreferrer">Read it in full</a>.'


# Pieces ----------------------------------------------------------------------------------------------


def _phantom_tag(checkpoint: Checkpoint) -> str:
    return ' <span class="tag">synthetic films only</span>' if checkpoint.phantoms_only else ""


def _bullets(title: str, kind: str, lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="{kind}"><h4>{title}</h4><ul>{items}</ul></div>'


def _size(checkpoint: Checkpoint) -> str:
    millions = checkpoint.num_parameters / 1e6
    size = f"{millions / 1000:.1f} billion" if millions >= 1000 else f"{millions:.0f} million"
    return f"{size} parameters"
