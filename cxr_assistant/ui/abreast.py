"""Two answers at once: each is read in a thread of its own, and one iterator tells what came and from which.

Knows iterators and threads; knows no model and no page. A failure of one side is told like an event, and the
other goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread

from cxr_assistant.generation import GenerationEvent, TextDelta

__all__ = ["Told", "abreast"]


@dataclass(frozen=True)
class Told:
    """What one side said: an event, the exception in which it ended, or None at its end."""

    side: int
    said: GenerationEvent | Exception | None

    @property
    def is_text(self) -> bool:
        return isinstance(self.said, TextDelta)


def abreast(sides: Sequence[Callable[[], Iterator[GenerationEvent]]]) -> Iterator[Told]:
    """What all `sides` say, in the order in which it comes; ends when every side has ended.

    Whoever leaves early must end the sides by other means (the cancel flag): a thread cannot be closed.
    """
    told: SimpleQueue[Told] = SimpleQueue()
    for number, start in enumerate(sides):
        Thread(target=_read, args=(number, start, told), name=f"cxr-side-{number}", daemon=True).start()
    num_left = len(sides)
    while num_left:
        next_told = told.get()
        num_left -= next_told.said is None
        yield next_told


def _read(side: int, start: Callable[[], Iterator[GenerationEvent]], told: SimpleQueue[Told]) -> None:
    try:
        for event in start():
            told.put(Told(side, event))
    except Exception as error:  # crosses to the thread that draws, which knows what to say of it
        told.put(Told(side, error))
    finally:
        told.put(Told(side, None))
