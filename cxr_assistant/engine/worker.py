"""Where torch lives: in this process or in one of its own, behind submit -> events, cancel, health.

Knows requests, events and processes; must not know models, and imports no torch: a service is made on the
other side, by a callable that can be pickled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from threading import Lock
from typing import Protocol

from cxr_assistant.engine.process_worker import ProcessWorker
from cxr_assistant.engine.service import Health, MakeService, Service, WorkerState, changes_only
from cxr_assistant.generation import GenerationEvent, GenerationRequest, IsCancelled, never_cancelled

__all__ = ["Health", "InlineWorker", "MakeService", "ProcessWorker", "Service", "Worker", "WorkerState"]


class Worker(Protocol):
    """The one way to an answer. Errors of the project come out of `submit` as they were raised."""

    def start(self) -> None:
        """Get ready in the background; harmless when it is."""

    def submit(
        self, request: GenerationRequest, is_cancelled: IsCancelled = never_cancelled
    ) -> Iterator[GenerationEvent]:
        """Events of one answer; closing the iterator cancels it."""

    def load(self, checkpoint: str) -> None:
        """Bring a checkpoint into memory, so that the first answer need not wait for it."""

    def forget(self, session: str) -> None:
        """Free what is kept of a visitor's films and words, if anything; returns at once."""

    def health(self) -> Health:
        """How the worker is, at once and without waiting for it."""

    def close(self) -> None:
        """End it; a later submit starts it again."""


class InlineWorker:
    """The service in this process, made at the first request; for tests, notebooks and the command line."""

    def __init__(self, make_service: MakeService) -> None:
        self._make_service = make_service
        self._service: Service | None = None
        self._lock = Lock()  # never held across a yield
        self._num_active = 0

    def start(self) -> None:
        self._get_service()

    def submit(
        self, request: GenerationRequest, is_cancelled: IsCancelled = never_cancelled
    ) -> Iterator[GenerationEvent]:
        self._count(+1)
        try:
            with closing(changes_only(self._get_service().generate(request, is_cancelled))) as events:
                yield from events
        finally:
            self._count(-1)

    def load(self, checkpoint: str) -> None:
        self._get_service().load(checkpoint)

    def forget(self, session: str) -> None:
        with self._lock:
            service = self._service
        if service is not None:
            service.forget(session)

    def health(self) -> Health:
        if self._service is None:
            return Health(WorkerState.STARTING)
        service = self._service
        return Health(WorkerState.READY, service.resident, self._num_active, device=service.device)

    def close(self) -> None:
        with self._lock:
            self._service = None

    def _get_service(self) -> Service:
        with self._lock:
            if self._service is None:
                self._service = self._make_service()
            return self._service

    def _count(self, step: int) -> None:
        with self._lock:
            self._num_active += step
