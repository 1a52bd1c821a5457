"""The LLaVA architecture from transformers' own classes: Dinov2 tower, two-layer projector, Llama.

Sizes come from a LlavaConfig; must not know which checkpoint it describes, nor where tensors come from.
"""

# N images, C channels, S side, P patches, V width of the tower, D width of the language model

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from cxr_assistant.models.decoder import DecoderModel
from cxr_assistant.models.stem import StemmedPatches, add_stem
from cxr_assistant.models.vlm import Processor

__all__ = ["StockLlava", "make_config", "make_empty", "states_behind", "tower_hidden_states"]


class StockLlava(DecoderModel):
    """`LlavaForConditionalGeneration` taken apart into the three verbs."""

    def __init__(self, llava: Any, processor: Processor) -> None:
        super().__init__(
            llava.model.language_model,
            llava.lm_head,
            processor,
            tower=llava.model.vision_tower,
            projector=llava.model.multi_modal_projector,
            never_sampled=(llava.config.image_token_index,),
        )
        self.config = llava.config

    def tower_features(self, pixel_values: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, P, V): the chosen layer's output, without the final norm."""
        return self.tower_states(pixel_values)[-1]

    def tower_states(self, pixel_values: Tensor) -> list[Tensor]:
        """What `tower_features` is made of, (N, P, V) each: after the position embedding, then after every
        block up to the chosen layer."""
        layer = self.config.vision_feature_layer
        num_blocks = len(self.tower.encoder.layer)
        # hidden_states[0] precedes block 0, so index -2 of 12 blocks is what block 10 puts out, and the
        # blocks after it need not run.
        num_needed = layer if layer >= 0 else num_blocks + 1 + layer
        first = 1 if self.config.vision_feature_select_strategy == "default" else 0  # drops the class token
        states = tower_hidden_states(self._sight[0], pixel_values, num_needed)
        return [hidden[:, first:] for hidden in states]

    def stem_features(self, pixel_values: Tensor) -> Tensor | None:
        """(N, C, S, S) -> (N, W, G, G), what stands in each cell of the stem; None for a tower without."""
        patches = self._sight[0].embeddings.patch_embeddings.projection
        cells: Tensor | None = patches.stem(pixel_values) if isinstance(patches, StemmedPatches) else None
        return cells


def tower_hidden_states(tower: Any, pixel_values: Tensor, num_blocks: int) -> Iterator[Tensor]:
    """Each (N, 1 + P, V): after the position embedding, then after each of the first `num_blocks` blocks."""
    hidden = tower.embeddings(pixel_values)
    yield hidden
    yield from states_behind(tower.encoder.layer[:num_blocks], hidden)


def states_behind(blocks: Iterable[Any], hidden: Tensor) -> Iterator[Tensor]:
    """(N, 1 + P, V) after each of the blocks that `hidden` goes through."""
    for block in blocks:
        output = block(hidden)
        hidden = output[0] if isinstance(output, tuple) else output
        yield hidden


def make_config(stored: Mapping[str, Any]) -> Any:
    """A LlavaConfig of the content of a config.json.

    Dinov2Config takes whole MLP ratios only, while Dinov2MLP computes with any number: a fraction is put
    in behind the validation, and such a folder is for this project alone.
    """
    from transformers import LlavaConfig

    vision = dict(stored["vision_config"])
    ratio = vision.get("mlp_ratio", 4)
    config = LlavaConfig.from_dict({**stored, "vision_config": {**vision, "mlp_ratio": int(ratio)}})
    config.vision_config.__dict__["mlp_ratio"] = ratio
    return config


def make_empty(config: Any) -> Any:
    """`LlavaForConditionalGeneration` of a configuration, with whatever its constructor fills in.

    A `stem_width` in its vision_config, which is this project's own, puts a stem beside the patch embedding.
    """
    from transformers import LlavaForConditionalGeneration

    llava = LlavaForConditionalGeneration(config)
    stem_width = getattr(config.vision_config, "stem_width", None)
    if stem_width is not None:
        add_stem(llava.model.vision_tower, stem_width)
    return llava
