"""One cancel flag per running answer, and nothing else: the only thing that two requests of a visitor share.

Knows Gradio's session identifiers as opaque keys. Holds no study, no text and no result: a flag is set by
Stop, by a closed tab, by the next question, by the clock, by a reader who reads no more or by the end of the
session, and it is read by the engine while waiting, before prefill and at each token.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum

__all__ = ["CancelFlag", "Ending", "Gate", "Switchboard"]


class Ending(StrEnum):
    """Why an answer was ended before its own end."""

    STOPPED = "stopped"  # by the person
    SUPERSEDED = "superseded"  # by the next question, or because the study changed under it
    LEFT = "left"  # the tab was closed, or the session ended
    TIMED_OUT = "timed-out"
    STALLED = "stalled"  # whoever asked takes nothing in any more


class CancelFlag(threading.Event):
    """Set when an answer should end; `ending` says why, the first reason counts."""

    def __init__(self, *, lasts_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._until = None if lasts_s is None else clock() + lasts_s
        self.ending: Ending | None = None
        self.born_at = clock()

    @property
    def age_s(self) -> float:
        return self._clock() - self.born_at

    def is_set(self) -> bool:
        if not super().is_set() and self._until is not None and self._clock() > self._until:
            self.end(Ending.TIMED_OUT)
        return super().is_set()

    def end(self, ending: Ending) -> None:
        if not super().is_set():
            self.ending = ending
        self.set()

    @property
    def is_superseded(self) -> bool:
        """Whether nobody wants to see what was written any more."""
        return self.ending in (Ending.SUPERSEDED, Ending.LEFT)

    def supersede(self) -> None:
        self.ending = Ending.SUPERSEDED  # even after Stop: what is left of it must not appear
        self.set()


Gate = Callable[[str, CancelFlag], AbstractContextManager[object]]
"""Lets a visitor's answer in for as long as it lasts, or raises Busy."""


class Switchboard:
    """Flags of the answers that are being written now, by visitor."""

    def __init__(self) -> None:
        self._gate: Gate | None = None
        self._lasts_s: float | None = None
        self._flags: dict[str, list[CancelFlag]] = {}
        self._lock = threading.Lock()

    def guard(self, gate: Gate, *, lasts_s: float) -> None:
        """Ask `gate` before each answer from now on, and end an answer by itself after `lasts_s` seconds."""
        self._gate, self._lasts_s = gate, lasts_s

    @contextmanager
    def running(
        self, visitor: str, *, beside: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> Iterator[CancelFlag]:
        """The flag of a new answer; older answers of the same visitor are told to stop, unless it is one
        `beside` them: a program may wait for several.

        Raises Busy when the gate lets no more answers in.
        """
        if not beside:
            self.dismiss(visitor)
        flag = CancelFlag(lasts_s=self._lasts_s, clock=clock)
        with self._gate(visitor, flag) if self._gate else nullcontext():
            with self._lock:
                self._flags.setdefault(visitor, []).append(flag)
            try:
                yield flag
            finally:
                flag.set()
                self._drop(visitor, flag)

    def stop(self, visitor: str, ending: Ending = Ending.STOPPED) -> bool:
        """End the visitor's answers where they are; False when none is being written."""
        flags = self._of(visitor)
        for flag in flags:
            flag.end(ending)
        return bool(flags)

    def dismiss(self, visitor: str) -> None:
        """End the visitor's answers and keep what is left of them from appearing: the study changed."""
        for flag in self._of(visitor):
            flag.supersede()

    def running_since(self) -> dict[str, float]:
        """Who waits for an answer, and since when (on the monotonic clock)."""
        with self._lock:
            return {visitor: min(flag.born_at for flag in flags) for visitor, flags in self._flags.items()}

    def __len__(self) -> int:
        return len(self._flags)

    def _of(self, visitor: str) -> tuple[CancelFlag, ...]:
        with self._lock:
            return tuple(self._flags.get(visitor, ()))

    def _drop(self, visitor: str, flag: CancelFlag) -> None:
        with self._lock:
            self._flags[visitor].remove(flag)
            if not self._flags[visitor]:
                del self._flags[visitor]
