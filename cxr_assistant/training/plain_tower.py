"""The tower of plain blocks: an ordinary Dinov2, begun so that it can learn from a guide.

Its last blocks begin as the guide's own; those in front learn to hand them what the guide's patches and
convolutions do.
"""

# N patches, C channels, p pixels per side of one; V width of the tower, R patterns

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import Dinov2Config, Dinov2Model

from cxr_assistant.training.guide import Guide
from cxr_assistant.training.recipe import PlainRecipe
from cxr_assistant.training.stage_tower import tower_config
from cxr_assistant.training.tower import place_patches

__all__ = ["begin_plain_tower", "make_plain_tower", "plain_config", "train_in_patterns"]

_FLOOR = 2e-3  # variance below which a pattern is noise, and is not made as strong as the others


def plain_config(recipe: PlainRecipe) -> Dinov2Config:
    """That of the guide's tower with more blocks and without its convolutions."""
    config = tower_config(recipe)
    del config.stem_width
    config.num_hidden_layers = recipe.plain_layers
    return config


def make_plain_tower(recipe: PlainRecipe) -> Dinov2Model:
    """As transformers makes it, its position embeddings 2-D sines."""
    config = plain_config(recipe)
    tower = Dinov2Model(config)
    place_patches(tower, config)
    return tower


def begin_plain_tower(recipe: PlainRecipe, guide: Guide, pixels: Tensor) -> Dinov2Model:
    """One whose last blocks are the guide's, its patches in patterns of (N, C, S, S) normalised pixels."""
    tower = make_plain_tower(recipe)
    theirs = guide.tower.encoder.layer
    for block, taught in zip(tower.encoder.layer[-len(theirs) :], theirs, strict=True):
        block.load_state_dict(taught.state_dict())
    tower.layernorm.load_state_dict(guide.tower.layernorm.state_dict())
    train_in_patterns(tower, pixels, recipe.patch_patterns)
    return tower


class Patterns(nn.Module):
    """Patch weights (V, C, p, p) as (V, R) combinations of the R strongest patterns, all made equally strong.

    Raw patches vary mostly in brightness, and gradient descent finds last what varies least.
    """

    basis: Tensor

    def __init__(self, patches: Tensor, count: int, shape: torch.Size) -> None:
        """`patches` (N, C * p * p): normalised pixels."""
        super().__init__()
        values, vectors = torch.linalg.eigh(torch.cov(patches.double().T))
        strongest = slice(-count, None)
        values, vectors = values[strongest].flip(0), vectors[:, strongest].flip(1)
        self.register_buffer("basis", (vectors / (values.clamp_min(0) + _FLOOR).sqrt()).T.float())
        self.shape = shape

    def forward(self, combined: Tensor) -> Tensor:
        return (combined @ self.basis).view(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The combination nearest to a weight."""
        nearest: Tensor = weight.flatten(1) @ torch.linalg.pinv(self.basis)
        return nearest


def train_in_patterns(tower: Dinov2Model, pixels: Tensor, count: int) -> None:
    """Let each of V patch features begin as one of the strongest patterns of (N, C, S, S) pixels.

    `bake_patches` makes it an ordinary convolution again.
    """
    projection = tower.embeddings.patch_embeddings.projection
    side, width = projection.kernel_size[0], projection.out_channels
    patches = F.unfold(pixels, side, stride=side).transpose(1, 2).flatten(0, 1)
    patterns = Patterns(patches, min(count, patches.shape[1]), projection.weight.shape)
    begun = 0.5 * torch.eye(width, len(patterns.basis))
    begun += 0.01 * torch.randn(begun.shape)
    with torch.no_grad():
        projection.weight.copy_(patterns(begun))
        projection.bias.copy_(-(projection.weight.flatten(1) @ patches.mean(0)))
    parametrize.register_parametrization(projection, "weight", patterns)
