"""What answers on the far side of a worker, and how a worker says that it is well. Values and protocols."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from cxr_assistant.generation import GenerationEvent, GenerationRequest, IsCancelled, Queued

if TYPE_CHECKING:
    from cxr_assistant.models.precision import Device

__all__ = ["Health", "MakeService", "Service", "WorkerState", "changes_only"]


class WorkerState(StrEnum):
    """STARTING: not yet able to answer. READY: waits or works. STOPPED: the next submit starts it anew."""

    STARTING = "starting"
    READY = "ready"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Health:
    """How a worker is: `resident` names the checkpoints in memory, `num_active` the answers in the making.

    `device` is what the engine computes on and what was free there when the residents last changed; None
    while the worker has not said so yet.
    """

    state: WorkerState
    resident: tuple[str, ...] = ()
    num_active: int = 0
    pid: int | None = None
    device: Device | None = None


class Service(Protocol):
    """What answers on the far side of a worker."""

    def generate(self, request: GenerationRequest, is_cancelled: IsCancelled) -> Iterator[GenerationEvent]:
        """Events of one answer. No pull takes longer than one step of the engine: where there is nothing new
        `Queued` is said again, for a worker that serves many to drop (see `changes_only`)."""

    def load(self, checkpoint: str) -> None: ...

    def forget(self, session: str) -> None: ...

    @property
    def resident(self) -> tuple[str, ...]: ...

    @property
    def device(self) -> Device | None: ...


MakeService = Callable[[], Service]
"""Top-level or a partial of it, so that it can be sent to another process."""


def changes_only(events: Iterator[GenerationEvent]) -> Generator[GenerationEvent, None, None]:
    """`events` without a `Queued` that says what is known; closing it closes them."""
    position = 0
    with closing(events):  # type: ignore[type-var]  # generators, all of them
        for event in events:
            if isinstance(event, Queued):
                if event.position == position:
                    continue
                position = event.position
            yield event
