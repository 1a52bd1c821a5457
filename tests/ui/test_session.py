from __future__ import annotations

import time

import pytest

from cxr_assistant.conversation import Role
from cxr_assistant.errors import OutOfMemory
from cxr_assistant.generation import (
    Completed,
    FinishReason,
    Grounding,
    Notice,
    Prefilled,
    Queued,
    SamplingParams,
    TextDelta,
    Usage,
)
from cxr_assistant.report import BoundingBox
from cxr_assistant.tasks import Task
from cxr_assistant.ui.exchange import Phase, Problem, Remark, Truth
from cxr_assistant.ui.session import MAX_FILMS, Session
from tests.ui.doubles import make_radiograph

DONE = Completed(FinishReason.STOP, Usage(10, 0, 2, 0.1, 0.2), "embedded", "abc")


def answered(session: Session, prompt: str, answer: str) -> Session:
    return session.ask(Task.QUESTION, prompt).heard(TextDelta(answer)).heard(DONE)


def test_two_sessions_never_share_a_key() -> None:
    assert Session("embedded").key != Session("embedded").key


def test_the_key_is_not_in_the_repr(session: Session) -> None:
    assert session.key.hex() not in repr(session) and "key" not in repr(session)


def test_an_answer_grows_event_by_event(session: Session) -> None:
    asked = session.ask(Task.FINDINGS, "Describe")
    phases = []
    for event in (Queued(2), Prefilled(9), TextDelta("No "), TextDelta("effusion."), Notice("n"), DONE):
        asked = asked.heard(event)
        phases.append(asked.exchanges[-1].phase)
    assert phases == [Phase.QUEUED, Phase.READING, Phase.WRITING, Phase.WRITING, Phase.WRITING, Phase.DONE]
    assert asked.exchanges[-1].text == "No effusion."
    assert asked.exchanges[-1].revision == "abc"


def test_a_session_is_a_value_and_asking_leaves_the_old_one_alone(session: Session) -> None:
    session.ask(Task.QUESTION, "Heart?")
    assert session.log == ()


def test_the_model_is_told_finished_answers_only(session: Session) -> None:
    session = answered(session, "One?", "1")
    session = session.ask(Task.QUESTION, "Two?").failed(Problem.of(OutOfMemory("No memory.")))
    session = session.ask(Task.QUESTION, "Three?")
    assert [(t.role, t.text) for t in session.conversation_for(session.checkpoint).turns] == [
        (Role.USER, "One?"),
        (Role.ASSISTANT, "1"),
    ]


def test_undo_takes_back_the_last_question_and_the_remarks_after_it(session: Session) -> None:
    once = answered(session, "One?", "1")
    twice = answered(once, "Two?", "2").remark(Problem("A file was refused."))
    assert twice.undo().log == once.log


def test_a_stream_that_ends_without_saying_so_counts_as_cancelled(session: Session) -> None:
    stopped = session.ask(Task.QUESTION, "Heart?").heard(TextDelta("The")).stopped()
    assert stopped.exchanges[-1].finish_reason is FinishReason.CANCELLED


def test_a_failure_without_an_open_question_becomes_a_remark(session: Session) -> None:
    assert isinstance(session.failed(Problem("Broken.")).log[-1], Remark)


def test_refused_questions_and_remarks_do_not_pile_up(session: Session) -> None:
    session = session.ask(Task.QUESTION, "Heart?").heard(TextDelta("Normal.")).heard(DONE)
    for number in range(40):
        busy = Problem(f"No {number}.", code="busy")
        session = session.ask(Task.QUESTION, "Again?").failed(busy).remark(busy)
        session = session.compare(
            Task.QUESTION, (("a", "?", SamplingParams()), ("b", "?", SamplingParams())), is_blind=True
        )
        session = session.failed(busy)
    assert [e.text for e in session.exchanges if e.counts] == ["Normal."]
    assert 9 <= len(session.log) <= 10
    assert session.last_asked is session.log[-1]


def test_a_later_choice_counts_for_more_and_a_later_session_most() -> None:
    """A page that was forgotten gets a new session, and must believe its menu."""
    session = Session("embedded").choosing("llava-rad").choosing("embedded")
    assert session.choices == session.choosing("llava-rad").choices - 1
    time.sleep(0.005)
    assert session.new_study().choices == session.choices < Session("embedded").choices


