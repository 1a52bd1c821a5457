"""How weights are held: what each precision needs, what is free, and which one to take.

Knows devices and bytes; must not know any checkpoint by name. Readable without torch, so that the menu and
the command line can offer the choices; bitsandbytes is imported only when a quantised model is built.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cxr_assistant.errors import OutOfMemory, SettingsError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "Device",
    "Fit",
    "Footprint",
    "Precision",
    "choose_fit",
    "compute_dtype",
    "list_fits",
    "lower_layers",
    "quantise_linears",
    "quantised_parameter",
    "read_device",
    "torch_dtype",
]

GIB = 1024**3
BF16_COMPUTE_CAPABILITY = (8, 0)  # Ampere; a V100 (7.0) and a T4 (7.5) only emulate bfloat16
RESERVE_BYTES = int(1.5 * GIB)  # KV cache, activations of a prefill, the allocator's rounding
SMALL_BYTES = 2 * GIB  # below this, float32 on the CPU costs nothing that matters


class Precision(StrEnum):
    """A precision that a person may ask for, the most faithful first."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"
    NF4 = "nf4"
    OFFLOAD = "offload"  # half precision, the decoder's layers read from disk at every step: the last resort

    @property
    def is_quantised(self) -> bool:
        return self in (Precision.INT8, Precision.NF4)


# Bytes per weight of a linear layer; nf4 has one float per block of 64, itself quantised in blocks of 256.
_BYTES_PER_WEIGHT = {
    Precision.FP32: 4.0,
    Precision.BF16: 2.0,
    Precision.FP16: 2.0,
    Precision.INT8: 1.0 + 4 / 4096,
    Precision.NF4: 0.5 + 1 / 64 + 4 / (64 * 256),
    Precision.OFFLOAD: 2 * 2.0 / 24,  # one layer of at least 24 as stored, and once more as computed with
}


@dataclass(frozen=True)
class Footprint:
    """How many weights a model has, and how many of them lie in layers that may be quantised.

    Towers, projectors, embeddings, heads and norms never are.
    """

    num_parameters: int
    num_quantisable: int

    @classmethod
    def estimate(cls, num_parameters: int) -> Footprint:
        """Before the tensors are there: the decoder's linear layers are about nine tenths of a 3-7B model."""
        return cls(num_parameters, int(0.9 * num_parameters))

    def num_bytes(self, precision: Precision) -> int:
        """Bytes of the weights alone."""
        is_mixed = precision.is_quantised or precision is Precision.OFFLOAD
        rest = 2.0 if is_mixed else _BYTES_PER_WEIGHT[precision]
        kept = self.num_parameters - self.num_quantisable
        return int(self.num_quantisable * _BYTES_PER_WEIGHT[precision] + kept * rest)


@dataclass(frozen=True)
class Device:
    """What a device has; `compute_capability` is None where there is no CUDA."""

    name: str
    title: str
    free_bytes: int
    total_bytes: int
    compute_capability: tuple[int, int] | None = None

    @property
    def is_cuda(self) -> bool:
        return self.compute_capability is not None

    @property
    def has_bf16(self) -> bool:
        return self.compute_capability is None or self.compute_capability >= BF16_COMPUTE_CAPABILITY


@dataclass(frozen=True)
class Fit:
    """One line of the table that is shown before loading."""

    precision: Precision
    needed_bytes: int
    free_bytes: int
    is_possible: bool  # the device can compute in it

    @property
    def fits(self) -> bool:
        return self.is_possible and self.needed_bytes <= self.free_bytes

    @property
    def sentence(self) -> str:
        """`bf16 needs 15.4 GiB of 22.1 GiB free`."""
        if not self.is_possible:
            return f"{self.precision} is not offered on this device"
        needed, free = self.needed_bytes / GIB, self.free_bytes / GIB
        return f"{self.precision} needs {needed:.1f} GiB of {free:.1f} GiB free"


