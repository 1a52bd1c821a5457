"""Stand-ins: a worker that plays a script, and checkpoints that declare whatever a test needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np

from cxr_assistant.checkpoints.fetching import FetchPlan
from cxr_assistant.checkpoints.progress import OnProgress, Progress, Stage
from cxr_assistant.checkpoints.spec import Checkpoint, Licence, TaskWording
from cxr_assistant.engine.service import Health, WorkerState
from cxr_assistant.errors import CxrAssistantError, DownloadFailed
from cxr_assistant.generation import (
    Completed,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    IsCancelled,
    Prefilled,
    TextDelta,
    Usage,
    never_cancelled,
)
from cxr_assistant.imaging.rendering import Rendering
from cxr_assistant.imaging.transforms import ImageSpec, ResizeRule
from cxr_assistant.models.precision import Device
from cxr_assistant.study import Radiograph, ViewPosition
from cxr_assistant.tasks import Task

Script = Callable[[GenerationRequest], Sequence[GenerationEvent] | Exception]


def speak(text: str) -> Script:
    """A script that answers every request with `text`, word by word."""

    def script(_: GenerationRequest) -> list[GenerationEvent]:
        words = [TextDelta(word + " ", (-0.1,)) for word in text.split()]
        usage = Usage(prompt_tokens=9, completion_tokens=len(words), time_to_first_token_s=0.01, total_s=0.02)
        return [Prefilled(9), *words, Completed(FinishReason.STOP, usage)]

    return script


@dataclass
class ScriptedWorker:
    """Plays `script` for each request and remembers what it was asked; an exception in it is raised."""

    script: Script = field(default_factory=lambda: speak("The lungs are clear."))
    requests: list[GenerationRequest] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    is_closed: bool = False
    device: Device | None = None
    resident: tuple[str, ...] = ("embedded",)

    def start(self) -> None:
        return None

    def submit(
        self, request: GenerationRequest, is_cancelled: IsCancelled = never_cancelled
    ) -> Iterator[GenerationEvent]:
        self.requests.append(request)
        played = self.script(request)
        if isinstance(played, Exception):
            raise played
        for event in played:
            if is_cancelled():
                yield Completed(FinishReason.CANCELLED, Usage())
                return
            is_last = isinstance(event, Completed)
            yield replace(event, checkpoint=request.checkpoint, revision="0" * 40) if is_last else event

    def load(self, checkpoint: str) -> None:
        self.loaded.append(checkpoint)

    def forget(self, session: str) -> None:
        self.forgotten.append(session)

    def health(self) -> Health:
        return Health(WorkerState.READY, self.resident, device=self.device)

    def close(self) -> None:
        self.is_closed = True


def make_film(value: int = 0, view: ViewPosition = ViewPosition.PA, **facts: Any) -> Radiograph:
    """A small film; films with different `value` are different films."""
    stored = np.full((8, 8), value, np.uint16)
    return Radiograph(stored=stored, bits_stored=12, view=view, **facts)


def make_checkpoint(name: str = "embedded", **facts: Any) -> Checkpoint:
    """A checkpoint declaration; by default one that reads one film and knows phantoms only."""
    declared: dict[str, Any] = {
        "name": name,
        "title": name.title(),
        "summary": "A stand-in.",
        "repository": f"example/{name}",
        "revision": "0" * 40,
        "files": (),
        "licence": Licence(name="MIT", url="https://example.org", terms="Free.", needs_acceptance=False),
        "citation": "Nobody, 2026.",
        "tasks": {
            Task.FINDINGS: TaskWording(prompt="Describe the findings."),
            Task.QUESTION: TaskWording(prompt="{text}", needs_text=True),
        },
        "image": ImageSpec(
            size_px=8,
            channels=1,
            mean=(0.5,),
            std=(0.5,),
            resize=ResizeRule.SQUASH,
            resampling="bicubic",
            rendering=Rendering.DISPLAY,
        ),
        "max_images": 1,
        "views": frozenset(ViewPosition),
        "supports_prior": False,
        "supports_boxes": False,
        "multi_turn": True,
        "phantoms_only": name == "embedded",
        "context_length": 512,
        "can": ("write findings",),
        "cannot": ("anything else",),
        "weakness": "It is a stand-in.",
        "num_parameters": 1000,
    }
    return Checkpoint(**declared | facts)


@dataclass
class StoreDouble:
    """Keeps no weights: remembers what it was asked to do. `steps` are the readings of one fetch."""

    ready: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    may_fetch: bool = True
    steps: tuple[Progress, ...] = (
        Progress(stage=Stage.DOWNLOADING, done_bytes=10**9, total_bytes=4 * 10**9, bytes_per_s=5e7),
        Progress(stage=Stage.CONVERTING, done_bytes=3 * 10**9, total_bytes=4 * 10**9),
    )
    error: CxrAssistantError | None = None
    pause_s: float = 0.0
    stalls: bool = False  # after the first reading, until it is cancelled

    def is_ready(self, checkpoint: Checkpoint) -> bool:
        return checkpoint.name in self.ready

    def is_licence_accepted(self, checkpoint: Checkpoint) -> bool:
        return checkpoint.name in self.accepted or not checkpoint.licence.needs_acceptance

    def accept_licence(self, checkpoint: Checkpoint) -> None:
        self.accepted.add(checkpoint.name)

    def plan(self, checkpoint: Checkpoint) -> FetchPlan:
        if self.error:
            raise self.error
        return FetchPlan((), 4 * 10**9, 8 * 10**9, {Path("/"): 12 * 10**9})

    def fetch(self, checkpoint: Checkpoint, on_progress: OnProgress, is_cancelled: IsCancelled) -> None:
        for number, step in enumerate(self.steps):
            end = monotonic() + (float("inf") if number and self.stalls else self.pause_s)
            while monotonic() < end and not is_cancelled():
                sleep(0.005)
            if is_cancelled():
                raise DownloadFailed(
                    "Fetching was stopped.", hint="What has arrived is kept.", code="stopped"
                )
            on_progress(step)
        if self.error:
            raise self.error
        self.ready.add(checkpoint.name)
