"""Stage 1, before the tower: a small convolutional stem learns from crops where each finding stands.

Rare and small findings come first: most crops are drawn around one. The head is scaffolding.
"""

# B crops, C channels, K kinds of finding, G cells per side of a whole film, g of a crop

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cxr_assistant.imaging.phantom import FindingKind
from cxr_assistant.models.stem import CELL_PX, Stem
from cxr_assistant.training.data import KINDS, Shard
from cxr_assistant.training.descent import cosine_rate, descend
from cxr_assistant.training.emphasis import emphasis_on, strongest_emphasis
from cxr_assistant.training.pictures import augment, normalise
from cxr_assistant.training.pool import Pool
from cxr_assistant.training.recipe import Recipe
from cxr_assistant.training.team import SOLO, Team

__all__ = ["fold_norms", "train_stem"]

Report = Callable[[str], None]
_AROUND_A_FINDING = 0.65  # share of crops that are drawn around a finding, if the film has any
_CELL_SHARE = 0.2  # a cell belongs to a finding from this covered share on
_THIN_SHARE = 0.08  # and to a tube or a line from this one on
_THIN = (FindingKind.ENDOTRACHEAL_TUBE, FindingKind.CENTRAL_LINE)


class StemTeacher(nn.Module):
    """A stem with a head that tells the kind of each cell."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.stem = Stem(recipe.image_spec.channels, recipe.stem_width, norms=True)
        self.head = nn.Conv2d(recipe.stem_width, len(KINDS), 1)
        with torch.no_grad():
            self.head.bias.fill_(-4.0)  # type: ignore[union-attr]  # almost every cell shows nothing

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, s, s) normalised -> (B, K, g, g) logits."""
        logits: Tensor = self.head(self.stem(pixels))
        return logits


class CropDealer:
    """Draws crops of the pool: pictures (B, C, s, s) in [0, 1] and masks (B, K, g, g).

    One in two is mirrored: the stem tells what stands somewhere, and sides are the tower's matter.
    """

    def __init__(self, pool: Pool, recipe: Recipe, rng: np.random.Generator) -> None:
        self.pool, self.rng = pool, rng
        self.side = min(recipe.stem_crop_px, recipe.image_px) // CELL_PX
        self.weights = np.array([emphasis_on(kind).centred for kind in KINDS])

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        images, masks = [], []
        for _ in range(count):
            shard, row = self._film()
            top, left = self._corner(shard.masks[row])
            cells = slice(top, top + self.side), slice(left, left + self.side)
            pixels = tuple(slice(c.start * CELL_PX, c.stop * CELL_PX) for c in cells)
            ahead = -1 if self.rng.random() < 0.5 else 1
            images.append(shard.images[row][:, pixels[0], pixels[1]][..., ::ahead])
            masks.append(shard.masks[row][:, cells[0], cells[1]][..., ::ahead])
        return _in_unit(images), _in_unit(masks)

    def _film(self) -> tuple[Shard, int]:
        """A film of the pool, rather one that shows what is rare and small."""
        while True:
            ((shard, row),) = self.pool.locate(self.rng.integers(0, self.pool.available, 1))
            kinds = map(FindingKind, shard.records[row]["kinds"])
            if self.rng.random() < strongest_emphasis(kinds).cropped:
                return shard, row

    def _corner(self, masks: np.ndarray) -> tuple[int, int]:
        """Top and left cell of a crop, with a finding somewhere in it or by chance."""
        spare = masks.shape[1] - self.side
        weights = self.weights * (masks.max(axis=(1, 2)) > 255 * _THIN_SHARE)
        if not weights.any() or self.rng.random() > _AROUND_A_FINDING:
            top, left = self.rng.integers(0, spare + 1, 2)
            return int(top), int(left)
        kind = self.rng.choice(len(KINDS), p=weights / weights.sum())
        rows, columns = np.nonzero(masks[kind] > 255 * _THIN_SHARE)
        chosen = self.rng.integers(len(rows))
        inside = self.rng.integers(2, max(self.side - 2, 3), 2)
        top, left = np.clip((rows[chosen] - inside[0], columns[chosen] - inside[1]), 0, spare)
        return int(top), int(left)


def _in_unit(arrays: list[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).float() / 255


def train_stem(pool: Pool, recipe: Recipe, report: Report, state: Path, team: Team = SOLO) -> Stem:
    """Teach the stem on crops of the pool and fold its norms; `state` keeps the taught stem."""
    if state.exists():
        stem = Stem(recipe.image_spec.channels, recipe.stem_width)
        stem.load_state_dict(load_file(state))
        return stem.eval()
    torch.manual_seed(recipe.seed + 5)
    generator = torch.Generator().manual_seed(recipe.seed * 89 + team.rank)
    dealer = CropDealer(pool, recipe, np.random.default_rng((recipe.seed + 6, team.rank)))
    teacher = StemTeacher(recipe).train()
    optimizer = torch.optim.AdamW(teacher.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    started, losses = time.monotonic(), []
    for step in range(recipe.stem_steps):
        pool.grow_to(int(recipe.first_phantoms + recipe.phantoms_per_step * step))
        images, masks = augment(*dealer.draw(team.share_of(recipe.stem_batch)), generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = teacher(normalise(images, recipe).contiguous(memory_format=torch.channels_last))
        loss = _cell_loss(logits.float(), masks)
        rate = cosine_rate(step, recipe.stem_steps, recipe.stem_rate, recipe.stem_steps // 20 + 1)
        descend(loss, optimizer, teacher.parameters(), rate, team)
        losses.append(float(loss.detach()))
        if (step % 50 == 49 or step + 1 == recipe.stem_steps) and team.leads:
            speed = recipe.stem_batch * (step + 1) / (time.monotonic() - started)
            report(
                f"stem {step + 1}/{recipe.stem_steps} pool {pool.available} loss {np.mean(losses[-50:]):.4f}"
                f" {speed:.0f} crops/s"
            )
    team.average_buffers(teacher)
    stem = fold_norms(teacher.stem)
    if team.leads:
        fresh = state.with_suffix(".new")
        save_file(stem.state_dict(), fresh)
        fresh.replace(state)
    return stem


def _cell_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy per cell and kind, positives weighed by their tempered odds in these crops."""
    limits = torch.tensor([_THIN_SHARE if kind in _THIN else _CELL_SHARE for kind in KINDS])
    wanted = (masks > limits[:, None, None]).float()
    share = wanted.mean(dim=(0, 2, 3)).clamp(2e-3, 0.5)
    weight = ((1 - share) / share) ** 0.5
    return F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weight[:, None, None])


def fold_norms(stem: Stem) -> Stem:
    """The same stem with its batch norms folded into the convolutions, ready to be used."""
    assert stem.norms is not None
    stem.eval()
    plain = Stem(stem.channels, stem.width)
    for place, convolution, norm in zip(plain.convolutions, stem.convolutions, stem.norms, strict=True):
        assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        place.load_state_dict(fuse_conv_bn_eval(convolution, norm).state_dict())
    return plain.eval()
