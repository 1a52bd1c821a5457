"""The near side of the engine's own process: starts it, talks to it, and starts another when it dies.

Knows processes and pipes; imports no torch, so the page is there at once and stays up whatever happens on
the far side.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING

from cxr_assistant.engine.service import Health, MakeService, WorkerState
from cxr_assistant.engine.watchdog import Vitals, Watchdog
from cxr_assistant.engine.worker_process import (
    Cancel,
    Ended,
    Failed,
    Forget,
    Happened,
    Load,
    Loaded,
    Reply,
    Submit,
    serve,
)
from cxr_assistant.errors import OutOfMemory, WorkerUnavailable
from cxr_assistant.generation import (
    Completed,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    IsCancelled,
    Queued,
    Usage,
    never_cancelled,
)

if TYPE_CHECKING:
    from cxr_assistant.models.precision import Device

__all__ = ["ProcessWorker"]

POLL_S = 0.02
"""How often a waiting stream looks at its cancel flag."""

CANCEL_GRACE_S = 0.5
"""How long a cancelled stream waits for the engine's own last word; then it ends by itself."""

CLOSE_GRACE_S = 2.0

STUCK_S = 120.0
"""How long a process that owes an answer may be silent."""


class ProcessWorker:
    """A service in a process of its own, started in the background and restarted when it is dead or stuck."""

    def __init__(self, make_service: MakeService, *, stuck_s: float = STUCK_S) -> None:
        """A process that owes an answer and says nothing for `stuck_s` is ended, and another one started."""
        self._make_service = make_service
        self._stuck_s = stuck_s
        self._watchdog: Watchdog | None = None
        self._lock = Lock()  # guards `_line`; never held across a yield
        self._line: _Line | None = None
        self._keys = itertools.count()

    def start(self) -> None:
        """Start the process and return at once: torch is imported over there."""
        self._get_line()

    def submit(
        self, request: GenerationRequest, is_cancelled: IsCancelled = never_cancelled
    ) -> Iterator[GenerationEvent]:
        """Events of one answer, in order. Raises the project's errors as they were raised over there, and
        WorkerUnavailable when the process dies."""
        line, key = self._get_line(), next(self._keys)
        with line.conversation(key) as replies:
            line.send(Submit(key, request))
            yield from replies.events(is_cancelled)

    def load(self, checkpoint: str) -> None:
        """Bring a checkpoint into memory and wait until it is there."""
        line, key = self._get_line(), next(self._keys)
        with line.conversation(key) as replies:
            line.send(Load(key, checkpoint))
            for _ in replies.events(never_cancelled):
                pass

    def forget(self, session: str) -> None:
        with self._lock:
            line = self._line
        if line is not None and not line.is_dead:
            line.send_if_there(Forget(session))

    def health(self) -> Health:
        with self._lock:
            return Health(WorkerState.STOPPED) if self._line is None else self._line.health()

    def close(self) -> None:
        with self._lock:
            line, self._line = self._line, None
            watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.close()
        if line is not None:
            line.hang_up()

    def _get_line(self) -> _Line:
        with self._lock:
            if self._line is None or self._line.is_dead:
                self._line = _Line.open(self._make_service)
            if self._watchdog is None:
                self._watchdog = Watchdog(self._look_after, min(1.0, self._stuck_s / 10))
            return self._line

    def _look_after(self) -> None:
        """End a process that is stuck or worn out; start another in the place of one that has worked."""
        with self._lock:
            line = self._line
        if line is None:
            return
        # Dead first: what a dead process owed stays owed, so that it would be called stuck for ever.
        if line.is_dead:
            if line.resident is not None:
                self._get_line()
        elif line.must_end(self._stuck_s):
            line.process.kill()  # its pipe ends with it, and everybody who waits is told


