"""Matrices in the layout that the CPU's multiplier reads fastest, beside the rows that they came from.

Knows oneDNN's packed layout and when it pays; must not know whose layers these are. Figures: docs/LOG.md.
"""

# n positions, D width of the input, E width of the output

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cxr_assistant.models.precision import read_device

__all__ = ["PackedProduct", "can_pack", "packed_copy"]

ROWS_HINT = 16
"""Any number from 2 on gives the layout that serves one row and a whole prompt; 1 gives a slower one."""

LARGE = 2**20
"""Weights from which packing pays for a single row; below, calling oneDNN costs more than it saves."""

FEW_ROWS = 4

MEMORY_SHARE = 0.4
"""Of the free memory that copies may take: the rows stay where they are, mostly mapped to their file, so that
the kernel may drop them again."""


def can_pack(layers: Sequence[nn.Module]) -> bool:
    """True where all linear layers are plain ones on a CPU with oneDNN, and memory for a copy is free."""
    weights = [module.weight for layer in layers for module in layer.modules() if type(module) is nn.Linear]
    num_bytes = sum(weight.numel() * weight.element_size() for weight in weights)
    return (
        bool(weights)
        and all(weight.device.type == "cpu" and _is_packable(weight.dtype) for weight in weights)
        and num_bytes <= MEMORY_SHARE * read_device("cpu").free_bytes
    )


def packed_copy(module: nn.Module) -> nn.Module:
    """`module` with linear layers that multiply by packed copies; everything else is shared, not copied.

    The module itself stays what it was, for whoever runs it in another type or compares with it.
    """
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    if type(module) is nn.Linear:
        return _PackedLinear(module)
    copied: nn.Module = deepcopy(module, dict(shared))
    for owner in list(copied.modules()):
        for name, layer in owner.named_children():
            if type(layer) is nn.Linear:
                setattr(owner, name, _PackedLinear(layer))
            elif type(layer) is nn.Conv2d and _cuts_patches(layer):
                setattr(owner, name, _PackedPatches(layer))
    return copied


def _cuts_patches(layer: nn.Conv2d) -> bool:
    """True for a convolution whose windows neither overlap nor leave anything out."""
    return (
        layer.kernel_size == layer.stride
        and layer.padding in ((0, 0), "valid")
        and layer.dilation == (1, 1)
        and layer.groups == 1
    )


class _PackedLinear(nn.Module):
    """A linear layer of any number of leading dimensions, by a packed product."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self._product = PackedProduct([layer])

    def forward(self, hidden: Tensor) -> Tensor:
        return self._product(hidden.reshape(-1, hidden.shape[-1])).view(*hidden.shape[:-1], -1)


class _PackedPatches(nn.Module):
    """The patch embedding of a tower, (N, C, S, S) -> (N, V, S/k, S/k), as one packed product."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self._sides = layer.weight, layer.kernel_size  # towers ask for the weight's type
        with torch.device("meta"):
            rows: Any = nn.Linear(layer.weight[0].numel(), layer.out_channels, bias=False)
        rows.weight, rows.bias = nn.Parameter(layer.weight.detach().flatten(1), False), layer.bias
        self._product = PackedProduct([rows])

    def forward(self, pixels: Tensor) -> Tensor:
        tall, wide = self._sides
        rows, columns = pixels.shape[2] // tall, pixels.shape[3] // wide
        pixels = pixels[:, :, : rows * tall, : columns * wide]
        patches = pixels.reshape(*pixels.shape[:2], rows, tall, columns, wide).permute(0, 2, 4, 1, 3, 5)
        found = self._product(patches.reshape(-1, patches[0, 0, 0].numel()))
        return found.view(len(pixels), rows, columns, -1).permute(0, 3, 1, 2)


class PackedProduct:
    """Linear layers of one input, their outputs side by side: (n, D) -> (n, E); packed at the first call.

    plain: the same product as it is best done for a row or two of small matrices.
    """

    def __init__(self, layers: Sequence[nn.Linear], plain: Callable[[Tensor], Tensor] | None = None) -> None:
        self._layers = layers
        self._plain = plain or _side_by_side(layers)
        self._is_large = sum(layer.weight.numel() for layer in layers) >= LARGE
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self._bias = torch.cat(biases) if len(biases) == len(layers) else None
        self._packed: Tensor | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        if not self._is_large and hidden.shape[0] < FEW_ROWS:
            return self._plain(hidden)
        if self._packed is None:
            weight = torch.cat([layer.weight.detach() for layer in self._layers])
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_HINT)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            hidden.contiguous(), self._packed, self._bias, "none", [], ""
        )
        return product


def _side_by_side(layers: Sequence[nn.Linear]) -> Callable[[Tensor], Tensor]:
    products = [partial(functional.linear, weight=layer.weight, bias=layer.bias) for layer in layers]
    if len(products) == 1:
        return products[0]
    return lambda hidden: torch.cat([product(hidden) for product in products], dim=-1)


def _is_packable(dtype: torch.dtype) -> bool:
    """float32 where there is oneDNN; bfloat16 where the CPU has instructions for it."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32
