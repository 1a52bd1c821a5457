"""Packed matrices multiply like plain ones, one row or many, and are made only where they pay."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn
from torch.nn import functional

from cxr_assistant.models import packing
from cxr_assistant.models.packing import FEW_ROWS, PackedProduct, can_pack, packed_copy

SMALL, LARGE = (96, 64), (1024, 1040)  # rows and columns of a matrix


def make_layers(sizes: Sequence[tuple[int, int]], *, has_bias: bool = False) -> list[nn.Linear]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [nn.Linear(width, rows, bias=has_bias).requires_grad_(False) for rows, width in sizes]


@pytest.mark.parametrize("num_rows", [1, 2, 8, 40])
@pytest.mark.parametrize("has_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
@torch.inference_mode()
def test_packed_layers_stand_side_by_side_like_plain_ones(
    size: tuple[int, int], has_bias: bool, num_rows: int
) -> None:
    layers = make_layers([size, (16, size[1])], has_bias=has_bias)
    hidden = torch.linspace(-1, 1, num_rows * size[1]).view(num_rows, -1)
    expected = torch.cat([functional.linear(hidden, layer.weight, layer.bias) for layer in layers], dim=-1)
    torch.testing.assert_close(PackedProduct(layers)(hidden), expected, atol=1e-5, rtol=1e-5)


def test_plain_layers_on_this_cpu_can_be_packed() -> None:
    assert can_pack([nn.Sequential(*make_layers([SMALL]))]) == torch.backends.mkldnn.is_available()


def test_layers_on_another_device_stay_as_they_are() -> None:
    assert not can_pack([nn.Linear(4, 4, device="meta")])


def test_layers_without_room_for_a_copy_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MEMORY_SHARE", 0.0)
    assert not can_pack(make_layers([SMALL]))


def test_float64_is_not_packed() -> None:
    assert not can_pack([nn.Linear(4, 4).double()])


@torch.inference_mode()
def test_a_packed_copy_shares_what_is_no_matrix_and_leaves_the_module_alone() -> None:
    module = nn.Sequential(nn.LayerNorm(64), *make_layers([(96, 64)], has_bias=True), nn.GELU())
    copied = packed_copy(module)
    hidden = torch.linspace(-1, 1, 2 * 7 * 64).view(2, 7, 64)
    torch.testing.assert_close(copied(hidden), module(hidden), atol=1e-5, rtol=1e-5)
    assert next(copied.parameters()) is next(module.parameters())
    assert type(module[1]) is nn.Linear


@torch.inference_mode()
def test_a_few_rows_of_a_small_matrix_are_multiplied_as_they_are_told_to() -> None:
    (layer,) = make_layers([SMALL])
    product = PackedProduct([layer], lambda hidden: torch.full((len(hidden), 1), 7.0))
    assert product(torch.zeros(1, SMALL[1])).tolist() == [[7.0]]
    assert product(torch.zeros(FEW_ROWS, SMALL[1])).shape == (FEW_ROWS, SMALL[0])


@pytest.mark.parametrize("side", [56, 60], ids=["whole", "with-a-rest"])
@torch.inference_mode()
def test_patches_are_cut_as_a_convolution_cuts_them(side: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 24, kernel_size=14, stride=14)).requires_grad_(False)
    pixels = torch.linspace(-1, 1, 2 * 3 * side * side).view(2, 3, side, side).sin()
    torch.testing.assert_close(packed_copy(module)(pixels), module(pixels), atol=1e-5, rtol=1e-5)


def test_a_convolution_whose_windows_overlap_stays_one() -> None:
    copied = packed_copy(nn.Sequential(nn.Conv2d(3, 8, kernel_size=3, stride=2)))
    assert type(copied[0]) is nn.Conv2d  # type: ignore[index]
