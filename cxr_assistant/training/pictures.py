"""Pictures of the pool as the stages learn from them: changed at random, then normalised.

B pictures, C channels (the film first, then its maps), S pixels and G cells of the stem per side, K kinds
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cxr_assistant.training.recipe import Recipe

__all__ = ["augment", "normalise"]


def normalise(images: Tensor, recipe: Recipe) -> Tensor:
    """(B, C, S, S) films and their maps in [0, 1], as `transforms.prepare` normalises them."""
    spec = recipe.image_spec
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    return (images - mean) / std


def augment(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shift, zoom, turn, gamma, contrast and noise; never a flip, which would swap the patient's sides.

    images (B, C, S, S) in [0, 1], the film first, then its maps; masks (B, K, G, G); all are moved alike. A
    map follows the contrast of its film, so it is only made stronger or weaker.
    """
    count = images.shape[0]

    def draw(spread: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * spread

    angle, zoom = draw(0.06), 1 + draw(0.07)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack([torch.stack([cos, -sin, draw(0.08)], 1), torch.stack([sin, cos, draw(0.08)], 1)], 1)
    moved = _warp(images, theta)
    gamma = torch.exp(draw(0.22))[:, None, None, None]
    gain, lift = (1 + draw(0.12))[:, None, None, None], draw(0.06)[:, None, None, None]
    film, maps = moved[:, :1], moved[:, 1:]
    noise = torch.randn(film.shape, generator=generator) * (
        torch.rand(count, 1, 1, 1, generator=generator) * 0.03
    )
    film = film.clamp(1e-3, 1) ** gamma * gain + lift + noise
    maps = maps * torch.exp(draw(0.2))[:, None, None, None]
    return torch.cat([film, maps], dim=1).clamp(0, 1), _warp(masks, theta)


def _warp(images: Tensor, theta: Tensor) -> Tensor:
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False, padding_mode="zeros")
