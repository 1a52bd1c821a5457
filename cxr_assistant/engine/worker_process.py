"""The far side of a ProcessWorker: one loop that takes turns between answers and listens in between.

Knows messages and generators; must not know models. No thread: every active answer is advanced by one
event in turn, and the connection is read between events and whenever somebody asks for the cancel flag.
"""

from __future__ import annotations

import signal
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from cxr_assistant.errors import CxrAssistantError
from cxr_assistant.generation import GenerationEvent, GenerationRequest

if TYPE_CHECKING:
    from cxr_assistant.engine.service import MakeService, Service
    from cxr_assistant.models.precision import Device

__all__ = ["Cancel", "Ended", "Failed", "Forget", "Happened", "Load", "Loaded", "Submit", "serve"]


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
    active: deque[tuple[int, Iterator[GenerationEvent]]] = field(default_factory=deque)
    known: set[int] = field(default_factory=set)  # keys that wait or are active
    cancelled: set[int] = field(default_factory=set)
    told: tuple[str, ...] | None = None

    def run(self) -> None:
        while True:
            self._tell_residents()
            self._listen(until_something=not self.active and not self.waiting)
            while self.waiting:
                self._begin(self.waiting.popleft())
            if self.active:
                self._advance(*self.active.popleft())

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

    def _is_cancelled(self, key: int) -> bool:
        self._listen(until_something=False)
        return key in self.cancelled

    def _begin(self, message: Submit | Load) -> None:
        key = message.key
        if isinstance(message, Submit):
            events = self.service.generate(message.request, lambda: self._is_cancelled(key))
            self.active.append((key, events))
            return
        try:
            self.service.load(message.checkpoint)
        except CxrAssistantError as error:
            self.connection.send(Failed(key, error))
        self._end(key)

    def _advance(self, key: int, events: Iterator[GenerationEvent]) -> None:
        """One event of one answer; it goes to the end of the row, so that all are served alike."""
        try:
            self.connection.send(Happened(key, next(events)))
        except StopIteration:
            self._end(key)
        except CxrAssistantError as error:
            self.connection.send(Failed(key, error))
            self._end(key)
        else:
            self.active.append((key, events))

    def _end(self, key: int) -> None:
        self.known.discard(key)
        self.cancelled.discard(key)
        self.connection.send(Ended(key))

    def _tell_residents(self) -> None:
        if self.service.resident != self.told:
            self.told = self.service.resident
            self.connection.send(Loaded(self.told, self.service.device))
