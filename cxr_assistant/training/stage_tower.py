"""The training loop of stage 1."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from transformers import Dinov2Config

from cxr_assistant.training.data import KINDS
from cxr_assistant.training.pool import Pool
from cxr_assistant.training.recipe import Recipe
from cxr_assistant.training.tower import Labels, TowerTeacher, augment, tower_loss

__all__ = ["cosine_rate", "normalise", "tower_config", "train_tower", "validate_tower"]

Report = Callable[[str], None]


def tower_config(recipe: Recipe) -> Dinov2Config:
    """LLaVA-Rad's kind of tower (DINOv2 with LayerScale), small and for one grayscale channel."""
    config = Dinov2Config(
        hidden_size=recipe.tower_width,
        num_hidden_layers=recipe.tower_layers,
        num_attention_heads=recipe.tower_width // 64,
        mlp_ratio=4,
        image_size=recipe.image_px,
        patch_size=recipe.patch_px,
        num_channels=1,
        layerscale_value=1.0,
    )
    # On CPUs plain bf16 products outrun the fused kernel at this size: 67 against 42 pictures/s.
    config._attn_implementation = "eager"
    return config


def cosine_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Learning rate: linear warm-up, then a cosine to 1 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))))


def normalise(images: Tensor, recipe: Recipe) -> Tensor:
    spec = recipe.image_spec
    return (images - spec.mean[0]) / spec.std[0]


def labels_of(pool: Pool, indices: np.ndarray, masks: Tensor) -> Labels:
    presence, severity = pool.labels("presence", indices), pool.labels("severity", indices)
    return Labels(masks, presence, severity, pool.labels("view", indices))


def train_tower(
    pool: Pool, validation: Pool, recipe: Recipe, report: Report, keep: Callable[[TowerTeacher], None]
) -> TowerTeacher:
    """Teach the tower on the growing pool; `keep` is called with every validated state."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    teacher = TowerTeacher(tower_config(recipe)).train()
    decayed = [p for p in teacher.parameters() if p.ndim >= 2]
    plain = [p for p in teacher.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    warmup, started = min(200, recipe.tower_steps // 10 + 1), time.monotonic()
    for step in range(recipe.tower_steps):
        pool.grow_to(int(recipe.first_phantoms + recipe.phantoms_per_step * step))
        indices = rng.integers(0, pool.available, recipe.batch)
        images, masks = augment(pool.images(indices), pool.masks(indices), generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = teacher(normalise(images, recipe))
        loss, parts = tower_loss(logits, labels_of(pool, indices, masks))
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(step, recipe.tower_steps, recipe.tower_rate, warmup)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 49:
            rate = recipe.batch * (step + 1) / (time.monotonic() - started)
            shown = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
            report(
                f"tower {step + 1}/{recipe.tower_steps} pool {pool.available} {shown} {rate:.0f} pictures/s"
            )
        if step % 400 == 399 or step + 1 == recipe.tower_steps:
            report(validate_tower(teacher, validation, recipe))
            keep(teacher)
    return teacher.eval()


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