def read_device(name: str = "auto") -> Device:
    """What `name` ("auto", "cpu", "cuda", "cuda:1") has free right now; imports torch.

    Raises SettingsError when CUDA is asked for and there is none.
    """
    import torch

    has_cuda = torch.cuda.is_available()
    if name == "cpu" or (name == "auto" and not has_cuda):
        return Device("cpu", "CPU", _available_memory(), _total_memory())
    if not has_cuda:
        raise SettingsError(f"device is {name!r}, but torch finds no CUDA device.", hint="Use cpu or auto.")
    cuda = "cuda" if name == "auto" else name
    free, total = torch.cuda.mem_get_info(cuda)
    return Device(cuda, torch.cuda.get_device_name(cuda), free, total, torch.cuda.get_device_capability(cuda))


def list_fits(footprint: Footprint, device: Device) -> tuple[Fit, ...]:
    """What every precision needs on `device`, working memory included, against what is free."""
    return tuple(
        Fit(
            precision,
            footprint.num_bytes(precision) + min(RESERVE_BYTES, 4 * footprint.num_parameters),
            device.free_bytes,
            is_possible=_is_possible(precision, device),
        )
        for precision in Precision
    )


def choose_fit(
    footprint: Footprint, device: Device, asked: str | None = None, *, may_offload: bool = False
) -> Fit:
    """The precision that was asked for, or the best that fits: half precision, then int8, then nf4.

    `may_offload` adds the last resort, which works almost anywhere and takes seconds per token.
    Raises: OutOfMemory, with what each one needs; SettingsError for an unknown or impossible precision.
    """
    fits = {fit.precision: fit for fit in list_fits(footprint, device)}
    if asked not in (None, "auto"):
        return _asked_for(fits[_parse(str(asked))], tuple(fits.values()), device)
    last_resort = (Precision.OFFLOAD,) if may_offload else ()
    for precision in (*_preference(footprint, device), *last_resort):
        if fits[precision].fits:
            return fits[precision]
    raise _out_of_memory(tuple(fits.values()), device)


def torch_dtype(precision: str) -> torch.dtype:
    """The torch type of `precision`; raises SettingsError for int8 and nf4, which have none, and others."""
    import torch

    dtypes = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
    if precision not in dtypes:
        raise SettingsError(f"precision is {precision!r}; allowed: {', '.join(dtypes)}.")
    return dtypes[Precision(precision)]


def compute_dtype(precision: str, device: str) -> torch.dtype:
    """The type of activations, and of all weights that are not quantised."""
    import torch

    if precision in (Precision.FP32, Precision.BF16, Precision.FP16):
        return torch_dtype(precision)
    _parse(precision)
    if device == "cpu" or torch.cuda.get_device_capability(device) >= BF16_COMPUTE_CAPABILITY:
        return torch.bfloat16
    return torch.float16


def lower_layers(layers: nn.ModuleList, precision: str, device: str) -> None:
    """Prepare empty decoder layers for `precision`: quantised, marked to stay on disk, or left as they are.

    Towers and projectors never come here: their rounding errors reach every token.
    """
    if _parse(precision).is_quantised:
        quantise_linears(layers, precision, device)
    elif precision == Precision.OFFLOAD:
        for layer in layers:
            layer.stays_on_disk = True  # type: ignore[assignment]  # read by checkpoints.streaming


def quantise_linears(model: nn.Module, precision: str, device: str) -> None:
    """Replace every linear layer below `model` by an empty int8 or nf4 one of the same shape."""
    from torch import nn

    for owner in list(model.modules()):
        for name, layer in list(owner.named_children()):
            if type(layer) is nn.Linear:
                setattr(owner, name, _quantised_layer(layer, _parse(precision), device))


