"""One step down a loss, the same in every stage."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cxr_assistant.training.team import Team

__all__ = ["cosine_rate", "descend"]

_LONGEST_GRADIENT = 1.0


def cosine_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Learning rate: linear warm-up, then a cosine to 1 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))))


def descend(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[nn.Parameter],
    rate: float,
    team: Team,
) -> None:
    """Change `parameters` at a learning rate of `rate` by the team's mean gradient of `loss`."""
    taught = list(parameters)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    team.average_gradients(taught)
    nn.utils.clip_grad_norm_(taught, _LONGEST_GRADIENT)
    optimizer.step()
