"""A prompt becomes a stream of events; whoever wants the next one pulls.

Knows the schedulers of the models in memory and how tokens become text; must not know films, checkpoints or
prompts' wording. No thread, and no torch state that outlives a `yield`: a stream may be resumed from another
thread at every step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock
from time import perf_counter
from typing import TypedDict, Unpack

from torch import Tensor

from cxr_assistant.engine.detokenize import Detokenizer, StopStrings
from cxr_assistant.engine.limits import Limits
from cxr_assistant.engine.sampling import Token
from cxr_assistant.engine.scheduler import Scheduler
from cxr_assistant.engine.service import changes_only
from cxr_assistant.engine.stream import Stream
from cxr_assistant.generation import (
    Completed,
    FinishReason,
    GenerationEvent,
    IsCancelled,
    Prefilled,
    Queued,
    SamplingParams,
    TextDelta,
    Usage,
    never_cancelled,
)
from cxr_assistant.models.vlm import Prompt, VisionLanguageModel

__all__ = ["Engine"]

DEFAULT_LIMITS = Limits()


class Whose(TypedDict, total=False):
    """For whom an answer is made. With a `session` what is computed is kept for its next prompt; pictures
    whose digests are `public` are kept for all. `seen`: image embeddings (P, D) that are known already, by
    digest."""

    session: str | None
    public: Collection[str]
    seen: Mapping[str, Tensor]


class Engine:
    """Runs answers on any model, many at a time; a scheduler per model keeps what may be used again."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._schedulers: dict[VisionLanguageModel, Scheduler] = {}
        self._making = Lock()  # never held across a yield

    def prepare(self, model: VisionLanguageModel) -> None:
        """Make slots and record decode steps now, so that the first answer need not. Raises OutOfMemory."""
        self._scheduler_of(model)

    def release(self, model: VisionLanguageModel) -> None:
        """Let go of a model that leaves memory, and of all that is kept for it."""
        with self._making:
            self._schedulers.pop(model, None)

    def forget(self, session: str) -> None:
        """Free what is kept for a session, whichever model it spoke with."""
        for scheduler in list(self._schedulers.values()):
            scheduler.forget(session)

    def generate(
        self,
        model: VisionLanguageModel,
        prompt: Prompt,
        params: SamplingParams,
        is_cancelled: IsCancelled = never_cancelled,
        **whose: Unpack[Whose],
    ) -> Iterator[GenerationEvent]:
        """Queued while others are in front, Prefilled, TextDelta as text becomes certain, Completed.

        After a cancel Completed alone follows. Raises PromptTooLong, Busy, OutOfMemory.
        """
        return changes_only(self.pulses(model, prompt, params, is_cancelled, **whose))

    def pulses(
        self,
        model: VisionLanguageModel,
        prompt: Prompt,
        params: SamplingParams,
        is_cancelled: IsCancelled = never_cancelled,
        **whose: Unpack[Whose],
    ) -> Iterator[GenerationEvent]:
        """As `generate`, but every pull returns after one step at most: where that brought nothing, Queued is
        said again, with 0 in front before the first step and once the prompt is being read. For one loop that
        serves many."""
        clock = _Clock()
        text = _Text(Detokenizer(model.processor.tokenizer.decode), StopStrings(params.stop))
        reason, reused = None, 0
        for step in self.steps(model, prompt, params, is_cancelled, **whose):
            match step:
                case Token():
                    clock.tick()
                    if step.token_id in model.processor.stop_token_ids:
                        continue
                    yield from text.push(step)
                    if text.has_stopped:
                        reason = FinishReason.STOP
                        break
                case FinishReason():
                    reason = step
                case Prefilled():
                    reused = step.reused_tokens
                    yield step
                case Queued():
                    yield step
        if reason is not FinishReason.CANCELLED:
            yield from text.finish()
        assert reason is not None
        yield Completed(reason, clock.usage(len(prompt), reused))

    def steps(
        self,
        model: VisionLanguageModel,
        prompt: Prompt,
        params: SamplingParams,
        is_cancelled: IsCancelled = never_cancelled,
        **whose: Unpack[Whose],
    ) -> Iterator[Queued | Prefilled | Token | FinishReason]:
        """An answer before it is text: Prefilled, every Token, why it ended; Queued for a step without news.

        The first pull asks and takes no step, so that those who ask at one moment are read together.
        """
        prompt.require_fit(model.processor.context_length)
        if is_cancelled():
            yield FinishReason.CANCELLED
            return
        room = min(params.max_new_tokens, model.processor.context_length - len(prompt))
        stream = Stream(prompt, params, is_cancelled, room, **whose)
        scheduler = self._scheduler_of(model)
        scheduler.submit(stream)
        news: Queued | Prefilled | Token | FinishReason | Exception | None = None
        try:
            yield Queued(stream.position)
            while not isinstance(news, FinishReason):
                news = scheduler.pull(stream)
                if isinstance(news, Exception):
                    raise news
                yield Queued(stream.position) if news is None else news
        finally:
            scheduler.withdraw(stream)

    def _scheduler_of(self, model: VisionLanguageModel) -> Scheduler:
        made = self._schedulers.get(model)
        if made is not None:
            return made  # without waiting for another model's, whose steps may be being recorded
        with self._making:
            if model not in self._schedulers:
                self._schedulers[model] = Scheduler(model, self._limits)
            return self._schedulers[model]


@dataclass
class _Text:
    """Tokens -> TextDelta; log-probabilities wait for the text that they belong to.

    An answer does not begin with white space: families whose template ends in a colon write one first.
    """

    detokenizer: Detokenizer
    stop_strings: StopStrings
    _has_begun: bool = False
    _logprobs: list[float] = field(default_factory=list)

    @property
    def has_stopped(self) -> bool:
        return self.stop_strings.has_stopped

    def push(self, token: Token) -> Iterator[TextDelta]:
        self._logprobs.append(token.logprob)
        yield from self._delta(self.stop_strings.push(self.detokenizer.push(token.token_id)))

    def finish(self) -> Iterator[TextDelta]:
        if not self.has_stopped:
            tail = self.stop_strings.push(self.detokenizer.finish())
            yield from self._delta(tail if self.has_stopped else tail + self.stop_strings.finish())

    def _delta(self, text: str) -> Iterator[TextDelta]:
        if not self._has_begun:
            text = text.lstrip()
        if text:
            self._has_begun = True
            logprobs, self._logprobs = tuple(self._logprobs), []
            yield TextDelta(text, logprobs)


@dataclass
class _Clock:
    """Wall-clock times and token count of one answer."""

    started: float = field(default_factory=perf_counter)
    first_token: float = 0.0
    num_tokens: int = 0

    def tick(self) -> None:
        self.num_tokens += 1
        self.first_token = self.first_token or perf_counter()

    def usage(self, prompt_tokens: int, reused_tokens: int) -> Usage:
        return Usage(
            prompt_tokens=prompt_tokens,
            reused_tokens=reused_tokens,
            completion_tokens=self.num_tokens,
            time_to_first_token_s=max(0.0, self.first_token - self.started),
            total_s=perf_counter() - self.started,
        )
