"""A transformers decoder behind the three verbs: embeddings in, cache extended, logits out.

Knows two ways through the same weights, written out or by transformers' own forward; must not know towers,
projectors or prompts.
"""

# B streams, T query tokens, D width, V vocabulary, G key-value heads, K head width

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from cxr_assistant.models.kv_cache import KVCache, KVShape
from cxr_assistant.models.layers import WrittenDecoder, can_write_out, head_width
from cxr_assistant.models.packing import PackedProduct, can_pack, packed_copy
from cxr_assistant.models.places import Chunk, Mixed, StaticStep, Step
from cxr_assistant.models.vlm import Processor, VisionLanguageModel

__all__ = ["DecoderModel"]

NEVER = 20.0
"""Below the smallest logit: e**-20 of the least likely token."""


WAITING_LAYERS = frozenset({"Linear8bitLt"})
"""LLM.int8() counts outliers at each product and reads their number on the host."""


class DecoderModel(VisionLanguageModel):
    """A `VisionLanguageModel` whose language side is a transformers decoder; `tower_features` is left open.

    language_model: the decoder without its head (LlamaModel, PhiModel). head: hidden states -> logits.
    tower, projector: what makes embeddings of pictures, run through `_sight`.
    never_sampled: ids that exist in the vocabulary but are no text, such as an image marker.
    """

    def __init__(
        self,
        language_model: Any,
        head: nn.Module,
        processor: Processor,
        *,
        tower: Any,
        projector: nn.Module,
        never_sampled: Collection[int] = (),
    ) -> None:
        self.language_model: Any = language_model  # transformers is not typed
        self.head, self.tower, self.projector = head, tower, projector
        self.processor = processor
        embedding = language_model.get_input_embeddings()
        self.device, self.dtype = embedding.weight.device, embedding.weight.dtype
        self._embedding = embedding
        self._never_sampled = sorted(never_sampled)
        self._written = WrittenDecoder(language_model) if can_write_out(language_model) else None
        self._stored_dtype = self.dtype
        self._fast_head: Any = head
        self._fast_sight: tuple[Any, Any] = tower, projector
        if can_pack([head, tower, projector]):
            self._fast_head = PackedProduct([head]) if type(head) is nn.Linear else head
            self._fast_sight = packed_copy(tower), packed_copy(projector)

    @property
    def is_written_out(self) -> bool:
        """False where layers are read from disk at each step, or run in another type than they have."""
        return self._written is not None and self._written.dtype == self.dtype

    @property
    def reads_together(self) -> bool:
        return self.is_written_out

    @property
    def _sight(self) -> tuple[Any, Any]:
        """Tower and projector as they run fastest; as they were given while they run in another type."""
        return self._fast_sight if self.dtype == self._stored_dtype else (self.tower, self.projector)

    @abstractmethod
    def tower_features(self, pixel_values: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, P, V), what the projector takes."""

    @torch.inference_mode()
    def project(self, features: Tensor) -> Tensor:
        """What `tower_features` gave, (N, P, V), as image embeddings (N, P, D)."""
        embeds: Tensor = self._sight[1](features)
        return embeds

    def _image_embeds(self, pixel_values: Tensor) -> Tensor:
        return self.project(self.tower_features(pixel_values))

    @property
    def kv_shape(self) -> KVShape:
        config = self.language_model.config
        width = head_width(config)
        return KVShape(config.num_hidden_layers, config.num_key_value_heads, width, self.dtype, self.device)

    @property
    def num_decoder_weights(self) -> int:
        return sum(p.numel() for p in self.language_model.layers.parameters())

    def _token_embeds(self, token_ids: Tensor) -> Tensor:
        embeds: Tensor = self._embedding(token_ids)
        return embeds

    def _logits(self, embeds: Tensor, kv_cache: KVCache, *, num_last: int, slot: int = 0) -> Tensor:
        start = kv_cache.lengths[slot]
        kv_cache.require_room(slot, embeds.shape[1])
        if self._written is not None and self.is_written_out:
            chunk = Chunk(self._written.rotary, slot, start, start + embeds.shape[1])
            hidden = self._written(embeds[0], chunk, kv_cache)[None]
        else:
            hidden = self._stock_forward(embeds, kv_cache, slot)
        kv_cache.lengths[slot] = start + embeds.shape[1]
        return self._head_logits(hidden[0, -num_last:])[None]

    def _step_logits(
        self, token_ids: Tensor, kv_cache: KVCache, slots: Sequence[int], num_shared: int = 0
    ) -> Tensor:
        embeds = self._token_embeds(token_ids)
        if self._written is None or not self.is_written_out:
            rows = [
                self._logits(embed[None, None], kv_cache, num_last=1, slot=slot)[0]
                for embed, slot in zip(embeds, slots, strict=True)
            ]
            return torch.cat(rows)
        embeds, step = self._rows(embeds, kv_cache, slots, num_shared)
        hidden = self._written(embeds, step, kv_cache)
        for slot in slots:
            kv_cache.lengths[slot] += 1
        return self._head_logits(_of_slots(hidden, slots))

    def _rows(
        self, embeds: Tensor, kv_cache: KVCache, slots: Sequence[int], num_shared: int = 0
    ) -> tuple[Tensor, Step]:
        """Embeddings (B, D) of the rising `slots` and of those in between, which are free or still reading:
        their row is computed and thrown away. Then nobody shares: such a row could have nothing of its own to
        attend to, and write numbers that are none into memory that others mask but multiply with."""
        assert self._written is not None
        first, last = slots[0], slots[-1]
        if last - first + 1 > len(slots):
            rows_of = torch.tensor([slot - first for slot in slots], device=self.device)
            embeds = embeds.new_zeros(last - first + 1, embeds.shape[1]).index_copy_(0, rows_of, embeds)
            num_shared = 0
        lengths = [min(length, kv_cache.max_tokens - 1) for length in kv_cache.lengths[first : last + 1]]
        return embeds, Step(self._written.rotary, first, lengths, num_shared)

    def _mixed_logits(
        self, pieces: Sequence[tuple[Tensor, int]], token_ids: Tensor, kv_cache: KVCache, slots: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        if self._written is None or not self.reads_together:
            return super()._mixed_logits(pieces, token_ids, kv_cache, slots)
        rotary, lengths = self._written.rotary, kv_cache.lengths
        for embeds, slot in pieces:
            kv_cache.require_room(slot, embeds.shape[1])
        chunks = [Chunk(rotary, slot, lengths[slot], lengths[slot] + e.shape[1]) for e, slot in pieces]
        parts, step = [embeds[0] for embeds, _ in pieces], None
        if slots:
            rows, step = self._rows(self._token_embeds(token_ids), kv_cache, slots)
            parts.append(rows)
        hidden = self._written(torch.cat(parts), Mixed(rotary, chunks, step), kv_cache)
        for embeds, slot in pieces:
            kv_cache.lengths[slot] += embeds.shape[1]
        for running in slots:
            kv_cache.lengths[running] += 1
        found = torch.split(hidden, [len(part) for part in parts])
        wanted = [piece[-1:] for piece in found[: len(pieces)]]
        logits = self._head_logits(
            torch.cat([*wanted, *(_of_slots(row, slots) for row in found[len(pieces) :])])
        )
        return logits[: len(pieces)], logits[len(pieces) :]

    def static_logits(self, token_ids: Tensor, positions: Tensor, kv_cache: KVCache, *, reach: int) -> Tensor:
        """Logits (B, V) of one token for each of the slots [0, B), without a look at any host value.

        token_ids, positions: (B,) on the device, positions below `reach`, one of `places.reaches`. For
        recording only: the caller keeps the lengths.
        """
        assert self._written is not None
        places = StaticStep(self._written.rotary, positions, reach)
        return self._head_logits(self._written(self._token_embeds(token_ids), places, kv_cache)).float()

    def prepare_static(self, max_tokens: int) -> bool:
        """Compute what `static_logits` reads; False where this model cannot be recorded."""
        if self._written is None or not self.is_written_out:
            return False
        if any(type(module).__name__ in WAITING_LAYERS for module in self.language_model.modules()):
            return False
        self._written.rotary.extend(max_tokens)
        return True

    def _head_logits(self, hidden: Tensor) -> Tensor:
        """(n, D) -> (n, V)."""
        head = self._fast_head if self.dtype == self._stored_dtype else self.head
        logits: Tensor = head(hidden)
        if self._never_sampled:
            # An image row added to the vocabulary has a logit like any other, and could win. Finite, so
            # that differences and spreads of logits stay numbers.
            never = logits.amin(dim=-1) - NEVER
            for token_id in self._never_sampled:
                logits.select(-1, token_id).copy_(never)
        return logits

    def _stock_forward(self, embeds: Tensor, kv_cache: KVCache, slot: int) -> Tensor:
        hidden: Tensor = self.language_model(
            inputs_embeds=embeds, past_key_values=_SlotOfCache(kv_cache, slot), use_cache=True
        ).last_hidden_state
        return hidden


def _of_slots(hidden: Tensor, slots: Sequence[int]) -> Tensor:
    """The rows (n, D) of `slots` among those from the first slot to the last."""
    return hidden if len(hidden) == len(slots) else hidden[[slot - slots[0] for slot in slots]]


class _SlotOfCache(Cache):
    """One slot as transformers' layers use a cache."""

    def __init__(self, kv_cache: KVCache, slot: int) -> None:
        super().__init__(layers=[_LayerOfSlot(kv_cache, i, slot) for i in range(kv_cache.shape.num_layers)])


class _LayerOfSlot(DynamicLayer):
    """Writes in place and hands out views, where DynamicLayer copies everything at every token."""

    def __init__(self, kv_cache: KVCache, layer: int, slot: int) -> None:
        super().__init__()
        self._memory = kv_cache.memory[layer, :, slot]  # (2, G, M, K)
        self._length = kv_cache.lengths[slot]
        self.dtype, self.device, self.is_initialized = kv_cache.shape.dtype, kv_cache.shape.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start, self._length = self._length, self._length + key_states.shape[-2]
        self._memory[0, :, start : self._length] = key_states[0]
        self._memory[1, :, start : self._length] = value_states[0]
        self.keys, self.values = self._memory[:, None, :, : self._length]
        return self.keys, self.values

    def get_seq_length(self, *_: Any) -> int:
        return self._length
