"""Keys and values of what was read so far, in buffers allocated once per stream.

Knows shapes and positions; must not know what the tokens mean or whose they are.
"""

# B streams, G key-value heads, T new positions, L positions so far, K head width

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

__all__ = ["KVCache"]


class _Slab(DynamicLayer):
    """One layer: a buffer for `max_tokens` positions, of which the first `length` are in use.

    DynamicLayer concatenates, that is copies everything at every token; a slab writes the new positions
    in place and hands out views, so attention still sees exactly the positions in use.
    """

    def __init__(self, max_tokens: int) -> None:
        super().__init__()
        self.max_tokens = max_tokens
        self.length = 0
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if self._buffers is None:
            batch, heads, _new, width = key_states.shape
            shape = (batch, heads, self.max_tokens, width)
            self._buffers = (key_states.new_empty(shape), value_states.new_empty(shape))
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        keys, values = self._buffers
        start, self.length = self.length, self.length + key_states.shape[-2]
        keys[:, :, start : self.length] = key_states
        values[:, :, start : self.length] = value_states
        self.keys, self.values = keys[:, :, : self.length], values[:, :, : self.length]
        return self.keys, self.values

    def get_seq_length(self, *_: Any) -> int:
        return self.length

    def truncate(self, length: int) -> None:
        self.length = length
        if self._buffers is not None:
            self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)


class KVCache(Cache):
    """The cache of one stream; `length` positions are in use, `max_tokens` fit."""

    def __init__(self, num_layers: int, max_tokens: int) -> None:
        super().__init__(layers=[_Slab(max_tokens) for _ in range(num_layers)])
        self.max_tokens = max_tokens

    @property
    def length(self) -> int:
        return int(self.layers[0].length)

    def truncate(self, length: int) -> None:
        """Forget all positions from `length` on; what stays is not touched."""
        if not 0 <= length <= self.length:
            raise ValueError(f"Cannot truncate a cache of {self.length} positions to {length}.")
        for layer in self.layers:
            layer.truncate(length)

    @property
    def num_bytes(self) -> int:
        """Bytes of the buffers that were allocated."""
        buffers = [buffer for layer in self.layers for buffer in layer._buffers or ()]
        return sum(buffer.numel() * buffer.element_size() for buffer in buffers)
