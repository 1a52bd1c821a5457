"""The published sizes of each family, and small ones of the same shape.

Knows numbers only; knows no tensor's name and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PUBLISHED_SIZES", "TINY_SIZES", "Sizes"]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The numbers that decide every shape; the vision tower's first, then the language model's."""

    image_size: int
    patch_size: int
    vision_width: int
    vision_mlp: int
    vision_layers: int
    vision_heads: int
    width: int
    mlp: int
    layers: int
    heads: int
    vocab: int

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


_LLAMA_7B = {"width": 4096, "mlp": 11008, "layers": 32, "heads": 32, "vocab": 32000}
_VIT_L = {"vision_width": 1024, "vision_mlp": 4096, "vision_layers": 24, "vision_heads": 16}

PUBLISHED_SIZES: Mapping[str, Sizes] = {
    "llava-rad": Sizes(
        image_size=518,
        patch_size=14,
        vision_width=768,
        vision_mlp=3072,
        vision_layers=12,
        vision_heads=12,
        **_LLAMA_7B,
    ),
    "chexagent": Sizes(
        image_size=512, patch_size=16, **_VIT_L, width=2560, mlp=10240, layers=32, heads=32, vocab=51200
    ),
    "cxr-llava": Sizes(image_size=512, patch_size=16, **_VIT_L, **_LLAMA_7B),
}

# Widths in multiples of 64, which bitsandbytes' 4-bit kernels for the CPU ask for.
TINY_SIZES = Sizes(
    image_size=56,
    patch_size=14,
    vision_width=128,
    vision_mlp=512,
    vision_layers=3,
    vision_heads=2,
    width=64,
    mlp=192,
    layers=2,
    heads=4,
    vocab=512,
)
