"""Any transformers decoder behind the three verbs: embeddings in, cache extended, logits out.

Knows transformers' calling convention; must not know towers, projectors or prompts.
"""

# B streams, T query tokens, D width, V vocabulary

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from cxr_assistant.models.kv_cache import KVCache
from cxr_assistant.models.vlm import Processor, VisionLanguageModel

__all__ = ["DecoderModel"]

NEVER = 20.0
"""Below the smallest logit: e**-20 of the least likely token."""


class DecoderModel(VisionLanguageModel):
    """A `VisionLanguageModel` whose language side is a transformers decoder; `_image_embeds` is left open.

    language_model: the decoder without its head (LlamaModel, PhiModel). head: hidden states -> logits.
    never_sampled: ids that exist in the vocabulary but are no text, such as an image marker.
    """

    def __init__(
        self,
        language_model: Any,
        head: nn.Module,
        processor: Processor,
        *,
        never_sampled: Collection[int] = (),
    ) -> None:
        self.language_model: Any = language_model  # transformers is not typed
        self.head = head
        self.processor = processor
        embedding = language_model.get_input_embeddings()
        self.device, self.dtype = embedding.weight.device, embedding.weight.dtype
        self._embedding = embedding
        self._never_sampled = sorted(never_sampled)

    def new_cache(self, max_tokens: int) -> KVCache:
        return KVCache(self.language_model.config.num_hidden_layers, max_tokens)

    def _token_embeds(self, token_ids: Tensor) -> Tensor:
        embeds: Tensor = self._embedding(token_ids)
        return embeds

    def _logits(self, embeds: Tensor, kv_cache: KVCache, *, num_last: int) -> Tensor:
        hidden = self.language_model(
            inputs_embeds=embeds, past_key_values=kv_cache, use_cache=True
        ).last_hidden_state
        logits: Tensor = self.head(hidden[:, -num_last:])
        if self._never_sampled:
            # An image row added to the vocabulary has a logit like any other, and could win. Finite, so
            # that differences and spreads of logits stay numbers.
            logits[..., self._never_sampled] = logits.amin(dim=-1, keepdim=True) - NEVER
        return logits
