"""Slots keep to themselves, hold what was put in, and cost nothing until they are used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cxr_assistant.models.kv_cache import KVCache, KVShape

SHAPE = KVShape(num_layers=2, num_heads=3, width=4, dtype=torch.float32, device=torch.device("cpu"))


def states(num_tokens: int, seed: int = 0) -> Tensor:
    return torch.randn(2, 2, 3, num_tokens, 4, generator=torch.Generator().manual_seed(seed))


def test_what_is_appended_is_read_back() -> None:
    cache = KVCache(SHAPE, 12)
    for seed in (0, 1):
        cache.append(0, states(3, seed))
    torch.testing.assert_close(
        cache.read(0, 0, 6), torch.cat((states(3), states(3, 1)), dim=3), rtol=0, atol=0
    )


def test_a_copy_does_not_change_with_the_slot() -> None:
    cache = KVCache(SHAPE, 12)
    cache.append(0, states(3))
    copy = cache.read(0, 0, 3)
    cache.truncate(0)
    cache.append(0, states(3, 1))
    torch.testing.assert_close(copy, states(3), rtol=0, atol=0)


def test_slots_do_not_touch_each_other() -> None:
    cache = KVCache(SHAPE, 12, num_slots=2)
    cache.append(0, states(12))
    cache.append(1, states(5, 1))
    assert cache.lengths == [12, 5]
    torch.testing.assert_close(cache.read(0, 0, 12), states(12), rtol=0, atol=0)


def test_layers_see_the_same_memory() -> None:
    cache = KVCache(SHAPE, 12)
    cache.append(0, states(3))
    torch.testing.assert_close(cache.keys[1][0, :, :3], states(3)[1, 0], rtol=0, atol=0)
    torch.testing.assert_close(cache.values[0][0, :, :3], states(3)[0, 1], rtol=0, atol=0)


def test_what_was_cut_off_is_overwritten() -> None:
    cache = KVCache(SHAPE, 12)
    cache.append(0, states(6))
    cache.truncate(3)
    cache.append(0, states(2, 1))
    expected = torch.cat((states(6)[:, :, :, :3], states(2, 1)), dim=3)
    torch.testing.assert_close(cache.read(0, 0, 5), expected, rtol=0, atol=0)


@pytest.mark.parametrize("length", [-1, 4])
def test_a_cut_outside_of_what_is_there_is_refused(length: int) -> None:
    cache = KVCache(SHAPE, 12)
    cache.append(0, states(3))
    with pytest.raises(ValueError, match=f"3 positions to {length}"):
        cache.truncate(length)


def test_more_than_fits_is_refused() -> None:
    cache = KVCache(SHAPE, 4)
    cache.append(0, states(3))
    with pytest.raises(ValueError, match="2 more positions do not fit behind 3 of 4"):
        cache.append(0, states(2))


def test_what_is_not_there_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="Cannot read 0 to 1"):
        KVCache(SHAPE, 4).read(0, 0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_unused_positions_are_zero_so_that_a_masked_one_weighs_nothing(dtype: torch.dtype) -> None:
    cache = KVCache(KVShape(2, 3, 4, dtype, torch.device("cpu")), 5, num_slots=2)
    assert cache.memory.dtype == dtype
    assert not cache.memory.any()


def test_bytes_are_those_of_the_room_not_of_the_content() -> None:
    assert KVCache(SHAPE, 12, num_slots=3).num_bytes == 3 * 12 * SHAPE.bytes_per_token
    assert SHAPE.bytes_per_token == 2 * 2 * 3 * 4 * 4  # layers, keys and values, heads, width, float32
