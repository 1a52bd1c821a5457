"""Events -> bundles at the speed of the eye: the first word at once, then about 25 updates a second.

Knows events and a clock. A browser that is sent every token falls seconds behind in a long chat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from cxr_assistant.generation import TextDelta

__all__ = ["INTERVAL_S", "paced"]

INTERVAL_S = 0.04
_Event = TypeVar("_Event")


def _is_text(event: Any) -> bool:
    return isinstance(event, TextDelta)


def paced(
    events: Iterable[_Event],
    *,
    is_text: Callable[[_Event], bool] = _is_text,
    interval_s: float = INTERVAL_S,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[_Event, ...]]:
    """All of `events`, in order, in bundles; `is_text` tells those that may wait.

    Text waits until `interval_s` has passed since text was last sent; the first text and every other kind of
    event are sent at once, and take along what waits. Nothing is left behind when `events` end or raise.
    """
    waiting: list[_Event] = []
    last_sent_s = float("-inf")
    try:
        for event in events:
            waiting.append(event)
            if not is_text(event):
                yield tuple(waiting)
                waiting.clear()
            elif clock() - last_sent_s >= interval_s:
                last_sent_s = clock()
                yield tuple(waiting)
                waiting.clear()
    except Exception:
        if waiting:
            yield tuple(waiting)
        raise
    if waiting:
        yield tuple(waiting)
