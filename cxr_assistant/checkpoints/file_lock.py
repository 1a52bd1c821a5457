"""A lock between processes, as a file; whoever waits for it is heard of, and can be stopped meanwhile.

Knows files; must not know what is done while the lock is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["holding"]

POLL_S = 0.5


@contextmanager
def holding(path: Path, while_waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock `path`; `while_waiting` is called twice a second until it is free, and may raise."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=POLL_S)
            break
        except Timeout:
            while_waiting()
    try:
        yield
    finally:
        lock.release()
