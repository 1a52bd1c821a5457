"""A vision-language model as the engine sees it: pixels and token ids in, logits out.

Knows how image embeddings take their places in a prompt; must not know any checkpoint by name, what the
text says, or how a token is chosen.
"""

# N images, C channels, S side of the picture, P tokens per image, D width of the language model
# B streams, T query tokens, V vocabulary

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_assistant.errors import PromptTooLong, WeightsMismatch
from cxr_assistant.imaging.transforms import ImageSpec
from cxr_assistant.models.kv_cache import KVCache, KVShape

__all__ = ["ImageEmbeds", "ImageSpan", "Piece", "Processor", "Prompt", "Tokenizer", "VisionLanguageModel"]


ImageEmbeds = Sequence[Tensor | None] | Sequence[Tensor] | Tensor
"""(P, D) of each image of a prompt."""


class ImageSpan(NamedTuple):
    """Where the tokens of one image stand in the prompt."""

    start: int
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, eq=False)
class Prompt:
    """What one answer starts from; knows its true length, image tokens included.

    token_ids: every position of the sequence; positions inside an image span hold any valid id, which is
    never looked up. image_spans: in order, one per image. pixel_values: (N, C, S, S) float32.
    digests: one identity per image, of film and preprocessing; the key under which embeddings are kept.
    """

    token_ids: tuple[int, ...]
    image_spans: tuple[ImageSpan, ...] = ()
    pixel_values: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 1, 1, 1), np.float32))
    digests: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts = {len(self.image_spans), len(self.pixel_values), len(self.digests)}
        if len(counts) != 1:
            raise ValueError(f"Spans, pictures and digests differ in number: {sorted(counts)}.")
        position = 0
        for span in self.image_spans:
            if span.start < position or span.length < 1 or span.stop > len(self.token_ids):
                raise ValueError(f"Image spans overlap or leave the prompt: {self.image_spans}.")
            position = span.stop
        self.pixel_values.setflags(write=False)

    def __len__(self) -> int:
        return len(self.token_ids)

    def require_fit(self, context_length: int) -> None:
        """Raise PromptTooLong unless at least one token can follow the prompt."""
        if len(self) >= context_length:
            raise PromptTooLong(
                f"Image and text take {len(self)} tokens; this model reads at most {context_length - 1}.",
                hint="Shorten the question or start a new conversation.",
            )


class Piece(NamedTuple):
    """Positions of a prompt that a pass reads: from the length of its slot up to `stop`."""

    prompt: Prompt
    image_embeds: ImageEmbeds
    slot: int
    stop: int


class Tokenizer(Protocol):
    """Text <-> ids of one checkpoint."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: nothing is added, and special tokens written in `text` are not recognised."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`, special tokens left out."""

    def id_of(self, token: str) -> int:
        """The id of one vocabulary entry, such as "</s>"; raises WeightsMismatch if there is none."""


@dataclass(frozen=True)
class Processor:
    """What `render` and the engine need of a loaded folder besides its weights, read from its own files.

    `bos_token_id` is None for families that begin with plain text.
    """

    tokenizer: Tokenizer
    image: ImageSpec
    num_image_tokens: int
    context_length: int
    stop_token_ids: frozenset[int]
    bos_token_id: int | None


