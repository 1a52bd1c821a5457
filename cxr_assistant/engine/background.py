"""What takes long and is no step of the engine, done beside the loop that serves everybody.

Knows threads and the one promise of a pull; must not know models. Nothing here outlives its generator: what
is finished after nobody wants it any more is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Generic, TypeVar

from cxr_assistant.generation import IsCancelled, Queued, never_cancelled

__all__ = ["in_background"]

T = TypeVar("T")

PATIENCE_S = 0.002
"""How long a pull waits for a deed that is not done: less than a step takes, long enough not to spin."""


def in_background(
    deed: Callable[[], T], undo: Callable[[T], None], is_cancelled: IsCancelled = never_cancelled
) -> Generator[Queued, None, T | None]:
    """Run `deed` in a thread of its own and return what it returned, or raise what it raised.

    Until then every pull says `Queued(0)`, which is no news to anybody. After a cancel, or once the generator
    is closed, nobody waits for the deed: None is returned, and `undo` gets the result when there is one.
    """
    work = _Work(deed, undo)
    Thread(target=work.run, name="cxr-preparing", daemon=True).start()
    try:
        while not work.done.wait(PATIENCE_S):
            if is_cancelled():
                return None
            yield Queued(0)
        return work.take()
    finally:
        work.abandon()


@dataclass
class _Work(Generic[T]):
    """One deed and its result, which belongs to whoever takes it, or to nobody."""

    deed: Callable[[], T]
    undo: Callable[[T], None]
    done: Event = field(default_factory=Event)
    _results: list[T] = field(default_factory=list)
    _error: BaseException | None = None
    _is_abandoned: bool = False
    _lock: Lock = field(default_factory=Lock)

    def run(self) -> None:
        try:
            result = self.deed()
        except BaseException as error:  # raised again where it is waited for
            self._error = error
        else:
            with self._lock:
                self._results.append(result)
            if self._is_abandoned:
                self.abandon()
        finally:
            self.done.set()

    def take(self) -> T:
        if self._error is not None:
            raise self._error
        with self._lock:
            return self._results.pop()

    def abandon(self) -> None:
        """From now on a result that was not taken is undone, by whoever finds it."""
        self._is_abandoned = True
        with self._lock:
            left, self._results = self._results, []
        for result in left:
            self.undo(result)
