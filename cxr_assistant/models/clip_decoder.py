"""A CLIP tower whose final norm is applied to every patch, one linear projector, and any decoder.

Knows this wiring of transformers' own classes; must not know which checkpoint uses it.
"""

# N images, C channels, S side, P patches, V width of the tower, D width of the language model

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cxr_assistant.models.decoder import DecoderModel
from cxr_assistant.models.vlm import Processor

__all__ = ["ClipDecoder"]


class ClipDecoder(DecoderModel):
    """transformers' CLIP norms only the pooled class token; here all patch tokens are normed and used."""

    def __init__(
        self,
        tower: Any,
        projector: nn.Module,
        language_model: nn.Module,
        head: nn.Module,
        processor: Processor,
    ) -> None:
        super().__init__(language_model, head, processor, tower=tower, projector=projector)

    def tower_features(self, pixel_values: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, P, V), the class token left out."""
        tower, _ = self._sight
        hidden = tower.pre_layrnorm(tower.embeddings(pixel_values))
        hidden = tower.encoder(inputs_embeds=hidden).last_hidden_state
        features: Tensor = tower.post_layernorm(hidden)[:, 1:]
        return features
