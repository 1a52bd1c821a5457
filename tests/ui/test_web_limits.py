"""How often and how many at once: buckets that fill, answers that are let in, and pages that end."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from cxr_assistant.errors import Busy
from cxr_assistant.settings import Limits
from cxr_assistant.ui.switchboard import CancelFlag, Ending, Switchboard
from cxr_assistant.ui.web.limits import Admission, Buckets
from cxr_assistant.ui.web.ownership import Caller, Ledger
from cxr_assistant.ui.web.tending import Tending


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_bucket_fills_at_its_rate(clock: Clock) -> None:
    buckets = Buckets(per_minute=60, clock=clock)
    assert [buckets.take("ann") for _ in range(60)] == [0.0] * 60
    assert buckets.take("ann") == pytest.approx(1.0)
    assert buckets.take("bob") == 0.0
    clock.now += 1.0
    assert buckets.take("ann") == 0.0


def test_buckets_of_ever_new_names_do_not_pile_up(clock: Clock) -> None:
    buckets = Buckets(per_minute=1, clock=clock)
    for number in range(50_000):
        buckets.take(str(number))
    assert len(buckets._known) <= 20_000


PEOPLE = {
    "ann-1": Caller("ann", "192.0.2.1", is_browser=True),
    "ann-2": Caller("ann", "192.0.2.1", is_browser=True),
    "bob-1": Caller("bob", "192.0.2.1", is_browser=True),
    "cat-1": Caller("cat", "192.0.2.2", is_browser=True),
    "program": Caller("anonymous 192.0.2.3", "192.0.2.3"),
}


def _admission(clock: Clock, max_answers: int = 100, **limits: int) -> Admission:
    return Admission(Limits(**limits), max_answers, PEOPLE.get, clock)


@pytest.mark.requirement("D1")
def test_one_visitor_has_an_answer_that_is_written_and_one_that_waits(clock: Clock) -> None:
    admission = _admission(clock)
    with admission.answer("ann-1"), admission.answer("ann-1"):
        with pytest.raises(Busy, match="still being answered"), admission.answer("ann-1"):
            pass
    with admission.answer("ann-1"):
        assert admission.num_open == 1
    assert admission.num_open == 0


def test_an_address_and_the_server_have_their_bounds(clock: Clock) -> None:
    admission = _admission(clock, max_answers=3, max_answers_per_address=2)
    with ExitStack() as held:
        for visitor in ("ann-1", "bob-1"):
            held.enter_context(admission.answer(visitor))
        with pytest.raises(Busy, match="from your address"), admission.answer("ann-2"):
            pass
        held.enter_context(admission.answer("cat-1"))
        with pytest.raises(Busy, match="3 answers are waited for"), admission.answer("program"):
            pass
    assert admission.num_open == 0


def test_users_of_one_hospital_are_told_apart(clock: Clock) -> None:
    people = {n: Caller(n, "10.0.0.1", user=n, is_browser=True) for n in ("ann", "bob", "cat")}
    admission = Admission(Limits(max_answers_per_address=1), 100, people.get, clock)
    with admission.answer("ann"), admission.answer("bob"), admission.answer("cat"):
        assert admission.num_open == 3


@pytest.mark.requirement("D1")
def test_who_asks_too_often_is_told_when_to_ask_again(clock: Clock) -> None:
    admission = _admission(clock, answers_per_minute=2)
    for visitor in ("ann-1", "ann-2"):  # two tabs of one browser
        with admission.answer(visitor):
            pass
    with pytest.raises(Busy) as refusal, admission.answer("ann-1"):
        pass
    assert refusal.value.hint == "Ask again in 31 seconds."
    with admission.answer("bob-1"):
        pass


def test_a_place_is_given_back_when_an_answer_fails(clock: Clock) -> None:
    admission = _admission(clock, max_answers=1)
    with pytest.raises(RuntimeError), admission.answer("ann-1"):
        raise RuntimeError
    with admission.answer("ann-1"):
        pass


# The one cancel flag --------------------------------------------------------------------------------------


@pytest.mark.requirement("D2", "D3")
def test_the_flag_is_set_by_the_clock(clock: Clock) -> None:
    flag = CancelFlag(lasts_s=10, clock=clock)
    clock.now += 9
    assert not flag.is_set()
    clock.now += 2
    assert flag.is_set() and flag.ending is Ending.TIMED_OUT


def test_the_first_reason_counts(clock: Clock) -> None:
    flag = CancelFlag(lasts_s=10, clock=clock)
    flag.end(Ending.STOPPED)
    clock.now += 100
    flag.end(Ending.STALLED)
    assert flag.is_set() and flag.ending is Ending.STOPPED


def test_a_program_may_wait_for_several_answers_and_all_of_them_end() -> None:
    board = Switchboard()
    with board.running("p", beside=True) as one, board.running("p", beside=True) as two:
        assert not one.is_set()
        board.stop("p", Ending.LEFT)
        assert one.is_set() and two.is_set()
    assert len(board) == 0


# Tending ---------------------------------------------------------------------------------------------------


class Desk:
    """A ledger, a switchboard and what was forgotten."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.ledger = Ledger(max_pages=10, max_pages_per_address=10, clock=clock)
        self.board, self.forgotten = Switchboard(), []
        limits = Limits(page_grace_s=40, page_idle_s=900, stall_s=10)
        self.tending = Tending(
            limits, self.ledger, [self.board], directory, forget=self.forgotten.append, clock=clock
        )


