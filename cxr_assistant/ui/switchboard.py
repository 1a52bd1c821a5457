"""One cancel flag per running answer, and nothing else: the only thing that two requests of a visitor share.

Knows Gradio's session identifiers as opaque keys. Holds no study, no text and no result: a flag is set by
Stop, by a closed tab or by the next question, and read by the engine before prefill and at each token.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["CancelFlag", "Switchboard"]


class CancelFlag(threading.Event):
    """Set when an answer should end; `is_superseded` when nobody wants to see it any more."""

    def __init__(self) -> None:
        super().__init__()
        self.is_superseded = False

    def supersede(self) -> None:
        self.is_superseded = True
        self.set()


class Switchboard:
    """Flags of the answers that are being written now, by visitor."""

    def __init__(self) -> None:
        self._flags: dict[str, CancelFlag] = {}
        self._lock = threading.Lock()

    @contextmanager
    def running(self, visitor: str) -> Iterator[CancelFlag]:
        """The flag of a new answer; an older answer of the same visitor is told to stop."""
        flag = CancelFlag()
        with self._lock:
            older = self._flags.get(visitor)
            self._flags[visitor] = flag
        if older is not None:
            older.supersede()
        try:
            yield flag
        finally:
            flag.set()
            with self._lock:
                if self._flags.get(visitor) is flag:
                    del self._flags[visitor]

    def stop(self, visitor: str) -> bool:
        """End the visitor's answer where it is; False when none is being written."""
        with self._lock:
            flag = self._flags.get(visitor)
        if flag is None:
            return False
        flag.set()
        return True

    def dismiss(self, visitor: str) -> None:
        """End the visitor's answer and keep what is left of it from appearing: the study changed under it."""
        with self._lock:
            flag = self._flags.get(visitor)
        if flag is not None:
            flag.supersede()

    def __len__(self) -> int:
        return len(self._flags)
