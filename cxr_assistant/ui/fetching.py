"""Adding a model: what it takes, then one fetch as a stream of views, each a little further than the last.

Knows the assistant and the cancel flag; draws nothing (cards.py) and wires nothing (app.py). A fetch is no
part of a visitor's session, so a conversation can go on beside it; leaving the page ends it, and what has
arrived is kept.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from cxr_assistant.assistant import Assistant
from cxr_assistant.errors import CxrAssistantError
from cxr_assistant.ui.exchange import Problem
from cxr_assistant.ui.switchboard import CancelFlag, Switchboard

if TYPE_CHECKING:
    from cxr_assistant.checkpoints.progress import Progress

__all__ = ["INTERVAL_S", "FetchPhase", "FetchView", "Fetcher"]

INTERVAL_S = 0.2  # five readings a second; the meter itself tells at most ten

_log = logging.getLogger(__name__)
_UNEXPECTED = Problem(
    "Something went wrong while the model was fetched; nothing half-made was kept.",
    "Try again: what was downloaded is used.",
    "unexpected",
)
_STOPPED = Problem(
    "Fetching was stopped.", "What has arrived is kept: fetch again to go on from there.", "stopped"
)


class FetchPhase(StrEnum):
    """How far adding a model has come."""

    OFFERED = "offered"
    RUNNING = "running"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class FetchView:
    """What the panel shows of one model; `plan` says what fetching it takes.

    is_here: its weights are on this computer, and only the licence is to be accepted.
    """

    checkpoint: str
    phase: FetchPhase = FetchPhase.OFFERED
    plan: str = ""
    is_here: bool = False
    progress: Progress | None = None
    problem: Problem | None = None

    def failed(self, problem: Problem) -> FetchView:
        return replace(self, phase=FetchPhase.FAILED, problem=problem)


class Fetcher:
    """Planning and fetching for any visitor: holds the assistant and the flags, nothing else."""

    def __init__(self, assistant: Assistant, switchboard: Switchboard) -> None:
        self._assistant = assistant
        self._switchboard = switchboard

    def plan(self, name: str) -> FetchView:
        """What fetching would take, or why it cannot be done; downloads nothing."""
        view = FetchView(name)
        try:
            if self._assistant.is_ready(name):
                if self._assistant.is_licence_accepted(name):
                    return replace(view, phase=FetchPhase.READY)
                return replace(view, is_here=True, plan="Nothing to download: the model is on this computer")
            return replace(view, plan=self._assistant.fetch_plan(name).sentence)
        except CxrAssistantError as error:
            return view.failed(Problem.of(error))
        except Exception as error:  # the outermost edge: the class is logged, never its text
            _log.error("planning failed: %s", type(error).__name__)
            return view.failed(_UNEXPECTED)

    def fetch(self, name: str, visitor: str) -> Iterator[FetchView]:
        """Accept the licence, which the person was shown, and fetch; the last view is READY or FAILED."""
        view = FetchView(name, FetchPhase.RUNNING)
        with self._switchboard.running(visitor) as flag:
            yield view
            job = _Job(self._assistant, name, flag)
            while not job.is_done.wait(INTERVAL_S) and not flag.is_set():
                if job.latest is not view.progress:
                    view = replace(view, progress=job.latest)
                    yield view
            if flag.is_superseded:
                return
            if not job.is_done.is_set():  # stopped: the thread ends at its next reading of the meter
                yield view.failed(_STOPPED)
            else:
                yield view.failed(job.problem) if job.problem else replace(view, phase=FetchPhase.READY)

    def stop(self, visitor: str) -> bool:
        return self._switchboard.stop(visitor)


class _Job:
    """One fetch in a thread of its own; `latest` is the newest reading of its meter."""

    def __init__(self, assistant: Assistant, name: str, flag: CancelFlag) -> None:
        self.latest: Progress | None = None
        self.problem: Problem | None = None
        self.is_done = threading.Event()
        self._assistant, self._name, self._flag = assistant, name, flag
        threading.Thread(target=self._run, name="cxr-fetch", daemon=True).start()

    def _run(self) -> None:
        try:
            self._assistant.accept_licence(self._name)
            self._assistant.fetch(self._name, self._hear, self._flag.is_set)
        except CxrAssistantError as error:
            self.problem = Problem.of(error)
        except Exception as error:  # the outermost edge: the class is logged, never its text
            _log.error("fetching failed: %s", type(error).__name__)
            self.problem = _UNEXPECTED
        finally:
            self.is_done.set()

    def _hear(self, progress: Progress) -> None:
        self.latest = progress
