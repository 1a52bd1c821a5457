"""The far side of a ProcessWorker: one loop that takes turns between answers and listens in between.

Knows messages and generators; must not know models. No thread: every active answer is pulled once in each
round, and the connection is read between rounds and, every few milliseconds, when somebody asks for the flag.
"""

from __future__ import annotations

import signal
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from time import monotonic
from typing import TYPE_CHECKING

from cxr_assistant.engine.background import in_background
from cxr_assistant.errors import CxrAssistantError
from cxr_assistant.generation import GenerationEvent, GenerationRequest, Queued

if TYPE_CHECKING:
    from cxr_assistant.engine.service import MakeService, Service
    from cxr_assistant.models.precision import Device

__all__ = ["Cancel", "Ended", "Failed", "Forget", "Happened", "Load", "Loaded", "Reply", "Submit", "serve"]


LISTEN_EVERY_S = 0.002
"""How often the connection is looked at while the engine steps; a look costs as much as a small product."""

HOLD_BACK_S = 0.02
"""How long what has happened may wait for what happens to others in the same round."""

# ------------------------------------------------------------------------------------- messages, to there


@dataclass(frozen=True)
class Submit:
    """Answer a request; `key` is the number under which its events come back."""

    key: int
    request: GenerationRequest


@dataclass(frozen=True)
class Load:
    key: int
    checkpoint: str


@dataclass(frozen=True)
class Cancel:
    key: int


@dataclass(frozen=True)
class Forget:
    session: str


# ------------------------------------------------------------------------------------- messages, to here


@dataclass(frozen=True)
class Happened:
    key: int
    event: GenerationEvent


@dataclass(frozen=True)
class Failed:
    key: int
    error: CxrAssistantError


@dataclass(frozen=True)
class Ended:
    key: int


Reply = Happened | Failed | Ended


@dataclass(frozen=True)
class Loaded:
    """The service is up, or the checkpoints in memory changed, and with them what is free."""

    resident: tuple[str, ...]
    device: Device | None = None


# -------------------------------------------------------------------------------------------- the process


def serve(connection: Connection, make_service: MakeService) -> None:
    """Run until the other side is gone. An error that is not the project's ends the process: its state is
    not to be trusted, the other side says so and starts another."""
    # The terminal sends Ctrl-C to every process of its group; the one in front decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _Loop(connection, make_service()).run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # nobody is left to answer
    except Exception as error:  # the edge of this process: a traceback would tell what was asked
        sys.stderr.write(f"the engine stopped: {type(error).__name__}\n")
        sys.exit(1)


@dataclass
class _Loop:
    connection: Connection
    service: Service
    waiting: deque[Submit | Load] = field(default_factory=deque)
    active: dict[int, _Answer] = field(default_factory=dict)
    known: set[int] = field(default_factory=set)  # keys that wait or are active
    cancelled: set[int] = field(default_factory=set)
    told: tuple[str, ...] | None = None
    listened_at: float = 0.0

    def run(self) -> None:
        while True:
            self._tell_residents()
            self._listen(until_something=not self.active and not self.waiting)
            while self.waiting:
                self._begin(self.waiting.popleft())
            self._advance_all()

    def _listen(self, *, until_something: bool) -> None:
        while until_something or self.connection.poll():
            message = self.connection.recv()
            until_something = False
            if isinstance(message, Forget):
                self.service.forget(message.session)
            elif not isinstance(message, Cancel):
                self.known.add(message.key)
                self.waiting.append(message)
            elif message.key in self.known:  # else it has ended in the meantime
                self.cancelled.add(message.key)
        self.listened_at = monotonic()

    def _is_cancelled(self, key: int) -> bool:
        if monotonic() - self.listened_at > LISTEN_EVERY_S:
            self._listen(until_something=False)
        return key in self.cancelled

    def _begin(self, message: Submit | Load) -> None:
        key = message.key
        if isinstance(message, Submit):
            events = self.service.generate(message.request, lambda: self._is_cancelled(key))
            self.active[key] = _Answer(events)
            return
        self.active[key] = _Answer(self._loading(message.checkpoint))

    def _loading(self, checkpoint: str) -> Iterator[GenerationEvent]:
        """An answer without a word; those that run go on meanwhile."""
        yield from in_background(lambda: self.service.load(checkpoint), lambda _: None)

    def _advance_all(self) -> None:
        """One pull for every answer, in the order in which they came.

        The first one that has asked before takes a step of the engine, and the others find what it brought
        them: all of it goes in one message, unless a pull takes long.
        """
        replies: list[Reply] = []
        began = monotonic()
        for key, answer in list(self.active.items()):
            replies += self._advance(key, answer)
            if replies and monotonic() - began > HOLD_BACK_S:
                self.connection.send(replies)
                replies, began = [], monotonic()
        if replies:
            self.connection.send(replies)

    def _advance(self, key: int, answer: _Answer) -> list[Reply]:
        try:
            event = next(answer.events)
        except StopIteration:
            return [self._end(key)]
        except CxrAssistantError as error:
            return [Failed(key, error), self._end(key)]
        return [Happened(key, event)] if answer.is_new(event) else []

    def _end(self, key: int) -> Ended:
        self.known.discard(key)
        self.cancelled.discard(key)
        self.active.pop(key, None)
        return Ended(key)

    def _tell_residents(self) -> None:
        if self.service.resident != self.told:
            self.told = self.service.resident
            self.connection.send(Loaded(self.told, self.service.device))


@dataclass
class _Answer:
    events: Iterator[GenerationEvent]
    position: int = 0

    def is_new(self, event: GenerationEvent) -> bool:
        """False for a place in the queue that was told already (see Service.generate)."""
        if not isinstance(event, Queued):
            return True
        is_new, self.position = event.position != self.position, event.position
        return is_new
