"""Where the new positions of one forward pass stand: how they are turned, stored, and what they attend to.

Knows positions and the cache's layout; must not know layers or weights. Three kinds share three verbs: a
`Chunk` of one stream, one `Step` of several, and a `StaticStep` whose sizes and addresses never change. The
first two stand side by side in a `Mixed`.
"""

# B streams, n new positions, T of one chunk, H query heads, G key-value heads, K head width
# S slots, M positions of a slot, L of which are looked at

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Chunk", "Mixed", "Places", "RotaryTable", "StaticStep", "Step", "reaches"]

QUERY_BLOCK = 192
"""Queries of a chunk that the CPU attends with at once: no score is computed for keys behind the last of
them, which in a masked whole would be half of all."""

SPLIT = 256
"""Keys that one block of a StaticStep's attention sums up; M is a multiple of it."""

BUSY_PAIRS = 128
"""Pairs of row and key head that keep a GPU busy each with all of its keys (an H100 has 132 processors)."""


class RotaryTable:
    """Rotary position embedding as one gather and two products.

    Heads are turned in their first R of K dimensions; for the rest the cosine is 1 and the sine 0, so that
    partial rotation needs no second path. Computed by the module itself, in its own precision.
    """

    def __init__(self, rotary: Any, width: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self._rotary, self._width, self._dtype, self._device = rotary, width, dtype, device
        self.cos = self.sin = torch.empty(0)
        self.swap = torch.empty(0)
        self.extend(1)

    def extend(self, num_positions: int) -> None:
        """Make sure of rows for so many positions, also past what the model was trained for."""
        if len(self.cos) >= num_positions:
            return
        positions = torch.arange(max(num_positions, 2 * len(self.cos)), device=self._device)
        probe = torch.empty(0, dtype=self._dtype, device=self._device)
        cos, sin = (table[0] for table in self._rotary(probe, positions[None]))
        rest = self._width - cos.shape[1]
        half = cos.shape[1] // 2
        sin = torch.cat((-sin[:, :half], sin[:, half:]), dim=1)
        self.cos = functional.pad(cos, (0, rest), value=1.0)[:, None]
        self.sin = functional.pad(sin, (0, rest), value=0.0)[:, None]
        order = [*range(half, 2 * half), *range(half), *range(2 * half, self._width)]
        self.swap = torch.tensor(order, device=self._device)

    def turn(self, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(n, heads, K) turned by rows (n, 1, K) of the table."""
        swapped = heads.index_select(2, self.swap)
        if heads.dtype == torch.float32:
            return torch.addcmul(heads * cos, swapped, sin)
        return heads * cos + swapped * sin  # half precision rounds where transformers rounds


class Places(Protocol):
    """What a layer asks of the positions it computes."""

    def turn(self, heads: Tensor) -> Tensor:
        """Rotary embedding of (n, heads, K)."""

    def store(self, memory: Tensor, states: Tensor) -> None:
        """Put (n, G, K) into (S, G, M, K)."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(n, H, K) over what is stored in (S, G, M, K) -> (n, H * K)."""


class Chunk:
    """Positions [start, stop) of one slot."""

    def __init__(self, rotary: RotaryTable, slot: int, start: int, stop: int) -> None:
        rotary.extend(stop)
        self._rotary, self._slot, self._start, self._stop = rotary, slot, start, stop
        self.cos, self.sin = rotary.cos[start:stop], rotary.sin[start:stop]
        self._masks: dict[int, Tensor] = {}

    def turn(self, heads: Tensor) -> Tensor:
        return self._rotary.turn(heads, self.cos, self.sin)

    def store(self, memory: Tensor, states: Tensor) -> None:
        memory[self._slot, :, self._start : self._stop] = states.transpose(0, 1)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        keys, values = keys[self._slot], values[self._slot]
        if not queries.is_cpu:
            return self._attend_block(queries, 0, keys, values)
        found = [
            self._attend_block(queries[first : first + QUERY_BLOCK], first, keys, values)
            for first in range(0, len(queries), QUERY_BLOCK)
        ]
        return torch.cat(found)

    def _attend_block(self, queries: Tensor, first: int, keys: Tensor, values: Tensor) -> Tensor:
        """Queries (n, H, K) from place `first` of the chunk on, over (G, M, K), each up to its own place."""
        num_new, num_heads, width = queries.shape
        start = self._start + first
        keys, values = keys[None, :, : start + num_new], values[None, :, : start + num_new]
        groups = keys.shape[1]
        # Query heads that share a key head become further queries: nothing of the cache is repeated.
        queries = queries.transpose(0, 1).reshape(1, groups, -1, width)
        repeats = num_heads // groups
        is_plain = repeats == 1 and start == 0
        mask = None if is_plain or num_new == 1 else self._causal_mask(first, queries, repeats)
        found = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=is_plain and num_new > 1
        )
        return found.view(num_heads, num_new, width).transpose(0, 1).reshape(num_new, -1)

    def _causal_mask(self, first: int, queries: Tensor, repeats: int) -> Tensor:
        """(repeats * n, L), 0 where a query of the block at `first` may look and -inf where not."""
        if first not in self._masks:
            num_new, start = queries.shape[2] // repeats, self._start + first
            blocked = queries.new_full((num_new, start + num_new), float("-inf")).triu(start + 1)
            self._masks[first] = blocked.repeat(repeats, 1)
        return self._masks[first]


class Step:
    """One position for each of the slots [first, first + B), which hold `lengths` positions so far.

    Of these the first `num_shared` hold the same in every slot, so that reading one slot's is enough.
    """

    def __init__(self, rotary: RotaryTable, first: int, lengths: Sequence[int], num_shared: int = 0) -> None:
        self._rotary, self._first = rotary, first
        self._num_shared = num_shared if len(lengths) > 1 and _gives_sums() else 0
        self._rows = slice(first, first + len(lengths))
        self._longest = max(lengths) + 1
        rotary.extend(self._longest)
        device = rotary.cos.device
        self._mask: Tensor | None = None
        if len(lengths) == 1:
            self._position = lengths[0]
            self.cos, self.sin = (
                rotary.cos[lengths[0] : self._longest],
                rotary.sin[lengths[0] : self._longest],
            )
            return
        self._positions = torch.tensor(lengths, device=device)
        self._slots = torch.arange(first, first + len(lengths), device=device)
        self.cos, self.sin = rotary.cos[self._positions], rotary.sin[self._positions]
        if min(lengths) < max(lengths):
            unread = torch.arange(self._longest, device=device) > self._positions[:, None]
            mask = torch.zeros(unread.shape, dtype=rotary.cos.dtype, device=device)
            self._mask = mask.masked_fill_(unread, float("-inf"))[:, None, None]

    def turn(self, heads: Tensor) -> Tensor:
        return self._rotary.turn(heads, self.cos, self.sin)

    def store(self, memory: Tensor, states: Tensor) -> None:
        if len(states) == 1:
            memory[self._first, :, self._position] = states[0]
        else:
            memory[self._slots, :, self._positions] = states

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        num_rows, _, width = queries.shape
        queries = queries.view(num_rows, keys.shape[1], -1, width)  # as in Chunk: heads of one group
        if self._num_shared and queries.is_cpu:
            return self._attend_in_two(queries, keys, values).reshape(num_rows, -1)
        keys, values = keys[self._rows, :, : self._longest], values[self._rows, :, : self._longest]
        found = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=self._mask)
        return found.reshape(num_rows, -1)

    def _attend_in_two(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Over what all rows share, read once for all, and over what is each row's own. Two softmaxes are
        one when each part weighs as much as its sum of exponentials."""
        rows, groups, repeats, width = queries.shape
        first, shared = self._rows.start, self._num_shared
        together = queries.transpose(0, 1).reshape(1, groups, rows * repeats, width)
        common, common_sum = _attention_and_sum(
            together, keys[first : first + 1, :, :shared], values[first : first + 1, :, :shared]
        )
        own, own_sum = _attention_and_sum(
            queries,
            keys[self._rows, :, shared : self._longest],
            values[self._rows, :, shared : self._longest],
            None if self._mask is None else self._mask[..., shared:],
        )
        common = common.view(groups, rows, repeats, width).transpose(0, 1)
        share = torch.sigmoid(common_sum.view(groups, rows, repeats).transpose(0, 1) - own_sum)[..., None]
        return torch.lerp(own.float(), common.float(), share).to(queries.dtype)


def _attention_and_sum(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The CPU's fused attention, and the logarithm of each softmax's sum, float32; the public call keeps the
    second for itself."""
    found: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        queries, keys, values, attn_mask=mask
    )
    return found


