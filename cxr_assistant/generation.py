"""One answer as values: what was asked, how to sample, and the events that make up the reply.

Events carry meaning, never markup; the user interface dresses them. A failure is an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from cxr_assistant.conversation import Conversation
from cxr_assistant.errors import SettingsError
from cxr_assistant.report import BoundingBox
from cxr_assistant.study import Study
from cxr_assistant.tasks import Task

__all__ = [
    "Answer",
    "Completed",
    "FinishReason",
    "GenerationEvent",
    "GenerationRequest",
    "Grounding",
    "IsCancelled",
    "Notice",
    "Prefilled",
    "Queued",
    "SamplingParams",
    "TextDelta",
    "Usage",
    "collect",
    "never_cancelled",
]

IsCancelled = Callable[[], bool]
"""The one cancel flag as its readers see it: asked before prefill and at each token."""


def never_cancelled() -> bool:
    return False


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen. Greedy is the default because it can be repeated.

    Ranges: temperature [0, 2], top_p (0, 1], max_new_tokens [1, 4096], seed [0, 2**63); raises SettingsError
    outside.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 2.0:
            raise SettingsError(f"temperature is {self.temperature}; allowed: 0 to 2.", hint="0 is greedy.")
        if not 0.0 < self.top_p <= 1.0:
            raise SettingsError(f"top_p is {self.top_p}; allowed: above 0, up to 1.")
        if not 1 <= self.max_new_tokens <= 4096:
            raise SettingsError(f"max_new_tokens is {self.max_new_tokens}; allowed: 1 to 4096.")
        if not 0 <= self.seed < 2**63:  # what every random generator takes
            raise SettingsError(f"seed is {self.seed}; allowed: a whole number from 0 to 2**63 - 1.")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """All that the worker needs for one answer; the newest turn of `conversation` is the question.

    `precision` is what a person asked for; None leaves it to the settings and to what is in memory.
    `session` is a secret of one visitor: what was computed for one of their requests is used again in the
    next, and never for anybody else; without it nothing is kept. `public_films` are digests of films that
    everybody may see, such as the bundled examples; their embeddings are kept once for all.
    """

    checkpoint: str
    task: Task
    study: Study
    conversation: Conversation
    params: SamplingParams = field(default_factory=SamplingParams)
    precision: str | None = None
    session: str | None = field(default=None, repr=False)
    public_films: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Usage:
    """Token counts (image tokens included in the prompt) and wall-clock seconds."""

    prompt_tokens: int = 0
    reused_tokens: int = 0
    completion_tokens: int = 0
    time_to_first_token_s: float = 0.0
    total_s: float = 0.0

    def __add__(self, later: Usage) -> Usage:
        """The cost of two answers given one after the other."""
        waited = self.time_to_first_token_s if self.completion_tokens else later.time_to_first_token_s
        return Usage(
            self.prompt_tokens + later.prompt_tokens,
            self.reused_tokens + later.reused_tokens,
            self.completion_tokens + later.completion_tokens,
            waited,
            self.total_s + later.total_s,
        )


@dataclass(frozen=True)
class Notice:
    """Something the person must know about this answer: an unused film, a model that was chosen for them."""

    text: str
    code: str = "notice"


@dataclass(frozen=True)
class Queued:
    """The request waits; `position` people are in front of it."""

    position: int


@dataclass(frozen=True)
class Prefilled:
    """The prompt is in the KV cache; tokens follow."""

    prompt_tokens: int
    reused_tokens: int = 0


@dataclass(frozen=True)
class TextDelta:
    """Text that can no longer change; `logprobs` holds the log-probability of each token in it."""

    text: str
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Grounding:
    """A phrase of the answer, and where on the film (by digest) it was seen."""

    phrase: str
    box: BoundingBox
    digest: str = ""


@dataclass(frozen=True)
class Completed:
    """The last event of an answer; `checkpoint`, `revision` and `precision` say who spoke.

    `inputs` identify what was seen: per picture a digest of the film and its preprocessing together.
    """

    finish_reason: FinishReason
    usage: Usage
    checkpoint: str = ""
    revision: str = ""
    precision: str = ""
    inputs: tuple[str, ...] = ()


GenerationEvent = Notice | Queued | Prefilled | TextDelta | Grounding | Completed


@dataclass(frozen=True)
class Answer:
    """A finished answer, for the command line, evaluation and tests."""

    text: str
    notices: tuple[Notice, ...]
    groundings: tuple[Grounding, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    usage: Usage
    checkpoint: str
    revision: str
    precision: str = ""


def collect(events: Iterable[GenerationEvent]) -> Answer:
    """Read `events` to their end and return the whole answer."""
    text: list[str] = []
    logprobs: list[float] = []
    notices: list[Notice] = []
    groundings: list[Grounding] = []
    completed = Completed(FinishReason.CANCELLED, Usage())
    for event in events:
        match event:
            case TextDelta():
                text.append(event.text)
                logprobs.extend(event.logprobs)
            case Notice():
                notices.append(event)
            case Grounding():
                groundings.append(event)
            case Completed():
                completed = event
    return Answer(
        text="".join(text),
        notices=tuple(notices),
        groundings=tuple(groundings),
        logprobs=tuple(logprobs),
        finish_reason=completed.finish_reason,
        usage=completed.usage,
        checkpoint=completed.checkpoint,
        revision=completed.revision,
        precision=completed.precision,
    )
