"""Tensors on disk: read lazily, renamed by table, written one at a time.

Knows the safetensors layout and a checkpoint's WEIGHT_MAP; knows no architecture. Nothing here holds
more than one tensor in memory.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_assistant.errors import CorruptWeights, MissingWeights, WeightsMismatch

if TYPE_CHECKING:
    import torch

__all__ = [
    "StoredTensor",
    "TensorSpec",
    "copy_renamed",
    "list_tensors",
    "read_index",
    "rename",
    "weight_files",
    "write_safetensors",
]

SAFETENSORS_NAMES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}  # by the values of models.precision

_BLOCK_NUMBERS = 32 * 1024  # of a cast: the most that torch leaves to the thread that asks

_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "I8": 1, "BOOL": 1}


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and safetensors type ("F32", "F16", "BF16") of a tensor that is yet to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * _DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file, or one of `num_parts` equal blocks of its rows."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    span: tuple[int, int]  # its first byte in the file, and the one behind its last
    part: int = 0
    num_parts: int = 1

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """None for integers, which nothing casts."""
        return _torch_dtypes().get(self.dtype)

    def read(self) -> torch.Tensor:
        """The tensor, memory-mapped: its pages come from the file when they are touched."""
        from safetensors import safe_open

        with safe_open(str(self.path), framework="pt") as file:
            whole = file.get_tensor(self.name)
        if self.num_parts == 1:
            return whole  # type: ignore[no-any-return]
        rows = whole.shape[0] // self.num_parts
        return whole[self.part * rows : (self.part + 1) * rows]  # type: ignore[no-any-return]

    def read_into(self, target: torch.Tensor) -> None:
        """Copy and cast into `target`, block by block, and have the system drop the file's pages behind it.

        A cast copy and the whole file beside it in the page cache are twice the weights. Where the memory
        does not hold both, finding room for the next page took longer than the reading: 34.6 against 11.3 s
        for 13.7 GB, measured; where it does, whoever loads the same again within minutes has the disk read
        again. By way of float32 two half precisions are cast three times as fast as directly.
        """
        import torch

        dtype = _torch_dtypes()[self.dtype]
        block, wide = torch.empty(_BLOCK_NUMBERS, dtype=dtype), torch.empty(_BLOCK_NUMBERS)
        raw: memoryview = block.view(torch.uint8).numpy().data
        flat, size = target.view(-1), dtype.itemsize
        with self.path.open("rb", buffering=0) as stream:
            first, end = self.span
            stream.seek(first)
            for start in range(0, flat.numel(), _BLOCK_NUMBERS):
                count = min(_BLOCK_NUMBERS, flat.numel() - start)
                _fill(stream, raw[: count * size])
                flat[start : start + count] = wide[:count].copy_(block[:count])
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), first, end - first, os.POSIX_FADV_DONTNEED)

    def split(self, part: int, num_parts: int) -> StoredTensor:
        if num_parts > 1 and self.shape[0] % num_parts:
            raise WeightsMismatch(
                f"{self.name} has {self.shape[0]} rows, which do not fall into {num_parts} equal parts."
            )
        first, end = self.span
        size = (end - first) // num_parts
        shape = (self.shape[0] // num_parts, *self.shape[1:]) if num_parts > 1 else self.shape
        span = (first + part * size, first + (part + 1) * size)
        return replace(self, shape=shape, span=span, part=part, num_parts=num_parts)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of `folder`: those of its index, or all that lie there.

    Raises: MissingWeights, naming the first file of the index that is not there.
    """
    index = next(iter(sorted(folder.glob("*.safetensors.index.json"))), None)
    if index is None:
        paths = tuple(sorted(folder.glob("model*.safetensors")))
    else:
        paths = tuple(folder / name for name in sorted(set(read_index(index).values())))
    for path in paths:
        if not path.is_file():
            raise MissingWeights(
                f"{path.name} is missing.", hint="Fetch the checkpoint again, or complete its folder."
            )
    if not paths:
        raise MissingWeights(
            "The folder holds no safetensors file.", hint="Name the folder that holds the weights."
        )
    return paths


def read_index(path: Path) -> dict[str, str]:
    """The table of a sharded checkpoint: tensor name -> file name, in the folder of the index.

    Raises: CorruptWeights for anything else, and for names that lead out of the folder.
    """
    try:
        table: dict[str, str] = json.loads(path.read_text("utf-8"))["weight_map"]
        if all(Path(name).name == name for name in table.values()):
            return table
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # said below
    raise CorruptWeights(f"{path.name} is no table of shards.", hint="Fetch it again.")


