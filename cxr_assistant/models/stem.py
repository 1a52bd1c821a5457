"""A small convolutional stem beside the patch embedding of a Dinov2 tower.

One linear map of 24 x 24 pixels cannot tell a nodule from a rib; a few convolutions can ("Early
Convolutions Help Transformers See Better", arXiv 2106.14881). Their features join each patch's embedding;
the tower behind it is an ordinary one. Must not know which checkpoint asks for it, nor how it was taught.
"""

# N images, C channels, S side; W width of the stem; G cells per side, of 8 pixels each; V width of the tower

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from cxr_assistant.errors import WeightsMismatch

__all__ = ["CELL_PX", "Stem", "StemmedPatches", "add_stem"]

CELL_PX = 8
_DILATIONS = (1, 2, 4, 2)  # of the last four convolutions: a cell sees 88 pixels up and left of its corner
_WIDTHS = range(4, 1025, 4)


class Stem(nn.Module):
    """(N, C, S, S) -> (N, W, G, G): what stands in each cell, never negative.

    `norms` are batch norms while the stem is taught and nothing once they are folded into the convolutions.
    """

    def __init__(self, channels: int, width: int, *, norms: bool = False) -> None:
        super().__init__()
        self.channels, self.width = channels, width
        half = width // 2
        shapes = [(channels, width // 4, 5, 2, 1), (width // 4, half, 3, 2, 1)]
        shapes += [(half, half, 3, 1, 1)] * 2 + [(half, width, 3, 2, 1)]
        shapes += [(width, width, 3, 1, dilation) for dilation in _DILATIONS]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(
                source, target, kernel, stride, padding=dilation * (kernel // 2), dilation=dilation, bias=True
            )
            for source, target, kernel, stride, dilation in shapes
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(shape[1]) for shape in shapes) if norms else None

    def forward(self, pixels: Tensor) -> Tensor:
        features = pixels
        for index, convolution in enumerate(self.convolutions):
            fresh = convolution(features)
            if self.norms is not None:
                fresh = self.norms[index](fresh)
            # Where the shape stays, a block adds to what is there.
            features = F.relu(fresh + features if fresh.shape == features.shape else fresh)
        return features


class StemmedPatches(nn.Conv2d):
    """A patch embedding of the film (its own weights) plus one of what the stem sees in the same square."""

    def __init__(self, plain: nn.Conv2d, width: int) -> None:
        patch = plain.kernel_size[0]
        super().__init__(plain.in_channels, plain.out_channels, patch, patch)
        self.stem = Stem(plain.in_channels, width)
        cells = patch // CELL_PX
        self.seen = nn.Conv2d(width, plain.out_channels, cells, cells, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, V, S / patch, S / patch)."""
        seen: Tensor = self.seen(self.stem(pixels))
        return super().forward(pixels) + seen

    def num_added_products(self, size_px: int) -> int:
        """Multiplications for one film of `size_px` beyond those of a plain patch embedding."""
        side, products = size_px, 0
        for convolution in self.stem.convolutions:
            assert isinstance(convolution, nn.Conv2d)
            side = -(-side // convolution.stride[0])
            products += convolution.weight.numel() * side**2
        return products + self.seen.weight.numel() * (size_px // self.kernel_size[0]) ** 2


def add_stem(tower: Any, width: int) -> None:
    """Give a Dinov2 tower a stem of `width` channels; raises WeightsMismatch for sizes that fit no stem."""
    embeddings = tower.embeddings.patch_embeddings
    patch, hint = embeddings.projection.kernel_size[0], "Check vision_config in config.json."
    if type(width) is not int or width not in _WIDTHS:
        raise WeightsMismatch(f"stem_width is {width!r}; allowed: multiples of 4 from 4 to 1024.", hint=hint)
    if patch % CELL_PX:
        raise WeightsMismatch(f"patch_size is {patch}; a stem needs a multiple of {CELL_PX}.", hint=hint)
    patches = StemmedPatches(embeddings.projection, width)
    patches.load_state_dict(embeddings.projection.state_dict(), strict=False)
    embeddings.projection = patches
