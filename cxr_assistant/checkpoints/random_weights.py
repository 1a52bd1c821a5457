"""Random weights in the published layouts, at full size: to measure loading and speed without a licence.

Knows the layouts that the loaders read; must not be mistaken for a model: what it writes speaks noise, and
every folder says so. Tensors are written one at a time.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cxr_assistant.checkpoints.random_layouts import Layout, family_of, layout_of
from cxr_assistant.checkpoints.random_sizes import PUBLISHED_SIZES, Sizes
from cxr_assistant.checkpoints.random_tokenizers import write_byte_level_bpe, write_sentencepiece
from cxr_assistant.checkpoints.spec import Checkpoint
from cxr_assistant.checkpoints.tensors import TensorSpec, write_safetensors
from cxr_assistant.errors import CheckpointError

__all__ = ["write_random_checkpoint"]

MAX_SHARD_BYTES = 5_000_000_000  # as the published shards are cut
STD = 0.02  # of linear layers and tables, as these families were initialised
_BLOCK_SIZE = 1 << 22

_TORCH_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NOTE = "Random weights in the layout of {title}, for measuring. They say nothing about any image.\n"


def write_random_checkpoint(
    checkpoint: Checkpoint, directory: Path, *, sizes: Sizes | None = None, seed: int = 0
) -> None:
    """Write the published files of `checkpoint`, with random numbers, into an empty `directory`.

    `sizes` None: as published. Equal seeds give equal bytes.
    Raises: CheckpointError for a folder that is not empty, or a checkpoint whose layout is not known.
    """
    if directory.exists() and any(directory.iterdir()):
        raise CheckpointError(
            "The folder is not empty.", hint="Name a folder that is empty or not there yet."
        )
    sizes = sizes or PUBLISHED_SIZES.get(family_of(checkpoint))
    if sizes is None:
        raise CheckpointError(
            f"{checkpoint.title} has no published layout to imitate.",
            hint=f"Allowed: {', '.join(PUBLISHED_SIZES)}.",
        )
    numbers = _Numbers(seed)
    for layout in layout_of(checkpoint, sizes):
        folder = directory / layout.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "RANDOM.txt").write_text(_NOTE.format(title=checkpoint.title), "utf-8")
        _write_folder(folder, layout, numbers)


def _write_folder(folder: Path, layout: Layout, numbers: _Numbers) -> None:
    for name, content in layout.json_files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    if layout.safetensors:
        _write_shards(folder, layout.safetensors, numbers)
    for name, tensors in layout.pickles.items():
        _write_pickle(folder / name, tensors, numbers, member=layout.members.get(name))
    if layout.sentencepiece_size:
        write_sentencepiece(folder / "tokenizer.model", layout.sentencepiece_size)
    if layout.byte_level_size:
        write_byte_level_bpe(folder, layout.byte_level_size)


def _write_shards(folder: Path, specs: tuple[TensorSpec, ...], numbers: _Numbers) -> None:
    shards = list(_cut(specs))
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        by_name = {spec.name: spec for spec in shard}
        write_safetensors(folder / name, shard, lambda n, by_name=by_name: numbers.tensor(by_name[n]))  # type: ignore[misc]
        index |= dict.fromkeys(by_name, name)
    total = sum(spec.num_bytes for spec in specs)
    content = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _cut(specs: tuple[TensorSpec, ...]) -> Iterator[list[TensorSpec]]:
    shard: list[TensorSpec] = []
    for spec in specs:
        if shard and sum(s.num_bytes for s in shard) + spec.num_bytes > MAX_SHARD_BYTES:
            yield shard
            shard = []
        shard.append(spec)
    yield shard


def _write_pickle(
    path: Path, specs: tuple[TensorSpec, ...], numbers: _Numbers, *, member: str | None
) -> None:
    """A torch file whose bytes are filled in through a shared memory map, so that memory never holds it."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.serialization import set_default_mmap_options, skip_data

    with FakeTensorMode():
        hollow: Any = {s.name: torch.empty(s.shape, dtype=_TORCH_TYPES[s.dtype]) for s in specs}
        if member is not None:
            hollow = {"epoch": 0, "name": "random", member: hollow}
        with skip_data(materialize_fake_tensors=True):
            torch.save(hollow, path)
    with set_default_mmap_options(mmap.MAP_SHARED):  # written pages belong to the file
        stored = torch.load(path, mmap=True, weights_only=True)
    for spec in specs:
        numbers.fill((stored if member is None else stored[member])[spec.name], spec.name)


class _Numbers:
    """Normal numbers from one block that is read again and again from shifting places.

    Drawing seven billion numbers would take longer than writing them; for memory and speed it is the bytes
    that count, and no two tensors begin at the same place.
    """

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._block = torch.randn(_BLOCK_SIZE, generator=generator) * STD
        self._by_type: dict[torch.dtype, Tensor] = {}
        self._start = 0

    def tensor(self, spec: TensorSpec) -> Tensor:
        tensor = torch.empty(spec.shape, dtype=_TORCH_TYPES[spec.dtype])
        self.fill(tensor, spec.name)
        return tensor

    def fill(self, tensor: Tensor, name: str) -> None:
        flat = tensor.view(-1)
        if tensor.ndim == 1 and not name.endswith("class_embedding"):
            flat.fill_(
                0.0 if name.endswith("bias") else 1.0
            )  # norms and layer scales leave things as they are
            return
        block = self._by_type.setdefault(tensor.dtype, self._block.to(tensor.dtype))
        self._start = (self._start + 7919) % _BLOCK_SIZE
        done = 0
        while done < len(flat):
            first = (self._start + done) % _BLOCK_SIZE
            count = min(len(flat) - done, _BLOCK_SIZE - first)
            flat[done : done + count] = block[first : first + count]
            done += count
