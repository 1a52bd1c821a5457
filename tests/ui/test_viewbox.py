"""What the viewer and the thumbnails are told of a study, in values and words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cxr_assistant.generation import Grounding
from cxr_assistant.imaging.model_view import frame_of
from cxr_assistant.imaging.rendering import Rendering
from cxr_assistant.imaging.transforms import ResizeRule
from cxr_assistant.report import BoundingBox
from cxr_assistant.study import Radiograph, ViewPosition
from cxr_assistant.tasks import Task
from cxr_assistant.ui.hanging import Hanging
from cxr_assistant.ui.session import Session
from cxr_assistant.ui.viewbox import (
    Fate,
    days_apart,
    film_description,
    film_facts,
    film_title,
    strip_view,
    viewer_view,
)
from tests.ui.doubles import EMBEDDED, make_radiograph

CROPPING = replace(
    EMBEDDED,
    title="Cropper",
    image=replace(EMBEDDED.image, resize=ResizeRule.CROP, rendering=Rendering.MIMIC_CXR_JPG),
)


def dated(seed: int, day: int | None) -> Radiograph:
    return replace(make_radiograph(seed), day_offset=day)


def url_of(film: Radiograph, kind: str) -> str:
    return f"{kind}/{film.digest[:8]}"


def viewer(session: Session, hanging: Hanging, checkpoint: Any = EMBEDDED) -> dict[str, Any]:
    return viewer_view(
        session,
        hanging,
        checkpoint,
        url_of=url_of,
        frame_of=lambda film, name: frame_of(film, checkpoint.image),
    )


def strip(session: Session, hanging: Hanging | None = None, **options: Any) -> dict[str, Any]:
    return strip_view(session, hanging or Hanging().follow(session), url_of=url_of, **options)


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (None, ""),
        (0, "the same day"),
        (1, "1 day earlier"),
        (412, "412 days earlier"),
        (-30, "30 days later"),
    ],
)
def test_how_far_apart_two_films_are(days: int | None, words: str) -> None:
    assert days_apart(days) == words


def test_the_prior_says_how_much_earlier_it_was_made_and_no_date() -> None:
    session = Session("embedded").with_film(dated(1, 500)).with_film(dated(2, 88))
    marked = session.with_prior(session.shown)
    assert film_title(marked.study, dated(2, 88)) == "Prior, 412 days earlier"
    assert film_title(marked.study, dated(1, 500)) == "Current"
    shown = repr(strip(marked)) + repr(viewer(marked, Hanging().follow(marked)))
    assert "Film 2, PA, prior, 412 days earlier" in shown and "500" not in shown and "'88'" not in shown


def test_a_prior_without_a_date_says_so() -> None:
    session = Session("embedded").with_film(dated(1, 500)).with_film(dated(2, None))
    assert film_title(session.with_prior(session.shown).study, dated(2, None)) == "Prior, date unknown"


def test_an_earlier_current_film_is_told_before_it_is_marked() -> None:
    session = Session("embedded").with_film(dated(1, 500)).with_film(dated(2, 88))
    assert film_title(session.study, dated(2, 88)) == "Current, 412 days earlier"


def test_film_facts_hold_nothing_but_the_whitelist() -> None:
    assert film_facts(make_radiograph()) == "PA · 480 × 560 · 12 bit · 0.7 mm · DX · DICOM"


def test_an_unknown_side_is_said() -> None:
    film = replace(make_radiograph(), orientation=None)
    assert "side not stated" in " ".join(strip(Session("embedded").with_film(film))["facts"])
    assert "does not state" in film_description(film, None)


def test_a_strangers_film_is_said_and_no_days_are_counted_to_it() -> None:
    ours, theirs = (replace(dated(n, 100 * n), patient_hash=str(n)) for n in (1, 2))
    session = Session("embedded").with_film(ours).with_film(theirs)
    marked = session.with_prior(theirs.digest)
    assert film_title(session.study, theirs) == "Current, another patient identifier"
    assert film_title(marked.study, theirs) == "Prior, another patient identifier"
    assert "another patient" in " ".join(strip(marked, Hanging().follow(marked).pick(theirs.digest))["facts"])


def test_the_shown_film_can_become_the_prior_and_current_again() -> None:
    session = Session("embedded").with_film(make_radiograph(1))
    assert strip(session)["actions"] == []
    session = session.with_film(make_radiograph(2))
    assert [action["do"] for action in strip(session)["actions"]] == ["prior"]
    marked, hung = session.with_prior(session.shown), Hanging().follow(session)
    prior = hung.follow(marked).pick(session.shown)
    assert [action["do"] for action in strip(marked, prior)["actions"]] == ["current"]
    assert [film["badge"] for film in strip(marked, prior)["films"]] == ["", "Prior"]


def test_the_pane_of_a_thumbnail_is_told() -> None:
    lateral = replace(make_radiograph(2), view=ViewPosition.LATERAL)
    session = Session("embedded").with_film(make_radiograph(1)).with_film(lateral)
    films = strip(session)["films"]
    assert [(film["caption"], film["pane"], film["isShown"]) for film in films] == [
        ("PA", 0, True),
        ("Lateral", 1, False),
    ]


def test_the_fates_of_files_are_told_in_order() -> None:
    told = strip(Session("embedded"), fates=(Fate("added", "a"), Fate("refused", "b")))["fates"]
    assert told == [{"outcome": "added", "reason": "a"}, {"outcome": "refused", "reason": "b"}]


def test_boxes_go_to_the_film_that_they_were_found_on() -> None:
    lateral = replace(make_radiograph(2), view=ViewPosition.LATERAL)
    session = Session("embedded").with_film(make_radiograph(1)).with_film(lateral)
    asked = session.ask(Task.GROUNDING, "?")
    for n, film in enumerate((lateral, make_radiograph(1), lateral)):
        asked = asked.heard(Grounding(f"phrase {n}", BoundingBox(0.1, 0.2, 0.3, 0.4), film.digest))
    panes = viewer(asked, Hanging().follow(session))["panes"]
    assert [[(b["index"], b["label"]) for b in pane["boxes"]] for pane in panes] == [
        [(1, "phrase 1")],
        [(0, "phrase 0"), (2, "phrase 2")],
    ]


def test_what_a_cropping_model_never_sees_is_told() -> None:
    session = Session("embedded").with_film(make_radiograph())  # 480 wide, 560 high
    model = viewer(session, Hanging().follow(session), CROPPING)["panes"][0]["film"]["model"]
    assert model["words"] == "224 × 224 pixels, histogram equalised; 14 % of the film is cut off"
    assert model["frame"][0] == 0 and model["frame"][1] == pytest.approx(1 / 14, abs=0.01)
    assert model["url"].startswith("as-seen-by-embedded/")


def test_a_padding_model_sees_the_whole_film() -> None:
    session = Session("embedded").with_film(make_radiograph())
    model = viewer(session, Hanging().follow(session))["panes"][0]["film"]["model"]
    assert model["words"].endswith("nothing is cut off")
    assert model["frame"][0] == pytest.approx(-1 / 12) and model["frame"][1] == 0
