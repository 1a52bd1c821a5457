"""What the viewer and the row of thumbnails are told: a session and its hanging as plain values.

Pure functions; every word that they send is put on the page as text, never read as markup. Knows no Gradio,
and of a film nothing but the whitelist of `Radiograph`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cxr_assistant.imaging.rendering import Rendering
from cxr_assistant.study import Radiograph, Study, ViewPosition
from cxr_assistant.ui.exchange import Truth
from cxr_assistant.ui.hanging import Hanging
from cxr_assistant.ui.session import Session
from cxr_assistant.ui.viewer.film import describe

if TYPE_CHECKING:
    from cxr_assistant.checkpoints.spec import Checkpoint
    from cxr_assistant.imaging.model_view import Frame

__all__ = ["Fate", "days_apart", "film_description", "film_facts", "film_title", "strip_view", "viewer_view"]

UrlOf = Callable[[Radiograph, str], str]  # a film and "pixels", "thumbnail" or "as-seen-by-<checkpoint>"
FrameOf = Callable[[Radiograph, str], "Frame"]

_VIEWS = {
    ViewPosition.PA: "PA",
    ViewPosition.AP: "AP",
    ViewPosition.LATERAL: "Lateral",
    ViewPosition.UNKNOWN: "View not stated",
}
_RENDERINGS = {
    Rendering.DISPLAY: "as displayed",
    Rendering.STRUCTURE: "as displayed, with maps of lines and blobs",
    Rendering.MIMIC_CXR_JPG: "histogram equalised",
}


@dataclass(frozen=True)
class Fate:
    """What became of one file of an upload, by its place in it: the name stays in the browser."""

    outcome: str  # "added", "already" or "refused"
    reason: str

    def as_dict(self) -> dict[str, str]:
        return {"outcome": self.outcome, "reason": self.reason}


# The viewer ------------------------------------------------------------------------------------------


def viewer_view(
    session: Session, hanging: Hanging, checkpoint: Checkpoint, *, url_of: UrlOf, frame_of: FrameOf
) -> dict[str, Any]:
    """The films that hang, with their presets, overlays and words, from left to right."""
    films = [film for digest in hanging.panes if (film := session.film(digest))]
    return {
        "panes": [
            {
                "film": _film(session, film, checkpoint, url_of=url_of, frame_of=frame_of),
                "boxes": _boxes(session, film.digest),
            }
            for film in films
        ],
        "active": hanging.active,
        "canPair": len(session.films) > 1,
        "tick": session.counter,
    }


def _film(
    session: Session, film: Radiograph, checkpoint: Checkpoint, *, url_of: UrlOf, frame_of: FrameOf
) -> dict[str, Any]:
    return {
        **describe(film),
        "id": film.digest,
        "url": url_of(film, "pixels"),
        "title": film_title(session.study, film),
        "facts": film_facts(film),
        "description": film_description(film, session.truth),
        "model": _as_seen(film, checkpoint, url_of=url_of, frame_of=frame_of),
    }


def _as_seen(film: Radiograph, checkpoint: Checkpoint, *, url_of: UrlOf, frame_of: FrameOf) -> dict[str, Any]:
    frame, spec = frame_of(film, checkpoint.name), checkpoint.image
    percent = round(100 * frame.cut_off)
    lost = f"{max(1, percent)} % of the film is cut off" if frame.cut_off > 0 else "nothing is cut off"
    return {
        "title": checkpoint.title,
        "words": f"{spec.size_px} × {spec.size_px} pixels, {_RENDERINGS[spec.rendering]}; {lost}",
        "frame": list(frame),
        "url": url_of(film, f"as-seen-by-{checkpoint.name}"),
    }


def _boxes(session: Session, digest: str) -> list[dict[str, Any]]:
    """What is known of a synthetic film, then what the newest answer with boxes says of this film; `index`
    counts the boxes of that answer."""
    known = session.truth.findings if session.truth else ()
    truth = [{**f.box.as_dict(), "label": f.words, "by": "truth"} for f in known if f.box]
    return truth + [
        {**g.box.as_dict(), "label": g.phrase, "by": "model", "index": index}
        for index, g in session.groundings_on(digest)
    ]


# The row of thumbnails -------------------------------------------------------------------------------


def strip_view(
    session: Session, hanging: Hanging, *, url_of: UrlOf, fates: Sequence[Fate] = ()
) -> dict[str, Any]:
    """The films as thumbnails in their order, what is known of the one shown, and what can be done."""
    films, shown = hanging.films(session), session.film(hanging.shown)
    return {
        "films": [_thumbnail(n, film, session, hanging, url_of) for n, film in enumerate(films, start=1)],
        "facts": _facts(session, shown) if shown else [],
        "actions": _actions(session, shown) if shown else [],
        "fates": [fate.as_dict() for fate in fates],
    }


def _thumbnail(
    number: int, film: Radiograph, session: Session, hanging: Hanging, url_of: UrlOf
) -> dict[str, Any]:
    view, title = _VIEWS[film.view], film_title(session.study, film)
    caption = view if film.view is not ViewPosition.UNKNOWN else f"Film {number}"
    return {
        "digest": film.digest,
        "url": url_of(film, "thumbnail"),
        "caption": caption,
        "badge": "Prior" if session.is_prior(film.digest) else "",
        "label": f"Film {number}, {view}, {title[0].lower()}{title[1:]}",
        "pane": hanging.panes.index(film.digest) if film.digest in hanging.panes else -1,
        "isShown": film.digest == hanging.shown,
    }


def _facts(session: Session, film: Radiograph) -> list[str]:
    lead = f"{film_title(session.study, film)} · {_VIEWS[film.view]}"
    if session.truth is not None:
        lead = f"{_VIEWS[film.view]}, synthetic patient, seed {session.truth.seed}"
    remarks = list(film.notices)
    if film.orientation is None:
        remarks.append("Patient side not stated in the file: rely on the marker on the film.")
    if _is_strangers(session.study, film):
        remarks.append("This film carries another patient identifier than the first one.")
    return [lead, *remarks]


def _actions(session: Session, shown: Radiograph) -> list[dict[str, str]]:
    """Makes the shown film the prior, or takes that back; a study needs a current film beside it."""
    if session.is_prior(shown.digest):
        return [{"do": "current", "digest": shown.digest, "title": "Not the prior"}]
    if len(session.study.radiographs) > 1:
        return [{"do": "prior", "digest": shown.digest, "title": "Use as prior"}]
    return []


# A film in words -------------------------------------------------------------------------------------


def film_title(study: Study, film: Radiograph) -> str:
    """Which film of the study this is: "Current", "Prior, 412 days earlier"; no date is ever told."""
    # Between two patients no time passes: their dates say nothing about each other.
    apart = "another patient identifier" if _is_strangers(study, film) else days_apart(study.days_since(film))
    if study.prior and film in study.prior.radiographs:
        return f"Prior, {apart}" if apart else "Prior, date unknown"
    is_first = bool(study.radiographs) and film == study.radiographs[0]
    return f"Current, {apart}" if apart and not is_first and apart != "the same day" else "Current"


def _is_strangers(study: Study, film: Radiograph) -> bool:
    """Whether the film and the first current film both name a patient, and not the same one."""
    known = [r.patient_hash for r in study.radiographs if r.patient_hash is not None]
    return bool(known) and film.patient_hash is not None and film.patient_hash != known[0]


def days_apart(days: int | None) -> str:
    """How long before the current film another was made; "" when a date is unknown."""
    if days is None:
        return ""
    if days == 0:
        return "the same day"
    unit = "day" if abs(days) == 1 else "days"
    return f"{abs(days)} {unit} {'earlier' if days > 0 else 'later'}"


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
