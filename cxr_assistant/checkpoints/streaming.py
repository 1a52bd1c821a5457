"""Converted tensors into a model, mapped or cast one at a time, straight to their device and precision.

Knows torch modules and the safetensors of one folder; knows no architecture and no checkpoint.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from cxr_assistant.checkpoints.tensors import StoredTensor, list_tensors, weight_files
from cxr_assistant.errors import OutOfMemory, WeightsMismatch
from cxr_assistant.models.precision import Precision, compute_dtype, quantised_parameter

__all__ = ["empty_weights", "reading_ahead", "stream_in"]

READ_AHEAD_BYTES = 64 * 1024 * 1024
HUGE_PAGE_BYTES = 2 * 1024 * 1024
CAST_THREADS = 2


@contextmanager
def empty_weights() -> Iterator[None]:
    """Modules built inside cost no memory: their parameters have shapes only, until `stream_in`.

    Buffers are real: rotary frequencies must be computed, and in float32, whatever the weights are.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        yield


@contextmanager
def reading_ahead(folder: Path, *, device: str, precision: str) -> Iterator[None]:
    """Ask the kernel for the safetensors of `folder` in large steps: faults alone read in small ones, and the
    disk need not wait until the empty modules stand.

    It goes on behind the block, as tensors that stay mapped are wanted next, and ends where the block fails.
    What the CPU only casts is read once and in order, and the kernel runs ahead of that by itself.
    """
    failed = threading.Event()
    if device != "cpu" or Precision(precision).is_quantised or not _casts_most(folder, precision):
        threading.Thread(target=_read_ahead, args=(weight_files(folder), failed), daemon=True).start()
    try:
        yield
    except BaseException:
        failed.set()
        raise


def _casts_most(folder: Path, precision: str) -> bool:
    """True where more than half of the bytes are stored in another type than the CPU computes in."""
    dtype = compute_dtype(precision, "cpu")
    sizes = [(t.torch_dtype == dtype, t.span[1] - t.span[0]) for t in list_tensors(folder).values()]
    return 2 * sum(size for is_kept, size in sizes if not is_kept) > sum(size for _, size in sizes)


def stream_in(
    folder: Path,
    parts: Mapping[str, nn.Module],
    *,
    device: str,
    precision: str,
    stored_name: Callable[[str], str] = str,
) -> None:
    """Fill `parts` (name prefix -> module built under `empty_weights`) from the safetensors of `folder`.

    Each tensor is cast and moved by itself; on the CPU, a tensor already in its final type stays mapped
    to the file. Layers that `lower_layers` quantised are filled so on the way, and those that it marked stay
    on disk. `stored_name` turns a module's name into the one on disk.
    Raises: WeightsMismatch for leftover, missing or misshapen tensors; OutOfMemory.
    """
    stored = list_tensors(folder)
    homes = {stored_name(name): home for name, home in _homes(parts).items()}
    _refuse_difference(set(stored), set(homes))
    dtype = compute_dtype(precision, device)
    left = {id(module) for layer in _layers_on_disk(parts) for module in layer.modules()}
    try:
        for name, tensor in stored.items():
            module, leaf = homes[name]
            _refuse_shape(name, tensor.shape, tuple(getattr(module, leaf).shape))

        def put(name: str) -> None:
            module, leaf = homes[name]
            if id(module) not in left:
                _put(module, leaf, stored[name], dtype=dtype, device=device)

        with _side_by_side(device, precision) as for_each:
            for _ in for_each(put, stored):
                pass  # in the order of the file; an error of any comes out here
        _offload(_layers_on_disk(parts), homes, stored, dtype=dtype, device=device)
        for part in parts.values():
            _move_buffers(part, device)
            part.requires_grad_(False).eval()
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(
            f"The memory of '{device}' does not hold this model in {precision}.",
            hint="Choose a lower precision or a smaller model, or close what else uses the device.",
        ) from error


@contextmanager
def _side_by_side(device: str, precision: str) -> Iterator[Callable[..., Iterator[None]]]:
    """`map`, in several threads where the CPU casts: torch lets go of the interpreter meanwhile."""
    if device != "cpu" or Precision(precision).is_quantised:
        yield map
        return
    with ThreadPoolExecutor(CAST_THREADS) as pool:
        yield pool.map


