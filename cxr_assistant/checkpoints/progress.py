"""How far fetching and preparing a checkpoint has come, as one value for terminal and app alike.

Knows bytes and seconds; knows nothing about where they come from or how they are drawn.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["OnProgress", "Progress", "ProgressMeter", "Stage", "ignore_progress"]

GIGABYTE = 1_000_000_000
SPEED_WINDOW_S = 5.0  # long enough to be calm, short enough to notice a stalled line
MIN_INTERVAL_S = 0.1  # ten updates a second are plenty for a bar


class Stage(StrEnum):
    """What is being done, in the order in which it is done."""

    WAITING = "waiting"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    CONVERTING = "converting"
    TESTING = "testing"
    READY = "ready"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One reading of the meter; `seconds_left` is None while nothing moves or the end is not known."""

    stage: Stage
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_s: float = 0.0

    @property
    def fraction(self) -> float:
        """Done, in [0, 1]; 0 while the total is not known."""
        return min(1.0, self.done_bytes / self.total_bytes) if self.total_bytes else 0.0

    @property
    def seconds_left(self) -> float | None:
        if not self.total_bytes or self.bytes_per_s <= 0.0:
            return None
        return max(0, self.total_bytes - self.done_bytes) / self.bytes_per_s

    @property
    def sentence(self) -> str:
        """The line under the bar: `Downloading 3.2 of 13.5 GB, 45 MB/s, 4 min left`."""
        if not self.total_bytes:
            return _VERBS[self.stage]
        amount = (
            f"{_VERBS[self.stage]} {self.done_bytes / GIGABYTE:.2f} of {self.total_bytes / GIGABYTE:.2f} GB"
        )
        if self.seconds_left is None:
            return amount
        return f"{amount}, {self.bytes_per_s / 1e6:.0f} MB/s, {_duration(self.seconds_left)} left"


OnProgress = Callable[[Progress], None]
"""Called from the thread that does the work, at most about ten times a second."""


def ignore_progress(progress: Progress) -> None:
    return None


class ProgressMeter:
    """Counts the bytes of one stage and tells `on_progress`, with the speed of the last seconds."""

    def __init__(
        self,
        stage: Stage,
        total_bytes: int,
        on_progress: OnProgress,
        *,
        done_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stage, self._total, self._done = stage, total_bytes, done_bytes
        self._on_progress, self._clock = on_progress, clock
        self._readings: deque[tuple[float, int]] = deque([(clock(), done_bytes)])
        self._told = float("-inf")
        self._tell(clock())

    def add(self, num_bytes: int) -> None:
        """Count `num_bytes` more; negative when a server made the client start a file again."""
        self._done += num_bytes
        now = self._clock()
        self._readings.append((now, self._done))
        while len(self._readings) > 2 and now - self._readings[0][0] > SPEED_WINDOW_S:
            self._readings.popleft()
        if now - self._told >= MIN_INTERVAL_S or self._done >= self._total:
            self._tell(now)

    def _tell(self, now: float) -> None:
        self._told = now
        (then, had), seconds = self._readings[0], now - self._readings[0][0]
        speed = (self._done - had) / seconds if seconds > 0 and now > then else 0.0
        self._on_progress(
            Progress(
                stage=self._stage, done_bytes=self._done, total_bytes=self._total, bytes_per_s=max(0.0, speed)
            )
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


_VERBS = {
    Stage.WAITING: "Waiting for another process that prepares this model",
    Stage.DOWNLOADING: "Downloading",
    Stage.VERIFYING: "Verifying",
    Stage.CONVERTING: "Converting",
    Stage.TESTING: "Testing that the answer depends on the image",
    Stage.READY: "Ready",
}