@cache
def _gives_sums() -> bool:
    """True where this version of torch has that kernel and it means what it meant; it is not public."""
    states = torch.linspace(-1.0, 1.0, 12).view(1, 1, 3, 4)
    try:
        found, sums = _attention_and_sum(states, states, states)
    except (AttributeError, RuntimeError, TypeError, ValueError):  # gone, or called or answering otherwise
        return False
    scores = states @ states.transpose(2, 3) * states.shape[-1] ** -0.5
    is_same = torch.allclose(found, scores.softmax(-1) @ states, atol=1e-5)
    return is_same and torch.allclose(sums.flatten(), scores.logsumexp(-1).flatten(), atol=1e-5)


class Mixed:
    """Chunks of some slots, then a step of others, in one pass: the weights are read once for all."""

    def __init__(self, rotary: RotaryTable, chunks: Sequence[Chunk], step: Step | None) -> None:
        self._rotary = rotary
        self._parts: list[Chunk | Step] = [*chunks, *([] if step is None else [step])]
        self._sizes = [len(part.cos) for part in self._parts]
        self._cos = torch.cat([part.cos for part in self._parts])
        self._sin = torch.cat([part.sin for part in self._parts])

    def turn(self, heads: Tensor) -> Tensor:
        return self._rotary.turn(heads, self._cos, self._sin)

    def store(self, memory: Tensor, states: Tensor) -> None:
        # The step's row of a slot that is being read, if it has one, stands where the chunk begins.
        for part, own in reversed(list(zip(self._parts, torch.split(states, self._sizes), strict=True))):
            part.store(memory, own)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        each = zip(self._parts, torch.split(queries, self._sizes), strict=True)
        return torch.cat([part.attend(own, keys, values) for part, own in each])