def test_a_new_study_keeps_the_model_and_nothing_of_the_patient(session: Session) -> None:
    fresh = answered(session, "One?", "1").choosing("llava-rad").new_study()
    assert fresh.checkpoint == "llava-rad"
    assert fresh.study.is_empty and fresh.log == () and fresh.key != session.key


def test_taking_down_the_film_on_show_shows_another_one(session: Session) -> None:
    second = make_radiograph(2)
    both = session.with_film(second)
    assert both.shown == second.digest
    assert both.without_film(second.digest).shown == session.shown


def test_showing_a_film_of_somebody_else_changes_nothing(session: Session) -> None:
    assert session.showing(make_radiograph(7).digest) is session


def test_a_film_token_opens_its_film_for_its_owner_alone(session: Session) -> None:
    token = session.film_token(session.shown)
    stranger = Session("embedded").with_film(make_radiograph(phantom=True))
    assert session.film_by_token(token) == session.film(session.shown)
    assert stranger.film_by_token(token) is None
    assert session.film_by_token("é" * 64) is None


@pytest.mark.parametrize(("task", "is_told"), [(Task.FINDINGS, True), (Task.QUESTION, False)])
def test_truth_stands_beside_descriptions_only(task: Task, is_told: bool) -> None:
    truth = Truth(1, "PA", "Clear.")
    session = Session("embedded").with_phantom(make_radiograph(phantom=True), truth).ask(task, "?")
    assert (session.exchanges[-1].truth is truth) is is_told


def test_a_study_is_full_after_eight_films() -> None:
    session = Session("embedded")
    for seed in range(MAX_FILMS):
        assert not session.is_full
        session = session.with_film(make_radiograph(seed, size=(32, 32)))
    assert session.is_full


def test_a_film_becomes_the_prior_and_comes_back(session: Session) -> None:
    old, both = session.shown, session.with_film(make_radiograph(2))
    marked = both.with_prior(old)
    assert marked.is_prior(old) and len(marked.study.radiographs) == 1
    assert [r.digest for r in marked.films] == [both.shown, old]
    assert marked.film_by_token(marked.film_token(old)) is not None
    assert marked.without_prior().study.prior is None and len(marked.without_prior().study.radiographs) == 2


def test_there_is_one_prior_and_always_a_current_film(session: Session) -> None:
    assert session.with_prior(session.shown) is session
    first, three = session.shown, session.with_film(make_radiograph(2)).with_film(make_radiograph(3))
    swapped = three.with_prior(first).with_prior(three.shown)
    assert swapped.is_prior(three.shown) and not swapped.is_prior(first)
    assert len(swapped.films) == 3


def test_without_a_current_film_the_prior_is_no_prior(session: Session) -> None:
    marked = session.with_film(make_radiograph(2)).with_prior(session.shown)
    left = marked.without_film(marked.study.radiographs[0].digest)
    assert left.study.prior is None and [r.digest for r in left.films] == [session.shown]
    assert marked.without_film(session.shown).study.prior is None


def test_a_prior_that_is_added_again_stays_the_prior(session: Session) -> None:
    marked = session.with_film(make_radiograph(2)).with_prior(session.shown)
    again = marked.with_film(make_radiograph(phantom=True))
    assert len(again.films) == 2 and again.shown == session.shown


def test_the_boxes_of_the_newest_answer_are_kept_apart_by_film(session: Session) -> None:
    box = BoundingBox(0.1, 0.2, 0.3, 0.4)
    asked = session.ask(Task.GROUNDING, "Locate").heard(Grounding("effusion", box, session.shown)).heard(DONE)
    assert [(n, g.phrase) for n, g in asked.groundings_on(session.shown)] == [(0, "effusion")]
    assert asked.groundings_on(make_radiograph(2).digest) == ()


def test_a_precision_is_kept_for_the_next_study_and_not_for_the_next_model(session: Session) -> None:
    chosen = session.choosing("llava-rad", "nf4")
    assert chosen.new_study().precision == "nf4"
    assert chosen.choosing("embedded").precision == ""
