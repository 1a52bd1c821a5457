"""Data-parallel training on the cores of one machine: one process per core, gradients averaged.

On a CPU this beats one process with many threads: threads wait for each other at every small product,
processes once a step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

__all__ = ["SOLO", "Team", "run_team"]


@dataclass(frozen=True)
class Team:
    """One member of `size` processes that train one model."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share_of(self, batch: int) -> int:
        return max(batch // self.size, 1)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def average_buffers(self, module: nn.Module) -> None:
        """Make running means alike: each member has seen its own share."""
        if self.size == 1:
            return
        for buffer in module.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer.div_(self.size)


SOLO = Team()


def run_team(size: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call work(team, *arguments) in `size` processes, or here when one is enough; errors rise."""
    if size == 1:
        work(SOLO, *arguments)
        return
    with tempfile.TemporaryDirectory() as directory:
        meeting = f"file://{Path(directory) / 'meeting'}"
        spawn(_member, args=(size, meeting, work, arguments), nprocs=size)  # type: ignore[no-untyped-call]


def _member(
    rank: int, size: int, meeting: str, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    try:
        work(Team(rank, size), *arguments)
    finally:
        dist.destroy_process_group()
