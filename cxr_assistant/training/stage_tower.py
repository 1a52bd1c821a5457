"""The training loop of stage 1."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Dinov2Config

from cxr_assistant.models.stem import CELL_PX, Stem
from cxr_assistant.training.data import KINDS
from cxr_assistant.training.descent import cosine_rate, descend
from cxr_assistant.training.pictures import augment, normalise
from cxr_assistant.training.pool import SHARD_SIZE, Pool
from cxr_assistant.training.recipe import Recipe
from cxr_assistant.training.team import SOLO, Team
from cxr_assistant.training.tower import (
    Balance,
    Labels,
    TowerTeacher,
    bake_patches,
    tower_loss,
    whiten_patches,
)

__all__ = ["share_per_patch", "tower_config", "train_tower", "validate_tower"]

Report = Callable[[str], None]


def tower_config(recipe: Recipe) -> Dinov2Config:
    """LLaVA-Rad's kind of tower (DINOv2 with LayerScale), small and for a film and its maps."""
    config = Dinov2Config(
        hidden_size=recipe.tower_width,
        num_hidden_layers=recipe.tower_layers,
        num_attention_heads=recipe.tower_width // 64,
        mlp_ratio=4,
        image_size=recipe.image_px,
        patch_size=recipe.patch_px,
        num_channels=recipe.image_spec.channels,
        layerscale_value=1.0,
        stem_width=recipe.stem_width,
    )
    # On CPUs plain bf16 products outrun the fused kernel at this size: 67 against 42 pictures/s.
    config._attn_implementation = "eager"
    return config


