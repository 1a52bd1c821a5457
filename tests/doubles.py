"""Stand-ins: a worker that plays a script, and checkpoints that declare whatever a test needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cxr_assistant.checkpoints.spec import Checkpoint, Licence, TaskWording
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
    is_closed: bool = False

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

    def health(self) -> Any:
        return "well"

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