def quantised_parameter(empty: nn.Parameter, weight: torch.Tensor, device: str) -> nn.Parameter | None:
    """`weight` quantised like the `empty` parameter of a layer made here; None for any other parameter."""
    from torch import nn

    kind = type(empty).__name__
    if kind == "Params4bit":
        four_bit = _fresh(empty, weight, quant_type="nf4", compress_statistics=True)
        return cast(nn.Parameter, four_bit.to(device))
    if kind == "Int8Params":
        # bitsandbytes quantises rows in half precision and only on the way from the CPU.
        return cast(nn.Parameter, _fresh(empty, weight.cpu(), has_fp16_weights=False).to(device))
    return None


def _fresh(empty: nn.Parameter, weight: torch.Tensor, **options: Any) -> nn.Parameter:
    import torch

    kind: Any = type(empty)  # bitsandbytes' subclass, whose options differ from torch's
    made: nn.Parameter = kind(weight.to(torch.float16).contiguous(), requires_grad=False, **options)
    return made


def _quantised_layer(layer: nn.Linear, precision: Precision, device: str) -> nn.Module:
    import logging

    import bitsandbytes as bnb

    # Each int8 layer would say at each token that it rounds activations to half precision, as it must.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    shape, has_bias = (layer.in_features, layer.out_features), layer.bias is not None
    if precision is Precision.INT8:
        # 6.0 is LLM.int8()'s outlier threshold (arXiv 2208.07339, section 3.2).
        made = bnb.nn.Linear8bitLt(*shape, has_bias, has_fp16_weights=False, threshold=6.0, device="meta")
    else:
        made = bnb.nn.Linear4bit(
            *shape, has_bias, compute_dtype=compute_dtype(precision, device), quant_type="nf4", device="meta"
        )
    return made  # type: ignore[no-any-return]


def _parse(precision: str) -> Precision:
    if precision not in list(Precision):
        raise SettingsError(f"precision is {precision!r}; allowed: auto, {', '.join(Precision)}.")
    return Precision(precision)


def _asked_for(fit: Fit, fits: Sequence[Fit], device: Device) -> Fit:
    if not fit.is_possible:
        raise SettingsError(
            f"{fit.precision} is not offered on {device.title}.",
            hint="bf16 needs compute capability 8.0 or newer; use fp16, int8 or nf4."
            if device.is_cuda
            else "Half precision on the CPU is bf16.",
        )
    if not fit.fits:
        raise _out_of_memory(fits, device)
    return fit


def _preference(footprint: Footprint, device: Device) -> tuple[Precision, ...]:
    if device.is_cuda:
        half = Precision.BF16 if device.has_bf16 else Precision.FP16
        return (half, Precision.INT8, Precision.NF4)
    if footprint.num_bytes(Precision.FP32) <= SMALL_BYTES:
        return (Precision.FP32, Precision.BF16)
    return (Precision.BF16,)


def _is_possible(precision: Precision, device: Device) -> bool:
    if precision is Precision.BF16:
        return device.has_bf16
    return precision is not Precision.FP16 or device.is_cuda  # CPUs only emulate half precision


def _out_of_memory(fits: Sequence[Fit], device: Device) -> OutOfMemory:
    table = "; ".join(fit.sentence for fit in fits if fit.is_possible)
    return OutOfMemory(
        f"This model does not fit the memory of {device.title}: {table}.",
        hint="Close what else uses the device, choose a lower precision, or a smaller model.",
    )


def _available_memory() -> int:
    """Bytes that can be taken without swapping: the kernel's estimate, bounded by the container's limit."""
    fields = _meminfo()
    available = fields.get("MemAvailable", _total_memory())
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    return available if limit is None or used is None else min(available, max(0, limit - used))


def _total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _meminfo() -> dict[str, int]:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return {}  # not Linux
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}


def _cgroup(name: str) -> int | None:
    try:
        return int(Path("/sys/fs/cgroup", name).read_text("ascii"))
    except (OSError, ValueError):
        return None  # no container, or "max"
