"""The model with convolutions as a teacher: what it makes of a film, patch by patch, and what it says of it.

A tower of plain blocks alone does not learn from labels what a few convolutions do (docs/LOG.md, 23 November
2026); it can learn to see as they see.
"""

# N pictures, C channels, S pixels per side, P patches, V width of the tower, D of the language model, L words

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from cxr_assistant.checkpoints.convert import read_json
from cxr_assistant.checkpoints.folder import published_name
from cxr_assistant.errors import WeightsMismatch
from cxr_assistant.models.llava import make_config, make_empty, states_behind
from cxr_assistant.training.language import Encoded, answer_logits, padded

__all__ = ["Guide"]


class Guide:
    """Reads films in bfloat16, as the stages before it did; none of its weights learns any more."""

    def __init__(self, folder: Path) -> None:
        """`folder` is a finished model, whose rounding to half precision is part of it.

        Raises MissingWeights, CorruptWeights, or WeightsMismatch when it is no embedded model.
        """
        config = make_config(read_json(folder / "config.json"))
        config.vision_config._attn_implementation = config.text_config._attn_implementation = "eager"
        self.llava: Any = make_empty(config)
        stored = load_file(folder / "model.safetensors")
        named = {name: stored.get(published_name(name)) for name in self.llava.state_dict()}
        missing = sorted(name for name, tensor in named.items() if tensor is None)
        if missing:
            raise WeightsMismatch(
                f"The guide lacks {len(missing)} tensors, for example {missing[0]}.",
                hint="A guide is what `train` wrote, or weights/embedded.",
            )
        self.llava.load_state_dict(named)
        self.llava.requires_grad_(False).eval()
        self.tower: Any = self.llava.model.vision_tower
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    @torch.no_grad()
    def embedding(self, pixels: Tensor) -> Tensor:
        """(N, C, S, S) normalised -> (N, 1 + P, V): what patches and convolutions hand to the first block."""
        with torch.autocast("cpu", torch.bfloat16):
            found: Tensor = self.tower.embeddings(pixels.contiguous(memory_format=torch.channels_last))
        return found.float()

    def tokens(self, embedding: Tensor) -> Tensor:
        """(N, 1 + P, V) of the last block."""
        *_, last = states_behind(self.tower.encoder.layer, embedding)
        return last

    def words(self, tokens: Tensor, conversations: list[Encoded]) -> tuple[Tensor, Tensor]:
        """Logits (L, vocabulary) at every word of the answers, and the image embeddings (N, P, D) that they
        were read from; `tokens` (N, P, V) are this tower's or another's."""
        ids, targets = padded(conversations)
        with torch.autocast("cpu", torch.bfloat16):
            embeds: Tensor = self.llava.model.multi_modal_projector(tokens)
            return answer_logits(self.llava, embeds, ids, targets).float(), embeds.float()
