"""A prompt becomes a stream of events; whoever wants the next one pulls.

Knows the three verbs of a model and the rules of an answer's end; must not know films, checkpoints or
prompts' wording. No thread, and no torch state that outlives a `yield`: a stream may be resumed from
another thread at every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from cxr_assistant.engine.cache import EmbeddingCache
from cxr_assistant.engine.detokenize import Detokenizer, StopStrings
from cxr_assistant.engine.memory import memory_guard
from cxr_assistant.engine.sampling import Sampler, Token
from cxr_assistant.generation import (
    Completed,
    FinishReason,
    GenerationEvent,
    IsCancelled,
    Prefilled,
    SamplingParams,
    TextDelta,
    Usage,
    never_cancelled,
)
from cxr_assistant.models.kv_cache import KVCache
from cxr_assistant.models.vlm import Prompt, VisionLanguageModel

__all__ = ["Engine"]

PREFILL_CHUNK = 512
"""Positions read between two looks at the cancel flag; smaller steps cost more, larger ones stop later."""

EMBEDDING_BYTES = 256 * 2**20
"""About twenty pictures of LLaVA-Rad (1369 x 4096 in half precision are 11.2 MB)."""


class Engine:
    """Runs answers on any model; remembers image embeddings, nothing else."""

    def __init__(self, *, embedding_bytes: int = EMBEDDING_BYTES) -> None:
        self._embeddings = EmbeddingCache(embedding_bytes)

    def forget(self, session: str) -> None:
        """Free what is kept for a session."""

    def generate(
        self,
        model: VisionLanguageModel,
        prompt: Prompt,
        params: SamplingParams,
        is_cancelled: IsCancelled = never_cancelled,
    ) -> Iterator[GenerationEvent]:
        """Prefilled, TextDelta as text becomes certain, Completed; after a cancel Completed alone follows.

        Raises PromptTooLong and OutOfMemory.
        """
        clock = _Clock()
        text = _Text(Detokenizer(model.processor.tokenizer.decode), StopStrings(params.stop))
        reason = None
        for step in self.steps(model, prompt, params, is_cancelled):
            match step:
                case Prefilled():
                    yield step
                case FinishReason():
                    reason = step
                case Token():
                    clock.tick()
                    if step.token_id in model.processor.stop_token_ids:
                        continue
                    yield from text.push(step)
                    if text.has_stopped:
                        reason = FinishReason.STOP
                        break
        if reason is not FinishReason.CANCELLED:
            yield from text.finish()
        assert reason is not None
        yield Completed(reason, clock.usage(len(prompt)))

    def steps(
        self,
        model: VisionLanguageModel,
        prompt: Prompt,
        params: SamplingParams,
        is_cancelled: IsCancelled = never_cancelled,
    ) -> Iterator[Prefilled | Token | FinishReason]:
        """The tokens of an answer before they are text: Prefilled, every Token, why it ended."""
        prompt.require_fit(model.processor.context_length)
        if is_cancelled():
            yield FinishReason.CANCELLED
            return
        stream = self._open(model, prompt, params)
        while not stream.is_prefilled:
            if is_cancelled():
                yield FinishReason.CANCELLED
                return
            stream.prefill_chunk()
        yield Prefilled(len(prompt))
        for _ in range(stream.max_new_tokens):
            if is_cancelled():
                yield FinishReason.CANCELLED
                return
            token = stream.next_token()
            yield token
            if token.token_id in model.processor.stop_token_ids:
                yield FinishReason.STOP
                return
        yield FinishReason.LENGTH

    def _open(self, model: VisionLanguageModel, prompt: Prompt, params: SamplingParams) -> _Stream:
        room = model.processor.context_length - len(prompt)
        max_new_tokens = min(params.max_new_tokens, room)
        with memory_guard():
            return _Stream(
                model=model,
                prompt=prompt,
                image_embeds=self._embeds(model, prompt),
                kv_cache=model.new_cache(len(prompt) + max_new_tokens),
                sampler=Sampler(params, model.device),
                max_new_tokens=max_new_tokens,
            )

    def _embeds(self, model: VisionLanguageModel, prompt: Prompt) -> list[Tensor]:
        """One (P, D) per image, encoded unless remembered."""
        embeds = []
        for digest, picture in zip(prompt.digests, prompt.pixel_values, strict=True):
            found = self._embeddings.get(model, digest)
            if found is None:
                found = model.encode(picture[None])[0]
                self._embeddings.put(model, digest, found)
            embeds.append(found)
        return embeds


@dataclass
class _Stream:
    """One answer in the making."""

    model: VisionLanguageModel
    prompt: Prompt
    image_embeds: list[Tensor]
    kv_cache: KVCache
    sampler: Sampler
    max_new_tokens: int
    _logits: Tensor | None = None  # (1, V) after the newest position
    _newest: int | None = None  # chosen, not yet in the cache

    @property
    def is_prefilled(self) -> bool:
        return self.kv_cache.length >= len(self.prompt)

    def prefill_chunk(self) -> None:
        stop = min(self.kv_cache.length + PREFILL_CHUNK, len(self.prompt))
        with memory_guard():
            self._logits = self.model.prefill(self.prompt, self.image_embeds, self.kv_cache, stop=stop)

    def next_token(self) -> Token:
        with memory_guard():
            if self._newest is not None:
                token_ids = torch.tensor([self._newest], device=self.model.device)
                self._logits = self.model.decode(token_ids, self.kv_cache)
            assert self._logits is not None
            token = self.sampler.choose(self._logits[0])
        self._newest = token.token_id
        return token


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

    def usage(self, prompt_tokens: int) -> Usage:
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=self.num_tokens,
            time_to_first_token_s=max(0.0, self.first_token - self.started),
            total_s=perf_counter() - self.started,
        )
