"""A pool of rendered phantoms that grows while training goes on.

Rendering runs in worker processes; which phantoms are in the pool at a step depends on the step alone, so a
run can be repeated whatever the speed of the machine: a step whose phantoms are not rendered yet waits.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from cxr_assistant.errors import PhantomError
from cxr_assistant.imaging.transforms import ImageSpec
from cxr_assistant.training.data import Shard, read_shard, write_shard

__all__ = ["SHARD_SIZE", "Pool", "RenderJob", "render_all"]

SHARD_SIZE = 250


@dataclass(frozen=True)
class RenderJob:
    """The phantoms of `seeds`, as shards in `directory`."""

    directory: Path
    seeds: Sequence[int]
    spec: ImageSpec
    cells: int

    @property
    def count(self) -> int:
        return len(self.seeds)

    def shard_path(self, index: int) -> Path:
        """Named by all of its seeds, so that a shard of another choice is not taken up."""
        seeds = self._shard_seeds(index)
        return self.directory / f"{seeds[0]}-{crc32(repr(list(seeds)).encode()):08x}"

    def _shard_seeds(self, index: int) -> Sequence[int]:
        return self.seeds[index * SHARD_SIZE : (index + 1) * SHARD_SIZE]

    @property
    def num_shards(self) -> int:
        return -(-self.count // SHARD_SIZE)

    def render_shard(self, index: int) -> None:
        path = self.shard_path(index)
        if not path.with_suffix(".json").exists():
            write_shard(path, self._shard_seeds(index), self.spec, self.cells)


def render_all(jobs: Sequence[RenderJob], processes: int) -> list[multiprocessing.process.BaseProcess]:
    """Start rendering in the background, one job after the other; the processes share shards round-robin."""
    for job in jobs:
        job.directory.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    workers: list[multiprocessing.process.BaseProcess] = []
    for offset in range(processes):
        worker = context.Process(target=_render_some, args=(jobs, offset, processes), daemon=True)
        worker.start()
        workers.append(worker)
    return workers


def _render_some(jobs: Sequence[RenderJob], offset: int, step: int) -> None:
    torch.set_num_threads(1)
    for job in jobs:
        for index in range(offset, job.num_shards, step):
            job.render_shard(index)


@dataclass
class Pool:
    """The first `available` phantoms of a job; `grow_to` waits for shards that are still being rendered."""

    job: RenderJob
    report: Callable[[str], None]
    shards: list[Shard] = field(default_factory=list)

    @property
    def available(self) -> int:
        return sum(len(shard.images) for shard in self.shards)

    def grow_to(self, count: int) -> None:
        """Take up every whole shard that fits into `count`; at the job's own count, the last one too."""
        while self.available < self.job.count and min(self.available + SHARD_SIZE, self.job.count) <= count:
            path = self.job.shard_path(len(self.shards))
            if not path.with_suffix(".json").exists():
                self.report(f"waiting for phantoms: {self.available} of {count} rendered")
            self._wait_for(path.with_suffix(".json"))
            self.shards.append(read_shard(path))

    @staticmethod
    def _wait_for(marker: Path, patience_s: float = 1200.0) -> None:
        """Wait for a shard; raises PhantomError when the renderers seem to be gone."""
        deadline = time.monotonic() + patience_s
        while not marker.exists():
            if time.monotonic() > deadline:
                raise PhantomError(
                    f"No phantoms arrived for {patience_s:.0f} seconds.", hint="Start the training again."
                )
            time.sleep(1.0)

    def locate(self, indices: np.ndarray) -> list[tuple[Shard, int]]:
        return [(self.shards[index // SHARD_SIZE], int(index % SHARD_SIZE)) for index in indices]

    def images(self, indices: np.ndarray) -> Tensor:
        """(B, C, S, S) in [0, 1]."""
        return torch.from_numpy(np.stack([s.images[i] for s, i in self.locate(indices)])).float() / 255

    def masks(self, indices: np.ndarray) -> Tensor:
        """(B, K, G, G) in [0, 1]."""
        return torch.from_numpy(np.stack([s.masks[i] for s, i in self.locate(indices)])).float() / 255

    def labels(self, name: str, indices: np.ndarray) -> Tensor:
        return torch.from_numpy(
            np.stack([getattr(s, name)[i] for s, i in self.locate(indices)]).astype(np.int64)
        )
