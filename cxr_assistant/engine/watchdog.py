"""When an engine process must be ended: it is stuck, or it ran out of memory too often.

Knows when something was sent over and when something came back; must not know processes, models or requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from time import monotonic

__all__ = ["LOADING_FACTOR", "Vitals", "Watchdog"]

LOADING_FACTOR = 10
"""Loading says nothing for as long as it takes: it may be silent so many times longer than an answer."""

MAX_OUT_OF_MEMORY = 3
OUT_OF_MEMORY_WINDOW_S = 300.0
"""After so many within this time the allocator is taken to be broken for good."""


@dataclass
class Vitals:
    """Signs of life of one process: what it was asked and has not ended, and when it last said anything."""

    clock: Callable[[], float] = monotonic
    _asked: dict[int, tuple[float, str]] = field(default_factory=dict)
    _heard_at: float = float("-inf")
    _out_of_memory: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_OUT_OF_MEMORY))
    _lock: Lock = field(default_factory=Lock)

    def asked(self, key: int, checkpoint: str) -> None:
        with self._lock:
            self._asked[key] = (self.clock(), checkpoint)

    def heard(self) -> None:
        self._heard_at = self.clock()

    def ended(self, key: int, *, out_of_memory: bool = False) -> None:
        """The process itself said that `key` is over; that nobody waits for it any more is no sign."""
        with self._lock:
            self._asked.pop(key, None)
        if out_of_memory:
            self._out_of_memory.append(self.clock())

    def is_stuck(self, stuck_s: float, resident: tuple[str, ...]) -> bool:
        """Whether it owes an answer and has been silent for too long; longer where it has a model to load."""
        with self._lock:
            owed = tuple(self._asked.values())
        if not owed:
            return False
        is_loading = any(checkpoint not in resident for _, checkpoint in owed)
        silent_s = self.clock() - max(self._heard_at, min(since for since, _ in owed))
        return silent_s > stuck_s * (LOADING_FACTOR if is_loading else 1)

    @property
    def is_worn_out(self) -> bool:
        """Whether it ran out of memory too often of late; it is ended when it owes nothing."""
        times = self._out_of_memory
        is_often = len(times) == MAX_OUT_OF_MEMORY and self.clock() - times[0] < OUT_OF_MEMORY_WINDOW_S
        return is_often and not self._asked


class Watchdog:
    """A thread that looks every so often; `look` does what there is to do."""

    def __init__(self, look: Callable[[], None], every_s: float) -> None:
        self._look = look
        self._every_s = every_s
        self._is_over = Event()
        self._thread = Thread(target=self._run, name="cxr-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._is_over.set()

    def _run(self) -> None:
        while not self._is_over.wait(self._every_s):
            self._look()
