"""Keys and values of what was read so far, in memory that is allocated once for all streams of a model.

Knows shapes, slots and positions; must not know what the tokens mean or whose they are.
"""

# Y layers, S slots (one stream each), G key-value heads, M positions of a slot, T positions, K head width

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["KVCache", "KVShape"]


@dataclass(frozen=True)
class KVShape:
    """What one position of a decoder's cache holds."""

    num_layers: int
    num_heads: int
    width: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.num_layers * self.num_heads * self.width * self.dtype.itemsize


class KVCache:
    """`num_slots` streams side by side; `lengths[slot]` positions of each are in use, `max_tokens` fit.

    memory: (Y, 2, S, G, M, K); keys and values: per layer (S, G, M, K), parts of it. What is not in use is
    finite, so that a masked position weighs exactly nothing.
    """

    def __init__(self, shape: KVShape, max_tokens: int, *, num_slots: int = 1) -> None:
        self.shape, self.max_tokens, self.num_slots = shape, max_tokens, num_slots
        self.memory = _zeros(
            (shape.num_layers, 2, num_slots, shape.num_heads, max_tokens, shape.width), shape
        )
        self.keys = [layer[0] for layer in self.memory]
        self.values = [layer[1] for layer in self.memory]
        self.lengths = [0] * num_slots

    @property
    def length(self) -> int:
        """Positions in use of the first slot, for those who need no other."""
        return self.lengths[0]

    @property
    def num_bytes(self) -> int:
        return self.memory.numel() * self.memory.element_size()

    def truncate(self, length: int, *, slot: int = 0) -> None:
        """Forget all positions of a slot from `length` on; what stays is not touched."""
        if not 0 <= length <= self.lengths[slot]:
            raise ValueError(f"Cannot truncate a slot of {self.lengths[slot]} positions to {length}.")
        self.lengths[slot] = length

    def read(self, slot: int, start: int, stop: int) -> Tensor:
        """A copy of positions [start, stop) of a slot, (Y, 2, G, T, K)."""
        if not 0 <= start <= stop <= self.lengths[slot]:
            raise ValueError(f"Cannot read {start} to {stop} of a slot of {self.lengths[slot]} positions.")
        return self.memory[:, :, slot, :, start:stop].clone()

    def append(self, slot: int, states: Tensor) -> None:
        """Put what `read` returned behind what a slot holds."""
        start = self.lengths[slot]
        stop = start + states.shape[3]
        self.require_room(slot, states.shape[3])
        self.memory[:, :, slot, :, start:stop] = states
        self.lengths[slot] = stop

    def require_room(self, slot: int, num_tokens: int) -> None:
        if self.lengths[slot] + num_tokens > self.max_tokens:
            raise ValueError(
                f"{num_tokens} more positions do not fit behind {self.lengths[slot]} of {self.max_tokens}."
            )


def _zeros(sizes: tuple[int, ...], shape: KVShape) -> Tensor:
    if shape.device.type != "cpu":
        return torch.zeros(sizes, dtype=shape.dtype, device=shape.device)
    # The kernel gives zeroed pages when they are first written: a slot costs what it holds, not its room.
    flat = np.zeros(math.prod(sizes) * shape.dtype.itemsize, np.uint8)
    return torch.from_numpy(flat).view(shape.dtype).view(sizes)
