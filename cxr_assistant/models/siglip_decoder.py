"""A SigLIP tower, a position-aware MLP projector and any decoder, from transformers' own classes.

Knows this wiring of modules; must not know which checkpoint uses it, nor where its weights come from.
"""

# N images, C channels, S side, P patches, V width of the tower, D width of the language model

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cxr_assistant.models.decoder import DecoderModel
from cxr_assistant.models.vlm import Processor

__all__ = ["PositionalProjector", "SiglipDecoder"]


class PositionalProjector(nn.Module):
    """Stored position table, two-layer MLP, LayerNorm, one matrix without bias: (N, P, V) -> (N, P, D)."""

    def __init__(
        self, num_positions: int, vision_width: int, hidden_width: int, width: int, eps: float
    ) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(num_positions, vision_width))
        self.attn_pool = nn.Sequential(
            nn.Linear(vision_width, hidden_width),
            nn.GELU(),  # exact (erf)
            nn.Linear(hidden_width, width),
        )
        self.ln_post = nn.LayerNorm(width, eps=eps)
        self.proj = nn.Parameter(torch.empty(width, width))

    def forward(self, features_NPV: Tensor) -> Tensor:
        positions_PV = self._positions(features_NPV.shape[1]).to(features_NPV)
        hidden_NPD = self.attn_pool(features_NPV + positions_PV)
        embeds: Tensor = self.ln_post(hidden_NPD) @ self.proj.to(features_NPV)  # not transposed
        return embeds

    def _positions(self, num_patches: int) -> Tensor:
        """The table, stretched when it was stored for another square grid."""
        stored, width = self.pos_embed.shape
        if stored == num_patches:
            return self.pos_embed
        old, new = int(stored**0.5), int(num_patches**0.5)
        grid = self.pos_embed.float().reshape(1, old, old, width).permute(0, 3, 1, 2)
        stretched = functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
        return stretched.permute(0, 2, 3, 1).reshape(num_patches, width)


class SiglipDecoder(DecoderModel):
    """The tower's last block *before* its final norm, projected, in front of a decoder."""

    def __init__(
        self,
        tower: Any,
        projector: PositionalProjector,
        language_model: nn.Module,
        head: nn.Module,
        processor: Processor,
    ) -> None:
        super().__init__(language_model, head, processor, tower=tower, projector=projector)

    def tower_features(self, pixel_values: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, P, V)."""
        tower, _ = self._sight
        features: Tensor = tower.encoder(inputs_embeds=tower.embeddings(pixel_values)).last_hidden_state
        return features