@pytest.fixture
def desk(tmp_path: Path, clock: Clock) -> Desk:
    return Desk(tmp_path, clock)


ANN = PEOPLE["ann-1"]


@pytest.mark.requirement("P6", "D3")
def test_a_page_is_forgotten_soon_after_its_last_connection_and_its_answer_ended(
    desk: Desk, clock: Clock
) -> None:
    page = desk.ledger.open_page("ann-1", ANN)
    desk.ledger.connect(page, listens=False)
    clock.now += 100
    desk.tending.round()
    assert desk.forgotten == []
    desk.ledger.disconnect(page, listens=False)
    with desk.board.running("ann-1") as flag:
        clock.now += 41
        desk.tending.round()
        assert flag.ending is Ending.LEFT
    assert desk.forgotten == ["ann-1"] and desk.ledger.find_page("ann-1") is None


def test_a_page_on_which_nobody_does_anything_is_forgotten(desk: Desk, clock: Clock) -> None:
    page = desk.ledger.open_page("ann-1", ANN)
    desk.ledger.connect(page, listens=False)
    clock.now += 901
    desk.tending.round()
    assert desk.forgotten == ["ann-1"]


@pytest.mark.requirement("D3")
def test_an_answer_that_nobody_listens_to_is_ended(desk: Desk, clock: Clock) -> None:
    desk.ledger.open_page("ann-1", ANN)
    with desk.board.running("ann-1", clock=clock) as flag:
        clock.now += 9
        desk.tending.round()
        assert flag.ending is None
        clock.now += 2
        desk.tending.round()
        assert flag.ending is Ending.LEFT


def test_a_listener_keeps_its_answer(desk: Desk, clock: Clock) -> None:
    page = desk.ledger.open_page("ann-1", ANN)
    desk.ledger.connect(page, listens=True)
    with desk.board.running("ann-1", clock=clock) as flag:
        clock.now += 300
        desk.tending.round()
        assert flag.ending is None


def test_the_name_of_an_upload_is_forgotten_once_it_was_read(
    desk: Desk, clock: Clock, tmp_path: Path
) -> None:
    film = tmp_path / "film"
    film.write_bytes(b"film")
    desk.ledger.add_file(str(film), ANN)
    desk.tending.round()
    desk.ledger.check_file(str(film), ANN)
    film.unlink()  # as whoever reads an upload does
    desk.tending.round()
    assert desk.ledger.num_files == 1  # not at every turn
    clock.now += 5
    desk.tending.round()
    assert desk.ledger.num_files == 0


@pytest.mark.requirement("P6")
def test_at_the_end_nothing_of_anybody_is_left(desk: Desk, tmp_path: Path) -> None:
    desk.ledger.open_page("ann-1", ANN)
    (tmp_path / "film").write_bytes(b"film")
    with desk.board.running("ann-1") as flag:
        desk.tending.close()
        assert flag.is_set()
    assert desk.forgotten == ["ann-1"] and list(tmp_path.iterdir()) == []
