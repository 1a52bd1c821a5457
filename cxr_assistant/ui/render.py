"""Values -> markup: the frame of the page, the study and the synthetic patient; pure functions.

The chat is in transcript.py, the models are in cards.py.

Everything that a person, a file or a model wrote passes through `escape` here, on the server, before it is
sent; no text is ever read as Markdown, LaTeX or HTML. Knows no Gradio.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from cxr_assistant.study import Radiograph, ViewPosition
from cxr_assistant.ui.exchange import Truth
from cxr_assistant.ui.session import Session

__all__ = [
    "film_facts",
    "study_strip",
    "synthetic_form",
]

RIBBON = "Research preview. Not a medical device, not for clinical use."

_VIEWS = {
    ViewPosition.PA: "PA",
    ViewPosition.AP: "AP",
    ViewPosition.LATERAL: "Lateral",
    ViewPosition.UNKNOWN: "View not stated",
}

# The study -------------------------------------------------------------------------------------------


def film_facts(radiograph: Radiograph) -> str:
    """What is known of a film, in one line, from the whitelist of `Radiograph` alone."""
    facts = [
        _VIEWS[radiograph.view],
        f"{radiograph.width} × {radiograph.height}",
        f"{radiograph.bits_stored} bit",
    ]
    if radiograph.pixel_spacing_mm:
        facts.append(f"{radiograph.pixel_spacing_mm[0]:.3g} mm")
    origin = [radiograph.modality_code, radiograph.source]
    return " · ".join([*facts, *(part for part in origin if part)])


def film_description(radiograph: Radiograph, truth: Truth | None) -> str:
    """The film in words, for a screen reader; says no more than is known."""
    side = "The file does not state the patient's side." if radiograph.orientation is None else ""
    kind = "Synthetic chest radiograph" if truth or radiograph.is_marked_phantom else "Chest radiograph"
    view = _VIEWS[radiograph.view]
    return f"{kind}, {view}, {radiograph.width} by {radiograph.height} pixels. {side}".strip()


def study_strip(session: Session, thumbnail_urls: dict[str, str]) -> str:
    """The films of the study as thumbnails, what is known of the one shown, and what can be done."""
    films = "".join(
        _thumbnail(number, film, thumbnail_urls[film.digest], session)
        for number, film in enumerate(session.films, start=1)
    )
    shown = session.shown_film
    facts = f'<p class="facts">{_facts(shown, session.truth)}</p>' if shown else ""
    prior = _prior_button(session)
    add = '<button type="button" data-do="choose" class="add-film">Add film</button>'
    new = '<button type="button" data-do="new">New study</button>'
    hidden = "" if shown else " hidden"
    return (
        f'<section class="study-strip" aria-label="Study"{hidden}><div class="films">{films}{add}</div>'
        f'{facts}<div class="study-actions">{prior}{new}</div></section>'
    )


def _prior_button(session: Session) -> str:
    """Makes the film on the viewer the prior, or takes that back; a study needs a current film beside it."""
    if session.is_prior(session.shown):
        return f'<button type="button" data-current="{session.shown}">Not the prior</button>'
    if len(session.study.radiographs) > 1:
        return f'<button type="button" data-prior="{session.shown}">Use as prior</button>'
    return ""


def _thumbnail(number: int, film: Radiograph, url: str, session: Session) -> str:
    is_shown, is_prior = film.digest == session.shown, session.is_prior(film.digest)
    view = escape(_VIEWS[film.view]) + (", prior" if is_prior else "")
    badge = '<span class="badge" aria-hidden="true">Prior</span>' if is_prior else ""
    return (
        f'<div class="thumb{" is-shown" if is_shown else ""}">'
        f'<button type="button" data-show="{film.digest}" aria-pressed="{str(is_shown).lower()}" '
        f'aria-label="Show film {number}, {view}"><img src="{escape(url)}" alt="">{badge}</button>'
        f'<button type="button" class="remove" data-remove="{film.digest}" '
        f'aria-label="Remove film {number}">&times;</button></div>'
    )


def _facts(film: Radiograph, truth: Truth | None) -> str:
    remarks = list(film.notices)
    if film.orientation is None:
        remarks.append("Patient side not stated in the file: rely on the marker on the film.")
    lines = [f"<b>{escape(_VIEWS[film.view])}</b>"]
    if truth is not None:
        lines = [f"{lines[0]}, synthetic patient, seed {truth.seed}"]
    return "<br>".join([*lines, *(escape(remark) for remark in remarks)])


def synthetic_form(findings: Sequence[tuple[str, tuple[str, ...], tuple[str, ...]]]) -> str:
    """The panel that makes a synthetic patient; `findings` are (name, sides, severities)."""
    kinds = "".join(
        f'<option value="{escape(name)}" data-sides="{escape(" ".join(sides))}" '
        f'data-severities="{escape(" ".join(severities))}">{escape(_title(name))}</option>'
        for name, sides, severities in findings
    )
    fields = (
        '<label>Finding<select name="finding"><option value="">By chance</option>'
        f'<option value="none">No finding</option>{kinds}</select></label>',
        _select("side", "Side", []),
        _select("severity", "Severity", []),
        _select("view", "View", [("PA", "PA"), ("AP", "AP"), ("LATERAL", "Lateral")]),
        '<label>Seed<input name="seed" inputmode="numeric" pattern="[0-9]*" maxlength="9" '
        'placeholder="By chance" autocomplete="off"></label>',
    )
    return (
        '<details class="synthetic"><summary>Make a synthetic patient</summary><form>'
        '<p class="fine-print">A computed thorax whose findings are known for certain. '
        "The model drafts, then the generator tells the truth.</p>"
        f'<div class="fields">{"".join(fields)}</div>'
        '<button type="submit" class="primary">Make and draft findings</button></form></details>'
    )


def _select(name: str, title: str, options: Iterable[tuple[str, str]]) -> str:
    choices = "".join(f'<option value="{escape(value)}">{escape(words)}</option>' for value, words in options)
    return (
        f'<label>{title}<select name="{name}"><option value="">By chance</option>{choices}</select></label>'
    )


def _title(name: str) -> str:
    words = name.replace("-", " ")
    return words[0].upper() + words[1:]
