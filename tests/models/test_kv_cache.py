"""The slab cache holds what a growing one holds, can be cut back, and never copies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from cxr_assistant.models.kv_cache import KVCache

SHAPE = (1, 2, 3, 4)  # one stream, two heads, three positions, width four


def states(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)


def test_it_returns_what_a_growing_cache_returns() -> None:
    ours, theirs = KVCache(2, 12), DynamicCache()
    for seed in range(3):
        for layer in range(2):
            pairs = zip(ours.update(*states(seed), layer), theirs.update(*states(seed), layer), strict=True)
            for mine, stock in pairs:
                torch.testing.assert_close(mine, stock, rtol=0, atol=0)
    assert ours.length == ours.get_seq_length() == 9


def test_new_positions_are_written_in_place() -> None:
    cache = KVCache(1, 12)
    first, _ = cache.update(*states(0), 0)
    second, _ = cache.update(*states(1), 0)
    assert first.data_ptr() == second.data_ptr()


def test_what_was_cut_off_is_overwritten() -> None:
    cache = KVCache(1, 12)
    for seed in (0, 1):
        cache.update(*states(seed), 0)
    cache.truncate(3)
    keys, _ = cache.update(*states(2), 0)
    torch.testing.assert_close(keys, torch.cat((states(0)[0], states(2)[0]), dim=-2), rtol=0, atol=0)


@pytest.mark.parametrize("length", [-1, 4])
def test_a_cut_outside_of_what_is_there_is_refused(length: int) -> None:
    cache = KVCache(1, 12)
    cache.update(*states(0), 0)
    with pytest.raises(ValueError, match=f"3 positions to {length}"):
        cache.truncate(length)


def test_bytes_are_those_of_the_room_not_of_the_content() -> None:
    cache = KVCache(2, 12)
    assert cache.num_bytes == 0
    cache.update(*states(0), 0)
    assert cache.num_bytes == 2 * 2 * 12 * 4 * 4  # keys and values, heads, positions, width, float32
