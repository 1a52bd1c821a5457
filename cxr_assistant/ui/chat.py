"""The conversation: what a visitor asks becomes a stream of sessions, each a little further than the last.

Knows the assistant, the session and the cancel flag; draws nothing (render.py) and wires nothing (app.py).
Every failure ends as a card in the chat, and the session goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from cxr_assistant.assistant import Assistant
from cxr_assistant.errors import CxrAssistantError, GenerationError, PromptTooLong
from cxr_assistant.generation import SamplingParams
from cxr_assistant.tasks import Task
from cxr_assistant.ui.exchange import Exchange, Problem
from cxr_assistant.ui.pacing import paced
from cxr_assistant.ui.session import Session
from cxr_assistant.ui.switchboard import CancelFlag, Switchboard

__all__ = ["MAX_INDICATION", "MAX_PROMPT", "Chat", "clean"]

MAX_PROMPT = 2000
MAX_INDICATION = 300

_log = logging.getLogger(__name__)
_UNEXPECTED = Problem(
    "Something went wrong inside the assistant; your study is still here.",
    "Try again. If it happens twice, tell whoever runs this server the time of day.",
    "unexpected",
)


class Chat:
    """Asking, stopping and taking back, for any visitor: holds the assistant and the flags, nothing else."""

    def __init__(self, assistant: Assistant, switchboard: Switchboard) -> None:
        self._assistant = assistant
        self._switchboard = switchboard

    def send(
        self, session: Session, visitor: str, *, task: str, prompt: str, indication: str
    ) -> Iterator[Session]:
        """Ask something new; yields the session each time there is more to see."""
        try:
            asked = _settled(session, indication).ask(_task(task), clean(prompt, MAX_PROMPT))
        except CxrAssistantError as error:
            yield session.remark(Problem.of(error))
            return
        yield from self.answer(asked, visitor)

    def retry(self, session: Session, visitor: str, *, indication: str) -> Iterator[Session]:
        yield from self.answer(_settled(session, indication).retry(), visitor)

    def edit(
        self, session: Session, visitor: str, *, number: int, prompt: str, indication: str
    ) -> Iterator[Session]:
        try:
            asked = _settled(session, indication).edit(number, clean(prompt, MAX_PROMPT))
        except CxrAssistantError as error:
            yield session.remark(Problem.of(error))
            return
        yield from self.answer(asked, visitor)

    def undo(self, session: Session, visitor: str) -> Session:
        self._switchboard.dismiss(visitor)
        return session.stopped().undo()

    def stop(self, visitor: str) -> bool:
        """Set the cancel flag; the stream that watches it says the rest."""
        return self._switchboard.stop(visitor)

    def answer(self, session: Session, visitor: str) -> Iterator[Session]:
        """Answer the question that is open; a session without one is handed back as it is."""
        exchange = session.open_exchange
        if exchange is None:
            yield session
            return
        with self._switchboard.running(visitor) as flag:
            yield session
            for grown in self._growing(session, exchange, flag):
                if flag.is_superseded:
                    return
                yield grown

    def _growing(self, session: Session, exchange: Exchange, flag: CancelFlag) -> Iterator[Session]:
        """The session after each bundle of events; the last one has no open question."""
        try:
            events = self._assistant.respond(
                session.study,
                session.conversation,
                exchange.task,
                self._params(exchange.checkpoint),
                checkpoint=exchange.checkpoint,
                precision=session.precision or None,
                shown=session.shown,
                is_cancelled=flag.is_set,
            )
            for bundle in paced(events):
                for event in bundle:
                    session = session.heard(event)
                yield session
        except CxrAssistantError as error:
            session = session.failed(Problem.of(error))
        except Exception as error:  # the outermost edge: the class is logged, never its text
            _log.error("answer failed: %s", type(error).__name__)
            session = session.failed(_UNEXPECTED)
        yield session.stopped()

    def _params(self, name: str) -> SamplingParams:
        return SamplingParams(max_new_tokens=self._assistant.get_checkpoint(name).max_new_tokens)


def clean(text: str, longest: int) -> str:
    """`text` without control characters and outer space; raises GenerationError when empty or too long."""
    kept = "".join(c for c in text if c == "\n" or c.isprintable()).strip()
    if not kept:
        raise GenerationError(
            "The question is empty.", hint="Write what you want to know.", code="empty_question"
        )
    if len(kept) > longest:
        raise PromptTooLong(
            f"The question has {len(kept)} characters; allowed: {longest}.", hint="Shorten it."
        )
    return kept


def _settled(session: Session, indication: str) -> Session:
    """The session with the newest indication and no question left open."""
    printable = "".join(c if c.isprintable() else " " for c in indication)
    return session.stopped().with_indication(printable[:MAX_INDICATION])


def _task(name: str) -> Task:
    if name not in set(Task):
        raise GenerationError(
            "This task is not known.", hint="Use one of the task buttons.", code="unknown_task"
        )
    return Task(name)
