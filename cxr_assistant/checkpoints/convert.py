"""Published pickles -> tensors that can be written one at a time: read safely, merged, checked.

Knows torch's file format and LoRA; must not know which checkpoint it serves (names come from its
WEIGHT_MAP) nor where the files come from.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from cxr_assistant.checkpoints.tensors import (
    SAFETENSORS_NAMES,
    StoredTensor,
    TensorSpec,
    rename,
    write_safetensors,
)
from cxr_assistant.errors import CorruptWeights, MissingWeights, WeightsMismatch

__all__ = [
    "LazyTensor",
    "find_folder",
    "merge_lora",
    "read_json",
    "read_pickled_tensors",
    "rename_all",
    "write_tensors",
]


# What torch's unpickler was seen to raise on 1,400 files with flipped bytes; it checks little by itself.
_DAMAGED = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when it is written; `origin` groups tensors of one file."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    origin: str = ""

    def split(self, part: int, num_parts: int) -> LazyTensor:
        """One of `num_parts` equal blocks of rows."""
        if num_parts == 1:
            return self
        if self.shape[0] % num_parts:
            raise WeightsMismatch(f"{self.shape[0]} rows do not fall into {num_parts} equal parts.")
        rows = self.shape[0] // num_parts
        cut = slice(part * rows, (part + 1) * rows)
        return LazyTensor((rows, *self.shape[1:]), lambda: self.read()[cut], self.origin)


def find_folder(sources: Sequence[Path], marker: str) -> Path:
    """The one folder among `sources` and their children that holds a file called `marker`.

    Folders are recognised by what they hold, never by their names. Raises MissingWeights otherwise.
    """
    candidates = [path for source in sources for path in (source, *sorted(source.glob("*/")))]
    found = sorted({path.resolve() for path in candidates if (path / marker).is_file()})
    if len(found) == 1:
        return found[0]
    raise MissingWeights(
        f"{marker} was found in {len(found)} folders; it is needed in exactly one.",
        hint="Name the folder that holds the published files, base model included.",
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises MissingWeights or CorruptWeights."""
    if not path.is_file():
        raise MissingWeights(
            f"{path.name} is missing.", hint="Fetch the checkpoint again, or complete its folder."
        )
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CorruptWeights(f"{path.name} is no JSON.", hint="Fetch it again.") from error
    return cast(dict[str, Any], content)


def read_pickled_tensors(paths: Iterable[Path], *, member: str | None = None) -> dict[str, LazyTensor]:
    """Every tensor of torch files, by name; `member` names the dictionary inside a training checkpoint."""
    reader = _PickleReader(member)
    return {
        name: LazyTensor(tuple(tensor.shape), reader.bound(path, name), str(path))
        for path in paths
        for name, tensor in reader.open(path).items()
    }


class _PickleReader:
    """Opens torch files memory-mapped, one at a time: older formats cannot be mapped and fill memory."""

    def __init__(self, member: str | None) -> None:
        self._member = member
        self._open: tuple[Path, dict[str, Tensor]] | None = None

    def open(self, path: Path) -> dict[str, Tensor]:
        if self._open is None or self._open[0] != path:
            self._open = None
            self._open = (path, self._load(path))
        return self._open[1]

    def bound(self, path: Path, name: str) -> Callable[[], Tensor]:
        return lambda: self.open(path)[name]

    def _load(self, path: Path) -> dict[str, Tensor]:
        if not path.is_file():
            raise MissingWeights(
                f"{path.name} is missing.", hint="Fetch the checkpoint again, or complete its folder."
            )
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except pickle.UnpicklingError as error:
            raise CorruptWeights(
                f"{path.name} is no torch file, or holds more than tensors and plain values.",
                hint="It is not opened, because such a file can run code. Fetch it again.",
            ) from error
        except _DAMAGED as error:
            raise CorruptWeights(f"{path.name} is cut off or damaged.", hint="Fetch it again.") from error
        if isinstance(content, dict) and self._member is not None:
            content = content.get(self._member)
        if not isinstance(content, dict):
            raise CorruptWeights(f"{path.name} holds no dictionary of tensors.", hint="Fetch it again.")
        return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def merge_lora(
    base: Mapping[str, LazyTensor], adapter: Mapping[str, LazyTensor], config: Mapping[str, Any]
) -> dict[str, LazyTensor]:
    """`base` with W + (B @ A) * alpha / r for each adapted weight, computed in float32 when read.

    Raises WeightsMismatch for pairs that are not complete, that fit no weight of `base`, or that the
    configuration's target modules ask for and that are not there.
    """
    _refuse_unknown_lora(config)
    scale = config["lora_alpha"] / config["r"]
    pairs = _lora_pairs(adapter)
    suffixes = tuple(f".{target}.weight" for target in config["target_modules"])
    wanted = {name for name in base if name.endswith(suffixes)}
    if wanted != set(pairs):
        odd = sorted(wanted ^ set(pairs))
        raise WeightsMismatch(
            f"{len(odd)} LoRA pairs are missing or left over, for example of {odd[0]}.",
            hint="Adapter and base model do not belong together.",
        )
    return {name: _merged(weight, pairs.get(name), scale) for name, weight in base.items()}