@dataclass
class _Line:
    """One process and the connection to it. A thread sorts what comes back into a queue per answer."""

    process: BaseProcess
    connection: Connection
    resident: tuple[str, ...] | None = None
    device: Device | None = None
    is_dead: bool = False
    vitals: Vitals = field(default_factory=Vitals)
    _queues: dict[int, SimpleQueue[Reply]] = field(default_factory=dict)
    _sending: Lock = field(default_factory=Lock)
    _sorting: Lock = field(default_factory=Lock)

    @classmethod
    def open(cls, make_service: MakeService) -> _Line:
        context = multiprocessing.get_context("spawn")  # a fork would inherit threads, locks and CUDA
        near, far = context.Pipe()
        process = context.Process(target=serve, args=(far, make_service), name="cxr-engine", daemon=True)
        process.start()
        far.close()  # so that the end of the process is the end of the pipe
        line = cls(process, near)
        Thread(target=line._sort_replies, name="cxr-engine-replies", daemon=True).start()
        return line

    def conversation(self, key: int) -> _Conversation:
        return _Conversation(self, key)

    def must_end(self, stuck_s: float) -> bool:
        """Whether the process is stuck or worn out."""
        return self.vitals.is_stuck(stuck_s, self.resident or ()) or self.vitals.is_worn_out

    def send_if_there(self, message: Cancel | Forget) -> None:
        """Send what a dead process has no use for."""
        try:
            self.send(message)
        except WorkerUnavailable:
            pass  # its memory is gone, and every queue says so

    def send(self, message: Submit | Load | Cancel | Forget) -> None:
        if isinstance(message, Submit):
            self.vitals.asked(message.key, message.request.checkpoint)
        try:
            with self._sending:
                self.connection.send(message)
        except OSError as error:
            raise _gone() from error

    def health(self) -> Health:
        if self.is_dead or not self.process.is_alive():
            return Health(WorkerState.STOPPED)
        state = WorkerState.STARTING if self.resident is None else WorkerState.READY
        return Health(state, self.resident or (), len(self._queues), self.process.pid, self.device)

    def hang_up(self) -> None:
        """End the process, whatever it is doing; nothing of an answer outlives it."""
        self.process.terminate()
        self.process.join(CLOSE_GRACE_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(CLOSE_GRACE_S)

    def listen(self, key: int) -> SimpleQueue[Reply]:
        queue: SimpleQueue[Reply] = SimpleQueue()
        with self._sorting:
            self._queues[key] = queue
            if self.is_dead:
                queue.put(Failed(key, _gone()))
        return queue

    def forget(self, key: int) -> None:
        with self._sorting:
            self._queues.pop(key, None)

    def _sort_replies(self) -> None:
        try:
            while True:
                self._sort(self.connection.recv())
        except (EOFError, OSError):
            pass
        with self._sorting:
            self.is_dead = True
            for key, queue in self._queues.items():
                queue.put(Failed(key, _gone()))
        self.process.join()

    def _sort(self, message: list[Reply] | Loaded) -> None:
        """Whatever comes over is a sign of life."""
        self.vitals.heard()
        if isinstance(message, Loaded):
            self.resident, self.device = message.resident, message.device
            return
        for reply in message:
            self._note_end(reply)
            with self._sorting:
                queue = self._queues.get(reply.key)
            if queue is not None:
                queue.put(reply)

    def _note_end(self, reply: Reply) -> None:
        if isinstance(reply, Failed | Ended):
            is_oom = isinstance(reply, Failed) and isinstance(reply.error, OutOfMemory)
            self.vitals.ended(reply.key, out_of_memory=is_oom)


@dataclass
class _Conversation:
    """What comes back for one key; leaving it early cancels over there."""

    line: _Line
    key: int
    _has_ended: bool = False
    _is_waiting: bool = False  # others are in front, so that nothing runs for it

    def __enter__(self) -> _Conversation:
        self._queue = self.line.listen(self.key)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._has_ended and not self.line.is_dead:
            self._cancel()
        self.line.forget(self.key)

    def events(self, is_cancelled: IsCancelled) -> Iterator[GenerationEvent]:
        cancelled_at: float | None = None
        while not self._has_ended:
            if cancelled_at is None and is_cancelled():
                cancelled_at = monotonic()
                self._cancel()
            if cancelled_at is not None and self._is_waiting:
                self._has_ended = True
                yield Completed(FinishReason.CANCELLED, Usage())
                return
            reply = self._next_reply()
            match reply:
                case Happened():
                    self._is_waiting = isinstance(reply.event, Queued) and reply.event.position > 0
                    yield reply.event
                case Failed():
                    self._has_ended = True
                    raise reply.error
                case Ended():
                    self._has_ended = True
                case None if cancelled_at is not None and monotonic() - cancelled_at > CANCEL_GRACE_S:
                    # It is loading, or in the middle of a long prefill: it will see the flag afterwards.
                    yield Completed(FinishReason.CANCELLED, Usage())
                    return

    def _next_reply(self) -> Reply | None:
        try:
            return self._queue.get(timeout=POLL_S)
        except Empty:
            return None

    def _cancel(self) -> None:
        self.line.send_if_there(Cancel(self.key))


def _gone() -> WorkerUnavailable:
    return WorkerUnavailable(
        "The engine stopped while it was working.",
        hint="Ask again: it is started anew with the next question.",
    )
