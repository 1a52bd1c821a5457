"""What is done once a second, whether or not anybody asks: pages that ended are forgotten, files swept away.

Knows the ledger, the cancel flags and the directory of uploads; what forgetting a page means is told to it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic

from cxr_assistant.settings import Limits
from cxr_assistant.ui.switchboard import Ending, Switchboard
from cxr_assistant.ui.web.ownership import Ledger
from cxr_assistant.ui.web.uploads import Sweeper

__all__ = ["Tending"]

TICK_S = 1.0
SWEEP_S = 5.0

_log = logging.getLogger(__name__)


class Tending:
    """A thread with one loop; `round` is one turn of it."""

    def __init__(
        self,
        limits: Limits,
        ledger: Ledger,
        switchboards: Sequence[Switchboard],
        upload_dir: Path,
        *,
        forget: Callable[[str], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`forget` drops all that is kept for a page of that name."""
        self._limits = limits
        self._ledger = ledger
        self._switchboards = tuple(switchboards)
        self._uploads = Sweeper(upload_dir, clock)
        self._forget = forget
        self._clock = clock
        self._swept_at = float("-inf")
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cxr-tending", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Forget every page and sweep every file; nothing of anybody is left."""
        self._is_over.set()
        for page in self._ledger.pages():
            self._end(page.name)
        self._uploads.clear()

    def round(self) -> None:
        for name in self._unheard():
            self._stop(name)
        for name in self._ledger.ended(grace_s=self._limits.page_grace_s, idle_s=self._limits.page_idle_s):
            self._end(name)
        if self._clock() - self._swept_at >= SWEEP_S:
            self._swept_at = self._clock()
            self._uploads.sweep()
            self._ledger.forget_files(lambda path: not Path(path).exists())

    def _unheard(self) -> list[str]:
        """Pages for which an answer is written though nobody has listened for a while."""
        now, names = self._clock(), []
        for board in self._switchboards:
            for name, since in board.running_since().items():
                page = self._ledger.find_page(name)
                heard_at = max(since, page.left_at) if page else now
                if page and not page.listeners and now - heard_at > self._limits.stall_s:
                    names.append(name)
        return names

    def _stop(self, name: str) -> None:
        for board in self._switchboards:
            board.stop(name, Ending.LEFT)

    def _end(self, name: str) -> None:
        self._stop(name)
        self._ledger.close_page(name)
        self._forget(name)

    def _run(self) -> None:
        while not self._is_over.wait(TICK_S):
            try:
                self.round()
            except Exception as error:  # whatever one round met, the next is needed all the more
                _log.error("tending failed: %s", type(error).__name__)