def list_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the safetensors files of `folder`, by name, from their headers alone."""
    found: dict[str, StoredTensor] = {}
    for path in weight_files(folder):
        start, header = _read_header(path)
        for name, entry in header.items():
            first, end = entry["data_offsets"]
            found[name] = StoredTensor(
                path, name, tuple(entry["shape"]), entry["dtype"], (start + first, start + end)
            )
    return found


def rename(
    stored: Mapping[str, StoredTensor], weight_map: Mapping[str, str | None]
) -> dict[str, StoredTensor]:
    """Stored names -> our names, by the first pattern that fits; `*` stands for any run of characters.

    A target of None drops the tensor on purpose; `{q,k,v}` in a target splits its rows in equal parts.
    Raises: WeightsMismatch, listing the tensors that no pattern fits, or a pattern that fits none.
    """
    patterns = [(_pattern(source), source, target) for source, target in weight_map.items()]
    renamed: dict[str, StoredTensor] = {}
    used: set[str] = set()
    leftovers: list[str] = []
    for name, tensor in stored.items():
        match = next(((m, s, t) for p, s, t in patterns if (m := p.fullmatch(name))), None)
        if match is None:
            leftovers.append(name)
            continue
        found, source, target = match
        used.add(source)
        targets = _targets(target, found.groups())
        for part, ours in enumerate(targets):
            renamed[ours] = tensor.split(part, len(targets))
    _refuse(leftovers, "are left over: this is another architecture")
    _refuse([s for s, t in weight_map.items() if s not in used and t is not None], "are missing")
    return renamed


def write_safetensors(
    path: Path,
    specs: Sequence[TensorSpec],
    read: Callable[[str], torch.Tensor],
    *,
    count_bytes: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a safetensors file tensor by tensor, so that memory holds one of them at a time.

    `read(name)` gives the tensor with the shape of its spec; it is cast to the type of the spec.
    """
    dtypes = _torch_dtypes()
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    entries: dict[str, Any] = {}
    for spec in specs:
        entries[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.num_bytes],
        }
        offset += spec.num_bytes
    text = json.dumps({**header, **entries}).encode()
    text += b" " * (
        -len(text) % 8
    )  # tensors start at a multiple of 8 bytes, as the reference writer aligns them
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for spec in specs:
            tensor = read(spec.name)
            if tuple(tensor.shape) != spec.shape:
                raise WeightsMismatch(
                    f"{spec.name} has the shape {tuple(tensor.shape)}; expected: {spec.shape}."
                )
            stream.write(_bytes_of(tensor.to(dtypes[spec.dtype]).contiguous()))
            count_bytes(spec.num_bytes)


def copy_renamed(folder: Path, target: Path, weight_map: Mapping[str, str | None], *, precision: str) -> None:
    """Write the tensors of `folder`, renamed, to the one file `target` in fp32, bf16 or fp16."""
    renamed = rename(list_tensors(folder), weight_map)
    specs = [TensorSpec(name, t.shape, SAFETENSORS_NAMES[precision]) for name, t in renamed.items()]
    write_safetensors(target, specs, lambda name: renamed[name].read())


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    import torch

    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def _torch_dtypes() -> dict[str, torch.dtype]:
    import torch

    return {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def _fill(stream: RawIOBase, buffer: memoryview) -> None:
    """Read until `buffer` is full; raises CorruptWeights when the file ends before."""
    while buffer:
        count = stream.readinto(buffer)
        if not count:
            raise CorruptWeights("A safetensors file has become shorter.", hint="Fetch it again.")
        buffer = buffer[count:]


def _read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the data of a safetensors file begin, and its table of tensors."""
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header: dict[str, Any] = json.loads(stream.read(min(length, 100_000_000)))
    except (struct.error, ValueError) as error:
        raise CorruptWeights(f"{path.name} is no safetensors file.", hint="Fetch it again.") from error
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if path.stat().st_size != 8 + length + end:
        raise CorruptWeights(f"{path.name} is cut off or has bytes too many.", hint="Fetch it again.")
    return 8 + length, header


def _pattern(source: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(re.escape(piece) for piece in source.split("*")))


def _targets(target: str | None, groups: Sequence[str]) -> tuple[str, ...]:
    if target is None:
        return ()
    for group in groups:
        target = target.replace("*", group, 1)
    choices = re.fullmatch(r"(.*)\{(.*)\}(.*)", target)
    if choices is None:
        return (target,)
    before, alternatives, after = choices.groups()
    return tuple(f"{before}{choice}{after}" for choice in alternatives.split(","))


def _refuse(names: Iterable[str], complaint: str) -> None:
    names = sorted(names)
    if names:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise WeightsMismatch(
            f"{len(names)} tensors {complaint}: {shown}.",
            hint="Check that the folder holds the checkpoint you named.",
        )
