from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from cxr_assistant.generation import FinishReason
from cxr_assistant.ui.asking import MAX_PROMPT, Inquiry
from cxr_assistant.ui.chat import Chat
from cxr_assistant.ui.exchange import Exchange, Phase, Remark
from cxr_assistant.ui.session import Session
from cxr_assistant.ui.switchboard import Switchboard
from tests.ui.doubles import FINDINGS, ScriptedAssistant, ScriptedWorker, make_radiograph


@pytest.fixture
def board() -> Switchboard:
    return Switchboard()


@pytest.fixture
def chat(assistant: ScriptedAssistant, board: Switchboard) -> Chat:
    return Chat(assistant, board)


def ask(
    chat: Chat, session: Session, prompt: str, task: str = "question", indication: str = ""
) -> Iterator[Session]:
    return chat.send(session, "ann", Inquiry(task=task, prompt=prompt, indication=indication))


def last(sessions: Iterator[Session]) -> Session:
    *_, final = sessions
    return final


def test_the_question_is_seen_before_the_model_says_anything(chat: Chat, session: Session) -> None:
    first = next(ask(chat, session, "Heart?"))
    assert first.open_exchange is not None and first.open_exchange.prompt == "Heart?"


def test_a_streamed_answer_is_the_whole_answer(chat: Chat, session: Session) -> None:
    final = last(ask(chat, session, "Describe", "findings"))
    assert final.exchanges[-1].text == FINDINGS
    assert final.exchanges[-1].phase is Phase.DONE


def test_the_exact_words_and_the_indication_reach_the_worker(
    chat: Chat, session: Session, assistant: ScriptedAssistant
) -> None:
    last(ask(chat, session, "Describe the <image> now", "findings", "  dyspnoea \n since Monday"))
    request = assistant.worker.requests[-1]
    assert request.conversation.last_question == "Describe the <image> now"
    assert request.study.indication == "dyspnoea since Monday"


def test_stop_ends_the_answer_and_keeps_what_was_written(session: Session, board: Switchboard) -> None:
    worker = ScriptedWorker(word_delay_s=0.002)
    chat = Chat(ScriptedAssistant(worker), board)
    final = session
    for final in ask(chat, session, "a long story"):
        if final.exchanges[-1].text:
            chat.stop("ann")
    assert final.exchanges[-1].finish_reason is FinishReason.CANCELLED
    assert 0 < len(final.exchanges[-1].text) < 2000
    assert worker.running == 0


@pytest.mark.requirement("D3")
def test_stop_before_the_first_word_is_not_lost(session: Session, board: Switchboard) -> None:
    chat = Chat(ScriptedAssistant(ScriptedWorker(prefill_delay_s=5.0)), board)
    stream = ask(chat, session, "Heart?")
    next(stream)
    chat.stop("ann")
    final = last(stream)
    assert final.exchanges[-1].finish_reason is FinishReason.CANCELLED


def test_closing_the_stream_frees_the_worker(session: Session, board: Switchboard) -> None:
    worker = ScriptedWorker(word_delay_s=0.002)
    stream = ask(Chat(ScriptedAssistant(worker), board), session, "a long story")
    while not next(stream).exchanges[-1].text:
        pass
    stream.close()
    assert worker.running == 0 and len(board) == 0


def test_an_answer_nobody_wants_any_more_shows_nothing_further(session: Session, board: Switchboard) -> None:
    chat = Chat(ScriptedAssistant(ScriptedWorker(word_delay_s=0.002)), board)
    stream = ask(chat, session, "a long story")
    next(stream)
    board.dismiss("ann")
    assert list(stream) == []


@pytest.mark.parametrize(
    ("prompt", "code"),
    [("out of memory", "out_of_memory"), ("explode", "unexpected"), ("", "empty_question")],
)
def test_every_failure_is_a_card_and_the_session_goes_on(
    chat: Chat, session: Session, prompt: str, code: str
) -> None:
    failed = last(ask(chat, session, prompt))
    item = failed.log[-1]
    assert item.problem is not None and item.problem.code == code
    assert last(ask(chat, failed, "Heart?")).exchanges[-1].phase is Phase.DONE


@pytest.mark.requirement("P5")
def test_an_unexpected_error_tells_and_logs_nothing_of_its_text(
    chat: Chat, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        failed = last(ask(chat, session, "explode"))
    assert "secret" not in repr(failed.log) and "secret" not in caplog.text
    assert "RuntimeError" in caplog.text


def test_a_foreign_film_is_not_reported_on(chat: Chat) -> None:
    real = Session("embedded").with_film(make_radiograph())
    failed = last(ask(chat, real, "Describe", "findings"))
    problem = failed.exchanges[-1].problem
    assert problem is not None and problem.code == "foreign_image" and "LLaVA-Rad" in problem.hint
    assert failed.exchanges[-1].text == ""


def test_a_question_before_any_film_is_answered_with_a_hint(chat: Chat) -> None:
    failed = last(ask(chat, Session("embedded"), "Heart?"))
    assert failed.exchanges[-1].problem is not None
    assert failed.exchanges[-1].problem.code == "missing_radiograph"


@pytest.mark.requirement("D2")
def test_a_question_that_is_too_long_says_how_long(chat: Chat, session: Session) -> None:
    refused = last(ask(chat, session, "x" * (MAX_PROMPT + 1)))
    assert isinstance(refused.log[-1], Remark)
    assert str(MAX_PROMPT) in refused.log[-1].problem.message


def test_a_task_that_nobody_knows_is_refused(chat: Chat, session: Session) -> None:
    refused = last(ask(chat, session, "Hello", "rm -rf"))
    assert isinstance(refused.log[-1], Remark)


def test_retry_and_edit_stream_a_new_answer(chat: Chat, session: Session) -> None:
    asked = last(ask(chat, session, "Heart?"))
    retried = last(chat.retry(asked, "ann", Inquiry()))
    edited = last(chat.edit(retried, "ann", retried.exchanges[0].number, Inquiry(prompt="Lungs?")))
    assert [e.prompt for e in edited.exchanges] == ["Lungs?"]
    assert isinstance(edited.log[-1], Exchange) and "Lungs?" in edited.log[-1].text


def test_undo_while_an_answer_is_written_ends_it(session: Session, board: Switchboard) -> None:
    worker = ScriptedWorker(word_delay_s=0.002)
    chat = Chat(ScriptedAssistant(worker), board)
    stream = ask(chat, session, "a long story")
    latest = next(stream)
    assert chat.undo(latest, "ann").log == ()
    assert list(stream) == [] and worker.running == 0
