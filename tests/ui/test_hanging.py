"""What hangs where: which film is shown when the study changes, and what a person may change themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cxr_assistant.study import Radiograph, ViewPosition
from cxr_assistant.ui.hanging import Hanging
from cxr_assistant.ui.session import Session
from tests.ui.doubles import make_radiograph

ONE, TWO, THREE = (make_radiograph(n, size=(64, 56)) for n in (1, 2, 3))
LATERAL = replace(make_radiograph(4, size=(64, 56)), view=ViewPosition.LATERAL)


def visit(*films: Radiograph) -> tuple[Session, Hanging]:
    """A session that got one film after the other, and what hangs by then."""
    session, hanging = Session("embedded"), Hanging()
    for film in films:
        session = session.with_film(film)
        hanging = hanging.follow(session)
    return session, hanging


def test_an_empty_room_hangs_nothing() -> None:
    assert Hanging().follow(Session("embedded")) == Hanging()
    assert Hanging().shown == ""


def test_the_newest_film_is_shown() -> None:
    _, hanging = visit(ONE, TWO)
    assert hanging.panes == (TWO.digest,) and hanging.order == (ONE.digest, TWO.digest)


def test_a_frontal_and_a_lateral_film_hang_side_by_side() -> None:
    for films in ((ONE, LATERAL), (LATERAL, ONE)):
        _, hanging = visit(*films)
        assert hanging.panes == (ONE.digest, LATERAL.digest) and hanging.shown == ONE.digest


def test_a_prior_hangs_on_the_right_of_the_current_film() -> None:
    session, hanging = visit(ONE, TWO)
    hung = hanging.follow(session.with_prior(TWO.digest))
    assert hung.panes == (ONE.digest, TWO.digest) and hung.shown == ONE.digest


def test_a_person_who_took_the_prior_away_is_not_overruled() -> None:
    session, hanging = visit(ONE, TWO)
    marked = session.with_prior(TWO.digest)
    single = hanging.follow(marked).pair(marked)
    assert single.panes == (ONE.digest,)
    assert single.follow(marked).panes == (ONE.digest,)


def test_a_film_that_is_taken_down_makes_room() -> None:
    session, hanging = visit(ONE, LATERAL)
    left = hanging.follow(session.without_film(ONE.digest))
    assert left.panes == (LATERAL.digest,) and left.order == (LATERAL.digest,) and left.active == 0


def test_a_new_study_takes_everything_down() -> None:
    session, hanging = visit(ONE, LATERAL)
    assert hanging.follow(session.new_study()) == Hanging()
    assert hanging.follow(session.new_study().with_film(TWO)).panes == (TWO.digest,)


def test_a_thumbnail_comes_onto_the_active_pane() -> None:
    session, hanging = visit(ONE, TWO, THREE)
    both = hanging.pair(session).activate(1)
    assert both.panes == (THREE.digest, ONE.digest)
    assert both.pick(TWO.digest).panes == (THREE.digest, TWO.digest)


def test_a_thumbnail_that_hangs_already_makes_its_pane_the_active_one() -> None:
    _, hanging = visit(ONE, LATERAL)
    picked = hanging.pick(LATERAL.digest)
    assert picked.panes == hanging.panes and picked.shown == LATERAL.digest


def test_a_thumbnail_dropped_beside_a_single_film_opens_the_second_pane() -> None:
    _, hanging = visit(ONE, TWO)
    assert hanging.hang(ONE.digest, 1).panes == (TWO.digest, ONE.digest)


def test_a_film_dropped_on_the_other_pane_changes_places_with_it() -> None:
    _, hanging = visit(ONE, LATERAL)
    swapped = hanging.hang(LATERAL.digest, 0)
    assert swapped.panes == (LATERAL.digest, ONE.digest) and swapped.shown == LATERAL.digest


@pytest.mark.parametrize(("digest", "pane"), [("nobody's", 0), ("", 1), (ONE.digest, 7), (ONE.digest, -1)])
def test_what_is_no_film_or_no_pane_changes_nothing(digest: str, pane: int) -> None:
    _, hanging = visit(ONE, TWO)
    assert hanging.hang(digest, pane) is hanging
    assert hanging.activate(9) is hanging and hanging.move("nobody's", 0) is hanging


def test_a_single_film_cannot_be_paired() -> None:
    session, hanging = visit(ONE)
    assert hanging.pair(session) is hanging


def test_the_prior_stays_on_the_right_when_it_is_shown_and_paired() -> None:
    session, hanging = visit(ONE, TWO)
    marked = session.with_prior(ONE.digest)
    hung = hanging.follow(marked).activate(1).pair(marked)
    assert hung.panes == (ONE.digest,)
    assert hung.pair(marked).panes == (TWO.digest, ONE.digest) and hung.pair(marked).active == 1


@pytest.mark.parametrize(
    ("place", "expected"), [(0, (3, 1, 2)), (1, (1, 3, 2)), (2, (1, 2, 3)), (99, (1, 2, 3))]
)
def test_thumbnails_are_moved(place: int, expected: tuple[int, ...]) -> None:
    session, hanging = visit(ONE, TWO, THREE)
    moved = hanging.move(THREE.digest, place)
    names = {ONE.digest: 1, TWO.digest: 2, THREE.digest: 3}
    assert tuple(names[d] for d in moved.order) == expected
    assert [names[film.digest] for film in moved.films(session)] == list(expected)
    assert moved.follow(session).order == moved.order
