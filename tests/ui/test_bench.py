"""Two models side by side, and a report in steps: streams of sessions that end whole, stopped or in part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import SimpleNamespace

import pytest

from cxr_assistant.errors import Busy
from cxr_assistant.generation import FinishReason
from cxr_assistant.ui.asking import Inquiry
from cxr_assistant.ui.chat import Chat
from cxr_assistant.ui.exchange import Comparison, Phase, Verdict
from cxr_assistant.ui.hanging import Hanging
from cxr_assistant.ui.room import ReadingRoom
from cxr_assistant.ui.session import Session
from cxr_assistant.ui.switchboard import Switchboard
from tests.ui.doubles import BENCH, FINDINGS, ScriptedAssistant, ScriptedWorker, make_radiograph


@pytest.fixture
def worker() -> ScriptedWorker:
    return ScriptedWorker()


@pytest.fixture
def board() -> Switchboard:
    return Switchboard()


@pytest.fixture
def chat(worker: ScriptedWorker, board: Switchboard) -> Chat:
    return Chat(ScriptedAssistant(worker, menu=BENCH), board)


def compare(chat: Chat, session: Session, prompt: str, *, is_blind: bool = False) -> Iterator[Session]:
    return chat.send(session, "ann", Inquiry(prompt=prompt, rival="chexagent", is_blind=is_blind))


def last(sessions: Iterator[Session]) -> Session:
    *_, final = sessions
    return final


def comparison(session: Session) -> Comparison:
    item = session.last_asked
    assert isinstance(item, Comparison)
    return item


# --- two models ---------------------------------------------------------------------------------------


def test_both_models_answer_the_same_question(chat: Chat, session: Session, worker: ScriptedWorker) -> None:
    done = comparison(last(compare(chat, session, "Heart?")))
    assert [side.checkpoint for side in done.sides] == ["embedded", "chexagent"]
    assert all(side.phase is Phase.DONE and "Heart?" in side.text for side in done.sides)
    assert [request.conversation.last_question for request in worker.requests] == ["Heart?", "Heart?"]


def test_a_comparison_is_one_request_and_one_stop_ends_both(
    chat: Chat, session: Session, worker: ScriptedWorker, board: Switchboard
) -> None:
    worker.word_delay_s = 0.002
    final = session
    for final in compare(chat, session, "a long story"):
        assert len(board) <= 1
        if all(side.text for side in comparison(final).sides):
            chat.stop("ann")
    assert [side.finish_reason for side in comparison(final).sides] == [FinishReason.CANCELLED] * 2
    assert worker.running == 0 and len(board) == 0


def test_the_streams_of_a_comparison_grow_side_by_side(
    chat: Chat, session: Session, worker: ScriptedWorker
) -> None:
    worker.word_delay_s = 0.005
    grown = [comparison(s) for s in compare(chat, session, "Tell me of the heart and of both lungs, please?")]
    assert any(all(side.text and side.is_open for side in both.sides) for both in grown)


def test_one_model_fails_and_the_other_answers(chat: Chat) -> None:
    real = Session("embedded").with_film(make_radiograph())  # the embedded model declines a real film
    done = comparison(last(compare(chat, real, "Heart?")))
    assert done.sides[0].problem is not None and done.sides[0].problem.code == "foreign_image"
    assert done.sides[1].phase is Phase.DONE and not done.can_be_judged


def test_who_wrote_which_is_told_after_the_vote_alone(chat: Chat, session: Session) -> None:
    room = ReadingRoom(ScriptedAssistant(menu=BENCH))
    done = last(compare(chat, session, "Heart?", is_blind=True))
    veiled = room.chat_view(done)["items"][-1]["html"]
    assert not any(word in veiled for word in ("mbedded", "CheXagent", "chexagent", "0000000"))
    assert 'data-verdict="both-bad"' in veiled and done.exchanges == ()
    voted = done.judge(comparison(done).number, Verdict.A)
    html = room.chat_view(voted)["items"][-1]["html"]
    assert "Embedded model" in html and "CheXagent" in html and "You preferred" in html
    winner = comparison(voted).winner
    assert winner is not None and f'data-model="{winner.checkpoint}"' in html


def test_a_verdict_is_given_once_and_not_before_both_have_answered(chat: Chat, session: Session) -> None:
    stream = compare(chat, session, "Heart?", is_blind=True)
    begun = next(stream)
    assert comparison(begun.judge(0, Verdict.B)).verdict is None
    done = last(stream).judge(0, Verdict.TIE)
    assert comparison(done.judge(0, Verdict.A)).verdict is Verdict.TIE


def test_a_failure_in_a_blind_comparison_does_not_tell_who_failed(chat: Chat) -> None:
    real = Session("embedded").with_film(make_radiograph())
    done = last(compare(chat, real, "Heart?", is_blind=True))
    html = ReadingRoom(ScriptedAssistant(menu=BENCH)).chat_view(done)["items"][-1]["html"]
    assert "could not answer" in html and "phantom" not in html and "mbedded" not in html
    assert 'data-verdict="none"' in html and 'data-verdict="a"' not in html


def test_each_model_goes_on_from_its_own_answer(chat: Chat, session: Session) -> None:
    done = last(compare(chat, session, "Heart?"))
    for name in ("embedded", "chexagent"):
        turns = done.conversation_for(name).turns
        assert [turn.checkpoint for turn in turns] == ["", name]


# --- steps --------------------------------------------------------------------------------------------


def test_a_report_is_written_step_by_step(chat: Chat, session: Session, worker: ScriptedWorker) -> None:
    seen = list(chat.send(session.choosing("chexagent"), "ann", Inquiry(in_steps=True)))
    running = [s.exchanges[-1].current_step for s in seen]
    assert list(dict.fromkeys(step.title for step in running if step)) == [
        "View and quality",
        "Airway",
        "Breathing",
        "Cardiac",
        "Impression",
    ]
    done = seen[-1].exchanges[-1]
    assert done.phase is Phase.DONE and done.steps[0].text == "PA" and done.steps[0].remarks
    assert done.usage.prompt_tokens == 5 * 280
    assert worker.requests[-1].conversation.last_question.startswith("Conclude: Nothing abnormal")
    assert "View and quality:" in done.text and "Impression: Left pleural effusion." in done.text


def test_a_model_that_cannot_tell_the_view_is_not_asked_for_it(
    chat: Chat, session: Session, worker: ScriptedWorker
) -> None:
    done = last(chat.send(session.choosing("llava-rad"), "ann", Inquiry(in_steps=True))).exchanges[-1]
    assert [request.task for request in worker.requests] == ["findings"]
    assert done.steps[0].text == "" and done.steps[1].text == FINDINGS


def test_stop_between_two_steps_ends_the_report(chat: Chat, session: Session, worker: ScriptedWorker) -> None:
    worker.word_delay_s = 0.002
    final = session
    for final in chat.send(session.choosing("chexagent"), "ann", Inquiry(in_steps=True)):
        step = final.exchanges[-1].current_step
        if step is not None and step.title == "Breathing":
            chat.stop("ann")
    assert final.exchanges[-1].finish_reason is FinishReason.CANCELLED
    assert not final.exchanges[-1].steps[3].has_begun and worker.running == 0


def test_a_failure_in_a_step_keeps_the_steps_before_it(session: Session, board: Switchboard) -> None:
    chat = Chat(ScriptedAssistant(_FailingAtCardiac(), menu=BENCH), board)
    final = last(chat.send(session.choosing("chexagent"), "ann", Inquiry(in_steps=True))).exchanges[-1]
    assert final.problem is not None and final.problem.code == "unexpected"
    assert final.steps[2].text and not final.steps[4].has_begun


def test_later_questions_know_each_step_as_a_turn(chat: Chat, session: Session) -> None:
    done = last(chat.send(session, "ann", Inquiry(in_steps=True)))
    assert [turn.text for turn in done.conversation_for("embedded").turns] == [
        "What is the view of this radiograph?",
        "PA",
        "Describe the findings of this chest radiograph.",
        FINDINGS,
    ]


# --- loading ------------------------------------------------------------------------------------------


def test_a_model_that_is_not_in_memory_is_said_to_be_loading(chat: Chat, session: Session) -> None:
    begun = next(chat.send(session.choosing("chexagent"), "ann", Inquiry(prompt="Heart?")))
    assert begun.exchanges[-1].phase is Phase.LOADING
    ready = next(chat.send(session, "bob", Inquiry(prompt="Heart?")))
    assert ready.exchanges[-1].phase is Phase.SENT


class _FailingAtCardiac(ScriptedWorker):
    def _text(self, request: object, question: str) -> str:
        if "Cardiac" in question:
            raise RuntimeError("secret")
        return super()._text(request, question)  # type: ignore[arg-type]


# --- what the engine keeps ----------------------------------------------------------------------------


def test_the_engine_knows_a_study_by_one_name_and_is_told_to_forget_it(
    chat: Chat, session: Session, worker: ScriptedWorker
) -> None:
    forgotten: list[str] = []
    worker.forget = forgotten.append  # type: ignore[method-assign]
    last(chat.send(session, "ann", Inquiry(prompt="Heart?")))
    last(compare(chat, session, "Lungs?"))
    assert {request.session for request in worker.requests} == {session.name}
    room = ReadingRoom(ScriptedAssistant(worker, menu=BENCH))
    cleared, *_ = room.clear(session, Hanging(), SimpleNamespace(session_hash="ann"))  # type: ignore[arg-type]
    assert forgotten == [session.name] and cleared.name != session.name


def test_a_server_that_is_full_fails_both_sides_of_a_comparison(
    chat: Chat, session: Session, board: Switchboard
) -> None:
    def full(visitor: str, flag: object) -> AbstractContextManager[object]:
        raise Busy("The server is full.", hint="Ask again in a minute.")

    board.guard(full, lasts_s=60)
    refused = last(compare(chat, session, "Heart?"))
    assert refused.open_item is None
    assert all(side.problem is not None for side in comparison(refused).sides)