def _lora_pairs(adapter: Mapping[str, LazyTensor]) -> dict[str, tuple[LazyTensor, LazyTensor]]:
    halves: dict[str, dict[str, LazyTensor]] = {}
    for stored, tensor in adapter.items():
        match = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight", stored)
        if match is None:
            raise WeightsMismatch(f"{stored} is no LoRA tensor.", hint="Fetch the adapter again.")
        halves.setdefault(f"{match[1]}.weight", {})[match[2]] = tensor
    incomplete = sorted(name for name, half in halves.items() if len(half) != 2)
    if incomplete:
        raise WeightsMismatch(f"Half of the LoRA pair of {incomplete[0]} is missing.")
    return {name: (half["A"], half["B"]) for name, half in halves.items()}


def _merged(weight: LazyTensor, pair: tuple[LazyTensor, LazyTensor] | None, scale: float) -> LazyTensor:
    if pair is None:
        return weight
    narrow, wide = pair
    if (wide.shape[0], narrow.shape[1]) != weight.shape or wide.shape[1] != narrow.shape[0]:
        raise WeightsMismatch(f"LoRA of shapes {narrow.shape}, {wide.shape} does not fit {weight.shape}.")

    def read() -> Tensor:
        # fp32: merging in bf16 changed 5 to 27 of 32 tokens (arithmetic of the published fp16 code, measured)
        return weight.read().float() + (wide.read().float() @ narrow.read().float()) * scale

    return LazyTensor(weight.shape, read, weight.origin)


def _refuse_unknown_lora(config: Mapping[str, Any]) -> None:
    plain = {"bias": "none", "fan_in_fan_out": False, "modules_to_save": None, "layers_to_transform": None}
    for key, value in plain.items():
        if config.get(key, value) != value:
            raise WeightsMismatch(
                f"adapter_config.json: {key} is {config[key]!r}; this reader knows {value!r}."
            )
    for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern"):
        if config.get(key):
            raise WeightsMismatch(f"adapter_config.json asks for {key}, which this reader does not know.")


def rename_all(
    tensors: Mapping[str, LazyTensor],
    weight_map: Mapping[str, str | None],
    expected: Mapping[str, tuple[int, ...]],
) -> dict[str, LazyTensor]:
    """Rename by table and hold against `expected` names and shapes; raises WeightsMismatch."""
    renamed = cast(dict[str, LazyTensor], rename(cast(Mapping[str, StoredTensor], tensors), weight_map))
    for name in sorted(renamed.keys() ^ expected.keys()):
        raise WeightsMismatch(f"{name} is {'left over' if name in renamed else 'missing'}.")
    for name, tensor in renamed.items():
        if tensor.shape != expected[name]:
            raise WeightsMismatch(
                f"{name} has the shape {tensor.shape}; its configuration says {expected[name]}."
            )
    return renamed


def write_tensors(path: Path, tensors: Mapping[str, LazyTensor], *, precision: str) -> None:
    """Write all tensors in `precision`, file by file of their origin, one at a time in memory."""
    dtype = SAFETENSORS_NAMES[precision]
    names = sorted(tensors, key=lambda name: tensors[name].origin)
    specs = [TensorSpec(name, tensors[name].shape, dtype) for name in names]
    write_safetensors(path, specs, lambda name: tensors[name].read())
