"""Run a model in float32 while its weights stay as they are stored, memory-mapped and in half precision.

One layer at a time is held in float32. Slow, and for one forward pass only: the blindness test of a 7B
checkpoint must not need 28 GB of memory, nor arithmetic in a type that the CPU only emulates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from cxr_assistant.models.vlm import VisionLanguageModel

__all__ = ["computing_in_float32"]


@contextmanager
def computing_in_float32(model: VisionLanguageModel) -> Iterator[VisionLanguageModel]:
    """`model`, whose modules hold their weights in float32 exactly while they run."""
    handles = [
        handle for module in _modules_with_parameters(model) for handle in (_upcast(module), _restore(module))
    ]
    dtype, model.dtype = model.dtype, torch.float32
    try:
        yield model
    finally:
        model.dtype = dtype
        for handle in handles:
            handle.remove()


def _modules_with_parameters(model: VisionLanguageModel) -> list[nn.Module]:
    parts = [part for part in vars(model).values() if isinstance(part, nn.Module)]
    if isinstance(model, nn.Module):
        parts.append(model)
    found = {id(m): m for part in parts for m in part.modules() if list(m.parameters(recurse=False))}
    return list(found.values())


def _upcast(module: nn.Module) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        module._stored = [(p, p.data) for p in module.parameters(recurse=False)]  # type: ignore[assignment]
        for parameter, data in module._stored:  # type: ignore[union-attr]
            parameter.data = data.float()
        return tuple(_float32(a) for a in args), {name: _float32(a) for name, a in kwargs.items()}

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _restore(module: nn.Module) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        for parameter, data in module._stored:  # type: ignore[union-attr]
            parameter.data = data
        del module._stored

    return module.register_forward_hook(hook, always_call=True)


def _float32(value: Any) -> Any:
    is_half = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if is_half else value
