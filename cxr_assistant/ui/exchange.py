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
    SamplingParams,
    TextDelta,
    Usage,
)
from cxr_assistant.report import BoundingBox
from cxr_assistant.tasks import Task

__all__ = [
    "Comparison",
    "Exchange",
    "Item",
    "KnownFinding",
    "Phase",
    "Problem",
    "Remark",
    "Step",
    "Truth",
    "Verdict",
]


_DESCRIBING = frozenset({Task.FINDINGS, Task.SECTIONS, Task.REPORT})


class Phase(StrEnum):
    """How far one answer has come."""

    SENT = "sent"
    LOADING = "loading"
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
class Step:
    """One part of an answer that is written step by step: what was asked for it, and its words so far.

    `remarks` are what this program measured or read itself; no model wrote them. A step without a `prompt`
    asks nothing. "{findings}" in a prompt stands for what the earlier steps have described.
    """

    title: str
    task: Task
    prompt: str = ""
    text: str = ""
    remarks: tuple[str, ...] = ()
    has_begun: bool = False


@dataclass(frozen=True)
class Exchange:
    """One question and its answer, as far as it has come; `truth` belongs to a synthetic film.

    `films` are the digests of what lay on the viewbox, `inputs` those of film and preprocessing together:
    with prompt, revision, precision and `params` they say how to get the same answer again.
    """

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
    params: SamplingParams = field(default_factory=SamplingParams)
    steps: tuple[Step, ...] = ()
    films: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    precision: str = ""

    @property
    def is_open(self) -> bool:
        return self.phase not in (Phase.DONE, Phase.FAILED)

    @property
    def counts(self) -> bool:
        """Whether the model should be told of this exchange later on."""
        return self.phase is Phase.DONE and bool(self.text)

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """What was asked and answered, in order; an answer in steps is as many turns."""
        if not self.steps:
            return ((self.prompt, self.text),)
        return tuple((step.prompt, step.text) for step in self.steps if step.prompt and step.text)

    @property
    def described(self) -> str:
        """What the answer describes of the film, in the model's own words; of a question, nothing."""
        if self.steps:
            return " ".join(s.text.strip() for s in self.steps if s.task in _DESCRIBING and s.text)
        return self.text if self.task in _DESCRIBING else ""

    @property
    def current_step(self) -> Step | None:
        return next((step for step in reversed(self.steps) if step.has_begun), None)

    def beginning(self, number: int) -> Exchange:
        """The exchange with the step of that number begun; its name stands before its words."""
        step = self.steps[number]
        heading = f"{step.title}: {' '.join(step.remarks)}"
        text = f"{self.text}\n\n{heading}" if self.text else heading
        begun = replace(step, has_begun=True)
        phase = Phase.WRITING if self.phase is Phase.SENT else self.phase
        return replace(self, steps=_put(self.steps, number, begun), text=text, phase=phase)

    def interim(self, completed: Completed) -> Exchange:
        """The exchange after a step that is not the last: its cost is kept, the answer goes on."""
        return replace(self, usage=self.usage + completed.usage)

    def after(self, event: GenerationEvent) -> Exchange:
        """The exchange one event later."""
        match event:
            case Queued(position):
                return replace(self, phase=Phase.QUEUED, ahead=position)
            case Prefilled():
                return replace(self, phase=Phase.READING)
            case TextDelta(text):
                return replace(
                    self, phase=Phase.WRITING, text=self.text + text, steps=_grown(self.steps, text)
                )
            case Notice():
                return replace(self, notices=(*self.notices, event))
            case Grounding():
                return replace(self, groundings=(*self.groundings, event))
            case Completed():
                return replace(
                    self,
                    phase=Phase.DONE,
                    finish_reason=event.finish_reason,
                    usage=self.usage + event.usage if self.steps else event.usage,
                    checkpoint=event.checkpoint or self.checkpoint,
                    revision=event.revision,
                    precision=event.precision,
                    inputs=event.inputs,
                )


class Verdict(StrEnum):
    """What a person says of two answers whose authors they do not know."""

    A = "a"
    B = "b"
    TIE = "tie"
    BOTH_BAD = "both-bad"
    NONE = "none"  # revealed without a vote

    @property
    def label(self) -> str:
        return {
            "a": "A is better",
            "b": "B is better",
            "tie": "Tie",
            "both-bad": "Both bad",
            "none": "Reveal without a vote",
        }[self.value]


@dataclass(frozen=True)
class Comparison:
    """One question to two models, side by side; `sides` are A and B as they stand on the page.

    While `is_veiled` nothing that is shown may tell who wrote which.
    """

    number: int
    sides: tuple[Exchange, Exchange]
    is_blind: bool = False
    verdict: Verdict | None = None

    @property
    def task(self) -> Task:
        return self.sides[0].task

    @property
    def prompt(self) -> str:
        return self.sides[0].prompt

    @property
    def is_open(self) -> bool:
        return any(side.is_open for side in self.sides)

    @property
    def is_veiled(self) -> bool:
        return self.is_blind and self.verdict is None

    @property
    def can_be_judged(self) -> bool:
        """Two answers are needed: one that failed is no worse than it is absent."""
        return not self.is_open and all(side.text for side in self.sides)

    @property
    def winner(self) -> Exchange | None:
        return (
            {Verdict.A: self.sides[0], Verdict.B: self.sides[1]}.get(self.verdict) if self.verdict else None
        )

    def after(self, side: int, event: GenerationEvent) -> Comparison:
        return self.with_side(side, self.sides[side].after(event))

    def with_side(self, side: int, exchange: Exchange) -> Comparison:
        return replace(self, sides=(exchange, self.sides[1]) if side == 0 else (self.sides[0], exchange))

    def judged(self, verdict: Verdict) -> Comparison:
        """The comparison with its verdict, which is given once; an unfinished one stays as it is."""
        may = self.can_be_judged or (verdict is Verdict.NONE and not self.is_open)
        return replace(self, verdict=verdict) if may and self.verdict is None else self

    def said_by(self, checkpoint: str) -> Exchange:
        """What `checkpoint` answered here; of two others the better one, or else the first."""
        own = (side for side in self.sides if side.checkpoint == checkpoint)
        return next(own, self.winner or self.sides[0])


Item = Exchange | Comparison | Remark


def _put(steps: tuple[Step, ...], number: int, step: Step) -> tuple[Step, ...]:
    return (*steps[:number], step, *steps[number + 1 :])


def _grown(steps: tuple[Step, ...], text: str) -> tuple[Step, ...]:
    """The steps with `text` added to the one that was begun last."""
    number = max((n for n, step in enumerate(steps) if step.has_begun), default=-1)
    if number < 0:
        return steps
    return _put(steps, number, replace(steps[number], text=steps[number].text + text))
