"""The conversation: what a visitor asks becomes a stream of sessions, each a little further than the last.

Knows the assistant, the session and the cancel flag; draws nothing (transcript.py) and wires nothing
(app.py). Every failure ends as a card in the chat, and the session goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from cxr_assistant.assistant import Assistant
from cxr_assistant.conversation import Conversation
from cxr_assistant.errors import Busy, CxrAssistantError
from cxr_assistant.generation import Completed, FinishReason, GenerationEvent
from cxr_assistant.tasks import Task
from cxr_assistant.ui.abreast import Told, abreast
from cxr_assistant.ui.asking import Asking, Inquiry
from cxr_assistant.ui.exchange import Comparison, Exchange, Phase, Problem, Step
from cxr_assistant.ui.guided import FINDINGS_SLOT
from cxr_assistant.ui.pacing import paced
from cxr_assistant.ui.session import Session
from cxr_assistant.ui.switchboard import CancelFlag, Ending, Switchboard

__all__ = ["Chat"]

_log = logging.getLogger(__name__)
_UNEXPECTED = Problem(
    "Something went wrong inside the assistant; your study is still here.",
    "Try again. If it happens twice, tell whoever runs this server the time of day.",
    "unexpected",
)

_ENDED = {
    Ending.TIMED_OUT: Problem(
        "The answer took longer than this server allows, and was ended.", "Ask for less at once.", "timed_out"
    ),
    Ending.STALLED: Problem(
        "The connection was too slow to follow, and the answer was ended.", "Ask again.", "stalled"
    ),
}


class Chat:
    """Asking, stopping and taking back, for any visitor: holds the assistant and the flags, nothing else."""

    def __init__(self, assistant: Assistant, switchboard: Switchboard) -> None:
        self._assistant = assistant
        self._asking = Asking(assistant)
        self._switchboard = switchboard

    def send(self, session: Session, visitor: str, inquiry: Inquiry) -> Iterator[Session]:
        """Ask something new; yields the session each time there is more to see."""
        yield from self._opened(session, visitor, partial(self._asking.new, session, inquiry))

    def retry(self, session: Session, visitor: str, inquiry: Inquiry) -> Iterator[Session]:
        yield from self._opened(session, visitor, partial(self._asking.again, session, inquiry))

    def edit(self, session: Session, visitor: str, number: int, inquiry: Inquiry) -> Iterator[Session]:
        yield from self._opened(session, visitor, partial(self._asking.edited, session, number, inquiry))

    def undo(self, session: Session, visitor: str) -> Session:
        self._switchboard.dismiss(visitor)
        return session.stopped().undo()

    def stop(self, visitor: str) -> bool:
        """Set the cancel flag; the stream that watches it says the rest."""
        return self._switchboard.stop(visitor)

    def answer(self, session: Session, visitor: str) -> Iterator[Session]:
        """Answer the question that is open; a session without one is handed back as it is."""
        session = self._told_of_loading(session)
        if session.open_item is None:
            yield session
            return
        try:
            with self._switchboard.running(visitor) as flag:
                yield session
                for grown in self._growing(session, flag):
                    if flag.is_superseded:
                        return
                    session = grown
                    yield session
        except Busy as busy:
            yield session.failed(Problem.of(busy))
            return
        if flag.ending and (why := _ENDED.get(flag.ending)):
            yield session.remark(why)

    def _opened(self, session: Session, visitor: str, asked: Callable[[], Session]) -> Iterator[Session]:
        try:
            opened = asked()
        except CxrAssistantError as error:
            yield session.stopped().remark(Problem.of(error))
            return
        yield from self.answer(opened, visitor)

    def _told_of_loading(self, session: Session) -> Session:
        """A model that is not in memory is loaded first, which may take long: that is said at once."""
        item = session.open_item
        if item is None or isinstance(item, Comparison):
            return session
        is_resident = item.checkpoint in self._assistant.health().resident
        return session if is_resident else session.with_last(replace(item, phase=Phase.LOADING))

    def _growing(self, session: Session, flag: CancelFlag) -> Iterator[Session]:
        """The session after each bundle of events; the last one has no open question."""
        match session.open_item:
            case Comparison() as comparison:
                yield from self._grown_abreast(session, comparison, flag)
                return
            case Exchange() as exchange:
                grow = self._grown_in_steps if exchange.steps else self._grown
        try:
            for grown in grow(session, exchange, flag):
                session = grown
                yield grown
        except Exception as error:  # the outermost edge
            session = session.failed(_problem(error))
        yield session.stopped()

    def _grown(self, session: Session, exchange: Exchange, flag: CancelFlag) -> Iterator[Session]:
        for bundle in paced(self._respond(session, exchange, flag)):
            for event in bundle:
                session = session.heard(event)
            yield session

    def _grown_in_steps(self, session: Session, exchange: Exchange, flag: CancelFlag) -> Iterator[Session]:
        """One answer per step, each asked after the ones before it; they make one exchange."""
        before = session.conversation_for(exchange.checkpoint)
        for number, step in enumerate(exchange.steps):
            session = session.with_last(_open(session).beginning(number))
            yield session
            if not step.prompt:
                continue
            is_last = number == len(exchange.steps) - 1
            told = _told(before, _open(session), step)
            for bundle in paced(self._respond(session, exchange, flag, step.task, told)):
                for event in bundle:
                    session = _heard_in_step(session, event, is_last=is_last)
                yield session
            if session.open_item is None:
                return

    def _grown_abreast(self, session: Session, comparison: Comparison, flag: CancelFlag) -> Iterator[Session]:
        sides = [partial(self._respond, session, side, flag) for side in comparison.sides]
        for bundle in paced(abreast(sides), is_text=lambda told: told.is_text):
            for told in bundle:
                session = _heard_aside(session, told)
            yield session
        yield session.stopped()

    def _respond(
        self,
        session: Session,
        exchange: Exchange,
        flag: CancelFlag,
        task: Task | None = None,
        conversation: Conversation | None = None,
    ) -> Iterator[GenerationEvent]:
        is_chosen = exchange.checkpoint == session.checkpoint
        told = conversation or session.conversation_for(exchange.checkpoint).ask(exchange.prompt)
        return self._assistant.respond(
            session.study,
            told,
            task or exchange.task,
            exchange.params,
            checkpoint=exchange.checkpoint,
            precision=(session.precision if is_chosen else "") or None,
            session=session.name,
            shown=session.shown,
            is_cancelled=flag.is_set,
        )


def _open(session: Session) -> Exchange:
    exchange = session.open_exchange
    assert exchange is not None  # the caller holds the question open
    return exchange


def _told(before: Conversation, exchange: Exchange, step: Step) -> Conversation:
    """What the model is told for one step: the conversation, the steps before it, and its own words."""
    for question, answer in exchange.turns:
        before = before.ask(question).answer(answer, exchange.checkpoint)
    return before.ask(step.prompt.replace(FINDINGS_SLOT, exchange.described))


def _heard_in_step(session: Session, event: GenerationEvent, *, is_last: bool) -> Session:
    """A step's end is not the answer's end, unless it was stopped."""
    if isinstance(event, Completed) and not is_last and event.finish_reason is not FinishReason.CANCELLED:
        return session.with_last(_open(session).interim(event))
    return session.heard(event)


def _heard_aside(session: Session, told: Told) -> Session:
    if isinstance(told.said, Exception):
        return session.failed(_problem(told.said), told.side)
    return session if told.said is None else session.heard(told.said, told.side)


def _problem(error: Exception) -> Problem:
    """The card of a failure; of one that is not the project's the class is logged, never its text."""
    if isinstance(error, CxrAssistantError):
        return Problem.of(error)
    _log.error("answer failed: %s", type(error).__name__)
    return _UNEXPECTED