def share_per_patch(masks: Tensor, recipe: Recipe) -> Tensor:
    """(B, K, G, G) covered share of each cell of the stem -> (B, K, P, P) of each patch of the tower."""
    return F.avg_pool2d(masks, recipe.patch_px // CELL_PX)


def labels_of(pool: Pool, indices: np.ndarray, masks: Tensor) -> Labels:
    presence, severity = pool.labels("presence", indices), pool.labels("severity", indices)
    return Labels(masks, presence, severity, pool.labels("view", indices))


class TowerTrainer:
    """Teacher, optimiser and chance; its state can be kept and taken up again."""

    def __init__(self, stem: Stem, recipe: Recipe, pool: Pool, hard: Pool, team: Team) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.pool, self.hard, self.team, self.step = recipe, pool, hard, team, 0
        self.generator = torch.Generator().manual_seed(recipe.seed * 97 + team.rank)
        self.rng = np.random.default_rng((recipe.seed, team.rank))
        self.teacher = TowerTeacher(tower_config(recipe), stem).train()
        pool.grow_to(recipe.phantoms)
        first = np.arange(min(2 * SHARD_SIZE, pool.available))
        self.balance = Balance.of(share_per_patch(pool.masks(first), recipe), pool.labels("presence", first))
        whiten_patches(self.teacher.tower, normalise(pool.images(first[::4]), recipe))
        self.optimizer = _optimizer(self.teacher)

    def take_up(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        if self.step > self.recipe.tower_steps:
            self._begin_the_last_leg()
        self.teacher.load_state_dict(state["teacher"])
        self.optimizer.load_state_dict(state["optimizer"])

    def keep(self, path: Path) -> None:
        """Write the state, whole or not at all."""
        fresh = path.with_suffix(".new")
        state = {
            "step": self.step,
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, fresh)
        fresh.replace(path)

    @property
    def steps(self) -> int:
        """Of both legs."""
        return self.recipe.tower_steps + self.recipe.hard_steps

    def learn(self) -> dict[str, float]:
        """One step: of the first leg on a batch of the pool, of the last one half of it on hard films."""
        recipe, share = self.recipe, self.team.share_of(self.recipe.batch)
        if self.step < recipe.tower_steps:
            dealt = [self._deal(self.pool, share)]
            rate = cosine_rate(self.step, recipe.tower_steps, recipe.tower_rate, recipe.tower_steps // 20)
        else:
            if self.step == recipe.tower_steps:
                self._begin_the_last_leg()
            dealt = [self._deal(self.pool, share - share // 2), self._deal(self.hard, share // 2)]
            step = self.step - recipe.tower_steps
            rate = cosine_rate(step, recipe.hard_steps, recipe.hard_rate, recipe.hard_steps // 20 + 1)
        images = torch.cat([images for images, _ in dealt])
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.teacher(normalise(images, recipe))
        loss, parts = tower_loss(logits, Labels.joined([labels for _, labels in dealt]), self.balance)
        descend(loss, self.optimizer, self.teacher.parameters(), rate, self.team)
        self.step += 1
        return parts

    def _begin_the_last_leg(self) -> None:
        """With chance of its own, so that a run that was cut here goes on alike; with the stem."""
        self.generator = torch.Generator().manual_seed(self.recipe.seed * 97 + 31 + self.team.rank)
        self.rng = np.random.default_rng((self.recipe.seed + 9, self.team.rank))
        self.hard.grow_to(self.recipe.hard_phantoms)
        stem = list(self.teacher.stem.requires_grad_(True).parameters())
        self.optimizer.add_param_group({"params": stem, "weight_decay": 0.01})

    def _deal(self, pool: Pool, count: int) -> tuple[Tensor, Labels]:
        """Augmented pictures of a pool, and their labels."""
        indices = self.rng.integers(0, pool.available, count)
        images, masks = augment(pool.images(indices), pool.masks(indices), self.generator)
        return images, labels_of(pool, indices, share_per_patch(masks, self.recipe))


def _optimizer(teacher: TowerTeacher) -> torch.optim.AdamW:
    taught = [p for p in teacher.parameters() if p.requires_grad]
    decayed = [p for p in taught if p.ndim >= 2]
    plain = [p for p in taught if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def train_tower(
    stem: Stem,
    pool: Pool,
    hard: Pool,
    validation: Pool,
    recipe: Recipe,
    report: Report,
    state: Path,
    team: Team = SOLO,
) -> TowerTeacher:
    """Teach the tower on the whole pool, then on `hard` films as well.

    `state` is taken up if it is there, and kept up to date.
    """
    trainer = TowerTrainer(stem, recipe, pool, hard, team)
    if state.exists():
        trainer.take_up(state)
        report(f"taking up the tower at step {trainer.step}")
    started, first = time.monotonic(), trainer.step
    while trainer.step < trainer.steps:
        parts = trainer.learn()
        step = trainer.step
        if (step % 50 == 0 or step == trainer.steps) and team.leads:
            rate = recipe.batch * (step - first) / (time.monotonic() - started)
            shown = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
            report(f"tower {step}/{trainer.steps} pool {pool.available} {shown} {rate:.0f} pictures/s")
        if (step % 400 == 0 or step in (recipe.tower_steps, trainer.steps)) and team.leads:
            trainer.keep(state)
            report(validate_tower(trainer.teacher, validation, recipe))
    bake_patches(trainer.teacher.tower)
    return trainer.teacher.eval()


@torch.no_grad()
def validate_tower(teacher: TowerTeacher, pool: Pool, recipe: Recipe) -> str:
    """F1 per kind of finding, side, grade and view accuracy on unseen phantoms, as one line."""
    teacher.eval()
    pool.grow_to(pool.job.count)
    outputs = []
    for start in range(0, pool.available, recipe.batch):
        indices = np.arange(start, min(start + recipe.batch, pool.available))
        outputs.append({k: v.float() for k, v in teacher(normalise(pool.images(indices), recipe)).items()})
    teacher.train()
    every = np.arange(pool.available)
    logits = {name: torch.cat([out[name] for out in outputs]) for name in outputs[0]}
    truth, predicted = pool.labels("presence", every), logits["presence"] > 0
    scores = [_f1(predicted[:, i], truth[:, i]) for i in range(truth.shape[1])]
    severity = pool.labels("severity", every)
    graded = severity >= 0
    grade = (logits["severity"].argmax(-1)[graded] == severity[graded]).float().mean()
    view = (logits["view"].argmax(-1) == pool.labels("view", every)).float().mean()
    kinds = " ".join(f"{kind.value[:9]} {score:.2f}" for kind, score in zip(KINDS, scores, strict=False))
    sided = float(np.nanmean(scores[len(KINDS) :]))
    return f"  validation: {kinds} | sided F1 {sided:.3f} grade {grade:.3f} view {view:.3f}"


def _f1(predicted: Tensor, truth: Tensor) -> float:
    known = truth >= 0
    hit = (predicted & (truth == 1) & known).sum().item()
    wrong = ((predicted != (truth == 1)) & known).sum().item()
    return 2 * hit / (2 * hit + wrong) if hit + wrong else float("nan")