def reaches(num_pairs: int, max_tokens: int) -> list[int]:
    """Numbers of leading positions that it pays to record a StaticStep for, the largest first.

    Few pairs of row and head leave processors idle unless their keys are dealt out in blocks, for which a
    slot must be read whole; many pairs may stop at a half or a quarter of it, and eight long slots, read
    whole, would move more bytes than the weights.
    """
    if num_pairs < BUSY_PAIRS:
        return [max_tokens]
    return [max_tokens // part for part in (1, 2, 4) if max_tokens % (part * SPLIT) == 0]


class StaticStep:
    """One position for each of the slots [0, B); positions are read on the device, sizes never change.

    Looks at the first `reach` positions, L of `reaches`, and masks what is not in use, so that the same
    recorded kernels serve every length up to there. positions: (B,) int64 on the device.
    """

    def __init__(self, rotary: RotaryTable, positions: Tensor, reach: int) -> None:
        self._rotary, self._positions, self._reach = rotary, positions, reach
        self._slots = torch.arange(len(positions), device=positions.device)
        self._cos, self._sin = rotary.cos[positions], rotary.sin[positions]
        unread = torch.arange(reach, device=positions.device) > positions[:, None]
        self._unread = unread[:, None, None]  # (B, 1, 1, L)

    def turn(self, heads: Tensor) -> Tensor:
        return self._rotary.turn(heads, self._cos, self._sin)

    def store(self, memory: Tensor, states: Tensor) -> None:
        memory[self._slots, :, self._positions] = states

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Softmax over all L, values summed in blocks where one query alone keeps few processors busy."""
        num_rows, _, width = queries.shape
        groups, reach = keys.shape[1], self._reach
        pairs = num_rows * groups
        queries = queries.reshape(pairs, -1, width)
        keys, values = keys[:num_rows, :, :reach], values[:num_rows, :, :reach]
        scores = torch.bmm(queries, keys.view(pairs, reach, width).transpose(1, 2))
        scores = (scores.float() * width**-0.5).view(num_rows, groups, -1, reach)
        weights = scores.masked_fill(self._unread, float("-inf")).softmax(-1).to(queries.dtype)
        if pairs >= BUSY_PAIRS:
            weights = weights.view(pairs, -1, reach)
            return torch.bmm(weights, values.view(pairs, reach, width)).reshape(num_rows, -1)
        blocks = reach // SPLIT
        weights = weights.view(pairs, -1, blocks, SPLIT).transpose(1, 2).reshape(pairs * blocks, -1, SPLIT)
        parts = torch.bmm(weights, values.view(pairs * blocks, SPLIT, width))
        summed = parts.view(pairs, blocks, -1, width).sum(1, dtype=torch.float32)
        return summed.to(queries.dtype).view(num_rows, -1)
