"""One question and its answer as a value that grows event by event, and what stands beside it in the chat.

Knows the foundation's types; knows no session, no Gradio and no markup.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from cxr_assistant.errors import CxrAssistantError
from cxr_assistant.generation import (
    Completed,
    FinishReason,
    GenerationEvent,
    Grounding,
    Notice,
    Prefilled,
    Queued,
    TextDelta,
    Usage,
)
from cxr_assistant.report import BoundingBox
from cxr_assistant.tasks import Task

__all__ = ["Exchange", "KnownFinding", "Phase", "Problem", "Remark", "Truth"]


class Phase(StrEnum):
    """How far one answer has come."""

    SENT = "sent"
    QUEUED = "queued"
    READING = "reading"
    WRITING = "writing"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Problem:
    """One of the project's errors as the person sees it: what happened, and what to do next."""

    message: str
    hint: str = ""
    code: str = "error"

    @classmethod
    def of(cls, error: CxrAssistantError) -> Problem:
        return cls(error.message, error.hint, error.code)


@dataclass(frozen=True)
class KnownFinding:
    """One thing that the generator put into a synthetic film, in words, and where it can be seen."""

    words: str
    box: BoundingBox | None = None
    is_visible: bool = True


@dataclass(frozen=True)
class Truth:
    """What is known of a synthetic film because it was computed."""

    seed: int
    view: str
    report: str
    findings: tuple[KnownFinding, ...] = ()


@dataclass(frozen=True)
class Remark:
    """A line in the chat that no model wrote: a film that was refused, a note of the reader."""

    number: int
    problem: Problem
    is_error: bool = True


@dataclass(frozen=True)
class Exchange:
    """One question and its answer, as far as it has come; `truth` belongs to a synthetic film."""

    number: int
    task: Task
    prompt: str
    checkpoint: str
    phase: Phase = Phase.SENT
    text: str = ""
    ahead: int = 0
    notices: tuple[Notice, ...] = ()
    groundings: tuple[Grounding, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)
    revision: str = ""
    problem: Problem | None = None
    truth: Truth | None = None

    @property
    def is_open(self) -> bool:
        return self.phase not in (Phase.DONE, Phase.FAILED)

    @property
    def counts(self) -> bool:
        """Whether the model should be told of this exchange later on."""
        return self.phase is Phase.DONE and bool(self.text)

    def after(self, event: GenerationEvent) -> Exchange:
        """The exchange one event later."""
        match event:
            case Queued(position):
                return replace(self, phase=Phase.QUEUED, ahead=position)
            case Prefilled():
                return replace(self, phase=Phase.READING)
            case TextDelta(text):
                return replace(self, phase=Phase.WRITING, text=self.text + text)
            case Notice():
                return replace(self, notices=(*self.notices, event))
            case Grounding():
                return replace(self, groundings=(*self.groundings, event))
            case Completed():
                return replace(
                    self,
                    phase=Phase.DONE,
                    finish_reason=event.finish_reason,
                    usage=event.usage,
                    checkpoint=event.checkpoint or self.checkpoint,
                    revision=event.revision,
                )