class VisionLanguageModel(ABC):
    """Three verbs: `encode`, `prefill`, `decode`. The engine knows these and nothing else.

    A family subclasses it (or uses `models.decoder.DecoderModel`) and gives the primitives below. Streams
    live in the slots of one cache, each read and extended by itself, or several by one token at a time.
    """

    processor: Processor
    device: torch.device
    dtype: torch.dtype

    # ---------------------------------------------------------------- what a family provides

    @abstractmethod
    def _image_embeds(self, pixel_values: Tensor) -> Tensor:
        """(N, C, S, S) on the device -> (N, P, D)."""

    @abstractmethod
    def _token_embeds(self, token_ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, D)."""

    @abstractmethod
    def _logits(self, embeds: Tensor, kv_cache: KVCache, *, num_last: int, slot: int = 0) -> Tensor:
        """Append `embeds` (1, T, D) to a slot; logits (1, num_last, V) of its last positions."""

    @abstractmethod
    def _step_logits(
        self, token_ids: Tensor, kv_cache: KVCache, slots: Sequence[int], num_shared: int = 0
    ) -> Tensor:
        """Append one token (B,) to each of the rising `slots`; logits (B, V)."""

    @property
    def reads_together(self) -> bool:
        """True where a pass over several pieces and running answers reads the weights once for all."""
        return False

    def _mixed_logits(
        self, pieces: Sequence[tuple[Tensor, int]], token_ids: Tensor, kv_cache: KVCache, slots: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """`_logits` of the last position of each piece, embeddings (1, T, D) and slot, and `_step_logits`, in
        one pass where a model can."""
        read = [self._logits(embeds, kv_cache, num_last=1, slot=slot)[:, -1] for embeds, slot in pieces]
        step = self._step_logits(token_ids, kv_cache, slots) if slots else read[0][:0]
        return torch.cat(read), step

    @property
    @abstractmethod
    def kv_shape(self) -> KVShape:
        """What a cache of this model holds for each position."""

    @property
    @abstractmethod
    def num_decoder_weights(self) -> int:
        """Weights that every position of a prompt is multiplied with."""

    # ---------------------------------------------------------------- the three verbs

    @torch.inference_mode()
    def encode(self, pixel_values: NDArray[np.float32]) -> Tensor:
        """Image embeddings (N, P, D) of the pictures (N, C, S, S), as the language model reads them."""
        pictures = torch.from_numpy(np.array(pixel_values)).to(self.device, self.dtype)
        embeds = self._image_embeds(pictures)
        if embeds.shape[1] != self.processor.num_image_tokens:
            raise WeightsMismatch(
                f"The tower makes {embeds.shape[1]} tokens of an image; the prompt holds "
                f"{self.processor.num_image_tokens}.",
                hint="The folder's configuration contradicts its weights.",
            )
        return embeds

    @torch.inference_mode()
    def prefill(
        self,
        prompt: Prompt,
        image_embeds: ImageEmbeds,
        kv_cache: KVCache,
        *,
        stop: int | None = None,
        slot: int = 0,
    ) -> Tensor:
        """Append the prompt's positions from the slot's length up to `stop` (its end by default).

        image_embeds: (P, D) of each image, in order; None for one whose positions are in the slot already.
        Returns the logits (1, V) after the last position read, float32.
        """
        return self._read(prompt, image_embeds, kv_cache, stop=stop, slot=slot, num_last=1)[:, -1]

    @torch.inference_mode()
    def score(self, prompt: Prompt, image_embeds: ImageEmbeds, kv_cache: KVCache) -> Tensor:
        """Like `prefill` to the end, but returns the logits (T, V) after every position that was read."""
        return self._read(prompt, image_embeds, kv_cache, stop=None, slot=0, num_last=0)[0]

    @torch.inference_mode()
    def decode(
        self, token_ids: Tensor, kv_cache: KVCache, slots: Sequence[int] = (0,), num_shared: int = 0
    ) -> Tensor:
        """Append one token (B,) to each of the rising `slots`; the logits (B, V) of what follows, float32.

        num_shared: leading positions that hold the same in all of them, which may be read once for all.
        """
        return self._step_logits(token_ids, kv_cache, slots, num_shared).float()

    @torch.inference_mode()
    def prefill_and_decode(
        self, pieces: Sequence[Piece], token_ids: Tensor, kv_cache: KVCache, slots: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """`prefill` of the slots of `pieces` and `decode` of others at once: the logits of both."""
        embedded = [
            (self._prompt_embeds(prompt, image_embeds, kv_cache.lengths[slot], stop), slot)
            for prompt, image_embeds, slot, stop in pieces
        ]
        read, decoded = self._mixed_logits(embedded, token_ids, kv_cache, slots)
        return read.float(), decoded.float()

    def new_cache(self, max_tokens: int, *, num_slots: int = 1) -> KVCache:
        """An empty cache with room for `max_tokens` positions of each of `num_slots` streams."""
        return KVCache(self.kv_shape, max_tokens, num_slots=num_slots)

    # ---------------------------------------------------------------- helpers

    def _read(
        self,
        prompt: Prompt,
        image_embeds: ImageEmbeds,
        kv_cache: KVCache,
        *,
        stop: int | None,
        slot: int,
        num_last: int,
    ) -> Tensor:
        start, stop = kv_cache.lengths[slot], len(prompt) if stop is None else stop
        if not start < stop <= len(prompt):
            raise ValueError(f"Cannot read positions {start} to {stop} of a prompt of {len(prompt)}.")
        embeds = self._prompt_embeds(prompt, image_embeds, start, stop)
        return self._logits(embeds, kv_cache, num_last=num_last or stop - start, slot=slot).float()

    def _prompt_embeds(self, prompt: Prompt, image_embeds: ImageEmbeds, start: int, stop: int) -> Tensor:
        """Text and image embeddings of positions [start, stop), (1, T, D)."""
        token_ids = torch.tensor([prompt.token_ids[start:stop]], device=self.device)
        embeds = self._token_embeds(token_ids).clone()
        for span, image in zip(prompt.image_spans, image_embeds, strict=True):
            first, last = max(span.start, start), min(span.stop, stop)
            if first < last:
                assert image is not None
                embeds[0, first - start : last - start] = image[first - span.start : last - span.start].to(
                    embeds
                )
        return embeds