class _FromDisk(Mapping[str, Tensor]):
    """The tensors of one layer by their names in it, read and cast anew each time."""

    def __init__(self, tensors: Mapping[str, StoredTensor], dtype: torch.dtype) -> None:
        self._tensors, self._dtype = tensors, dtype

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].read().to(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _layers_on_disk(parts: Mapping[str, nn.Module]) -> list[nn.Module]:
    return [m for part in parts.values() for m in part.modules() if getattr(m, "stays_on_disk", False)]


def _offload(
    layers: Sequence[nn.Module],
    homes: Mapping[str, tuple[nn.Module, str]],
    stored: Mapping[str, StoredTensor],
    *,
    dtype: torch.dtype,
    device: str,
) -> None:
    """Leave `layers` empty and have each read from its file when it is called, and dropped afterwards."""
    if not layers:
        return
    from accelerate.hooks import attach_align_device_hook

    names = {(id(module), leaf): name for name, (module, leaf) in homes.items()}
    for layer in layers:
        tensors: dict[str, StoredTensor] = {}
        for path, module in layer.named_modules():
            for leaf, parameter in module._parameters.items():
                if parameter is not None:
                    parameter.data = parameter.data.to(dtype)  # the hook casts to what it finds here
                    tensors[".".join(filter(None, (path, leaf)))] = stored[names[id(module), leaf]]
        attach_align_device_hook(
            layer, execution_device=torch.device(device), offload=True, weights_map=_FromDisk(tensors, dtype)
        )


def _homes(parts: Mapping[str, nn.Module]) -> dict[str, tuple[nn.Module, str]]:
    """Names of parameters and saved buffers -> the module that owns them and the name there."""
    found: dict[str, tuple[nn.Module, str]] = {}
    for prefix, part in parts.items():
        for path, module in part.named_modules():
            saved = {*module._parameters, *(set(module._buffers) - module._non_persistent_buffers_set)}
            for leaf in saved:
                if getattr(module, leaf) is not None:
                    found[".".join(filter(None, (prefix, path, leaf)))] = (module, leaf)
    return found


def _put(module: nn.Module, leaf: str, stored: StoredTensor, *, dtype: torch.dtype, device: str) -> None:
    if leaf in module._buffers:
        module._buffers[leaf] = stored.read().to(device)
        return
    empty = module._parameters[leaf]
    assert empty is not None
    quantised = quantised_parameter(empty, stored.read(), device)
    if quantised is None:
        quantised = nn.Parameter(_cast(stored, dtype, device), requires_grad=False)
    module._parameters[leaf] = quantised


def _cast(stored: StoredTensor, dtype: torch.dtype, device: str) -> Tensor:
    """`stored` as it is computed with; on the CPU, what need not be cast stays mapped to its file."""
    if device != "cpu":
        return stored.read().to(device).to(dtype)  # the device casts faster than it could be fed
    if stored.torch_dtype in (dtype, None):
        return stored.read().to(dtype)
    is_large = math.prod(stored.shape) * dtype.itemsize >= HUGE_PAGE_BYTES
    made = (_huge_empty if is_large else torch.empty)(stored.shape, dtype=dtype)
    stored.read_into(made)
    return made


def _huge_empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Fresh memory in huge pages where the system has them: faults of 4 KiB took half the time of a cast."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype)
    try:
        memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError from error
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def _refuse_shape(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise WeightsMismatch(
            f"{name} has the shape {found}; the configuration says {expected}.",
            hint="The folder's configuration contradicts its weights; fetch it again.",
        )


def _refuse_difference(stored: set[str], expected: set[str]) -> None:
    for names, kind in ((stored - expected, "left over"), (expected - stored, "missing")):
        if names:
            raise WeightsMismatch(
                f"{len(names)} tensors are {kind}, for example {min(names)}.",
                hint="The folder does not hold what its configuration says; fetch it again.",
            )


def _move_buffers(tree: nn.Module, device: str) -> None:
    for module in tree.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)  # never cast: inv_freq stays float32


def _read_ahead(paths: tuple[Path, ...], failed: threading.Event) -> None:
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        with path.open("rb") as stream:
            for offset in range(0, path.stat().st_size, READ_AHEAD_BYTES):
                if failed.is_set():
                    return
                os.posix_fadvise(stream.fileno(), offset, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
