"""Stage 1, its second half: a tower of plain blocks learns from the guide, first to see and then to tell.

First leg: its front learns what the guide's patches and convolutions hand to the first block, patch by patch.
Second leg: all its blocks learn that and the guide's own tokens, and that the guide's language model says the
same of both. Third leg: the same again from other versions of the films, at a lower rate.
"""

# N pictures, C channels, S pixels per side, P patches, V width of the tower, L words

from __future__ import annotations

import time
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Dinov2Model

from cxr_assistant.imaging.phantom import FINDINGS_PROMPT, FindingKind
from cxr_assistant.models.llava import tower_hidden_states
from cxr_assistant.training.data import KINDS
from cxr_assistant.training.descent import cosine_rate, descend
from cxr_assistant.training.guide import Guide
from cxr_assistant.training.language import Encoded, encode_conversation, reworded, sample_turns
from cxr_assistant.training.pictures import augment, normalise
from cxr_assistant.training.plain_tower import begin_plain_tower
from cxr_assistant.training.pool import Pool
from cxr_assistant.training.recipe import PlainRecipe
from cxr_assistant.training.stage_tower import share_per_patch
from cxr_assistant.training.team import SOLO, Team
from cxr_assistant.training.tower import MASK_SHARE, bake_patches

__all__ = ["PlainTrainer", "measure_of_errors", "patch_emphasis", "train_plain_tower"]

Report = Callable[[str], None]
_SMALL = (FindingKind.NODULE, FindingKind.MASS, FindingKind.CONSOLIDATION)
_ON_A_FINDING, _ON_A_SMALL_ONE = 3.0, 5.0  # how much more a patch weighs at the end, the second on top
_QUESTIONS = 5
_WEIGHTS = {"near": 0.5, "far": 1.0, "read": 1.0, "words": 4.0}


@dataclass
class Lessons:
    """Augmented pictures and what the guide makes of them; its tokens and words not for the first leg."""

    pixels: list[Tensor] = field(default_factory=list)  # (C, S, S) uint8
    emphasis: list[Tensor] = field(default_factory=list)  # (P,) how much more than others a patch weighs
    embeddings: list[Tensor] = field(default_factory=list)  # (1 + P, V) bfloat16
    tokens: list[Tensor] = field(default_factory=list)  # (1 + P, V) bfloat16
    conversations: list[Encoded] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)  # (L, vocabulary) bfloat16


class PlainTrainer:
    """Tower, optimiser and lessons of one leg; what the tower knows and the optimiser can be kept."""

    def __init__(self, guide: Guide, recipe: PlainRecipe, pools: tuple[Pool, Pool], team: Team) -> None:
        self.guide, self.recipe, self.pools, self.team, self.step = guide, recipe, pools, team, 0
        torch.manual_seed(recipe.seed + 11)
        first = normalise(pools[0].images(np.arange(min(48, pools[0].available))), recipe)
        self.tower: Dinov2Model = begin_plain_tower(recipe, guide, first).train()
        embeddings = torch.cat([guide.embedding(batch) for batch in torch.split(first, 8)])
        self.measure = measure_of_errors(guide, embeddings)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            tokens = torch.cat([guide.tokens(e)[:, 1:] for e in torch.split(embeddings, 8)]).float()
            read = torch.cat(
                [guide.llava.model.multi_modal_projector(t) for t in torch.split(tokens, 8)]
            ).float()
        self.token_spread = tokens.flatten(0, 1).var(0)
        self.read_spread = (read - read.mean(0)).pow(2).mean()
        self.legs = (
            (recipe.front_steps, recipe.front_rate),
            (recipe.whole_steps, recipe.whole_rate),
            (recipe.polish_steps, recipe.polish_rate),
        )
        self.ends = tuple(accumulate(steps for steps, _ in self.legs))
        self._begun: int | None = None  # the leg whose optimiser and lessons are there

    @property
    def steps(self) -> int:
        """Of all legs."""
        return self.ends[-1]

    @property
    def leg(self) -> int:
        """0, 1 or 2: the one that the next step is of."""
        return bisect(self.ends[:-1], self.step)

    @property
    def is_front(self) -> bool:
        return self.leg == 0

    @property
    def _front(self) -> int:
        """Number of blocks in front of those that are the guide's."""
        return len(self.tower.encoder.layer) - len(self.guide.tower.encoder.layer)

    def take_up(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.tower.load_state_dict(state["tower"])
        if "optimizer" in state:
            self._begin_leg()
            self.optimizer.load_state_dict(state["optimizer"])

    def keep(self, path: Path) -> None:
        """Write the state, whole or not at all."""
        fresh = path.with_suffix(".new")
        state: dict[str, Any] = {"step": self.step, "tower": self.tower.state_dict()}
        if self.step not in self.ends:  # each leg begins with an optimiser and lessons of its own
            state["optimizer"] = self.optimizer.state_dict()
        torch.save(state, fresh)
        fresh.replace(path)

    def learn(self) -> dict[str, float]:
        """One step; the chance of each is its own, so that a run that was cut goes on alike."""
        recipe = self.recipe
        if self._begun != self.leg:
            self._begin_leg()
        share = self.team.share_of(recipe.plain_batch)
        rng = np.random.default_rng((recipe.seed + 12, self.team.rank, self.step))
        rows = rng.integers(0, len(self.lessons.pixels), share).tolist()
        steps, peak = self.legs[self.leg]
        step = self.step - (self.ends[self.leg] - steps)
        losses = self._losses(rows, emphasis=step / steps if self.is_front else 1.0)
        loss = sum(
            ((_WEIGHTS[n] if not self.is_front else 1.0) * x for n, x in losses.items()), torch.zeros(())
        )
        descend(loss, self.optimizer, self.taught, cosine_rate(step, steps, peak, steps // 40 + 1), self.team)
        self.step += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def _losses(self, rows: list[int], emphasis: float) -> dict[str, Tensor]:
        lessons, front = self.lessons, self._front
        weights = 1 + emphasis * torch.stack([lessons.emphasis[row] for row in rows])
        pixels = normalise(torch.stack([lessons.pixels[row] for row in rows]).float() / 255, self.recipe)
        with torch.autocast("cpu", torch.bfloat16):
            num_blocks = front if self.is_front else len(self.tower.encoder.layer)
            states = list(tower_hidden_states(self.tower, pixels, num_blocks))
        wrong = states[front].float() - torch.stack([lessons.embeddings[row] for row in rows]).float()
        errors = ((wrong @ self.measure) * wrong).sum(-1)
        near = _mean_over_patches(errors[:, 1:], weights) + errors[:, 0].mean()
        if self.is_front:
            return {"near": near}
        tokens = states[-1].float()[:, 1:]
        theirs = torch.stack([lessons.tokens[row] for row in rows]).float()[:, 1:]
        far = ((tokens - theirs).pow(2) / self.token_spread).mean(-1)
        logits, read = self.guide.words(tokens, [lessons.conversations[row] for row in rows])
        said = torch.cat([lessons.logits[row] for row in rows]).float()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            theirs_read = self.guide.llava.model.multi_modal_projector(theirs).float()
        words = F.kl_div(logits.log_softmax(-1), said.log_softmax(-1), log_target=True, reduction="none")
        return {
            "near": near,
            "far": _mean_over_patches(far, weights),
            "read": _mean_over_patches((read - theirs_read).pow(2).mean(-1), weights) / self.read_spread,
            "words": words.sum(-1).mean(),
        }

    def _begin_leg(self) -> None:
        """Optimiser and lessons of the leg that `step` is in."""
        self._begun = self.leg
        blocks = self.tower.encoder.layer[: self._front] if self.is_front else self.tower.encoder.layer
        self.tower.requires_grad_(False)
        self.tower.embeddings.requires_grad_(True)
        self.tower.embeddings.mask_token.requires_grad_(False)
        blocks.requires_grad_(True)
        named = [(n, p) for n, p in self.tower.named_parameters() if p.requires_grad]
        self.taught = [p for _, p in named]
        decays = {n for n, p in named if p.ndim == 2}  # neither biases nor places
        groups = [
            {"params": [p for n, p in named if n in decays], "weight_decay": 0.02 if self.is_front else 0.01},
            {"params": [p for n, p in named if n not in decays], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
        self.lessons = self._see()

    @torch.no_grad()
    def _see(self) -> Lessons:
        """One augmented picture of each film of this member's share, another one for each leg."""
        seed = (self.recipe.seed + 13, self.team.rank, self.leg)
        generator = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**31)))
        rng, lessons = np.random.default_rng((*seed, 1)), Lessons()
        for pool in self.pools:
            for index in range(self.team.rank, pool.available, self.team.size):
                self._add(lessons, pool, np.array([index]), generator, None if self.is_front else rng)
        return lessons

    def _add(
        self,
        lessons: Lessons,
        pool: Pool,
        index: np.ndarray,
        generator: torch.Generator,
        rng: np.random.Generator | None,
    ) -> None:
        recipe, guide = self.recipe, self.guide
        images, masks = augment(pool.images(index), pool.masks(index), generator)
        pixels = (images * 255).round().to(torch.uint8)
        embedding = guide.embedding(normalise(pixels.float() / 255, recipe))
        lessons.pixels.append(pixels[0])
        lessons.emphasis.append(patch_emphasis(share_per_patch(masks, recipe))[0])
        lessons.embeddings.append(embedding[0].bfloat16())
        if rng is None:
            return
        with torch.autocast("cpu", torch.bfloat16):
            tokens = guide.tokens(embedding)
        ((shard, row),) = pool.locate(index)
        record = shard.records[row]
        turns = [(FINDINGS_PROMPT, reworded(record["report"], rng))]
        asked = sample_turns(record, rng, _QUESTIONS - 1)
        turns += [turn for turn in asked if turn[0] != FINDINGS_PROMPT][:_QUESTIONS]
        conversation = encode_conversation(guide.tokenizer, turns, recipe.patches**2)
        logits, _ = guide.words(tokens[:, 1:].float(), [conversation])
        lessons.tokens.append(tokens[0].bfloat16())
        lessons.conversations.append(conversation)
        lessons.logits.append(logits.bfloat16())


def patch_emphasis(shares: Tensor) -> Tensor:
    """(N, K, P, P) covered shares -> (N, P * P), how much more than others each patch weighs."""
    shown = shares.flatten(2) > MASK_SHARE
    small = shown[:, [KINDS.index(kind) for kind in _SMALL]]
    return _ON_A_FINDING * shown.any(1) + _ON_A_SMALL_ONE * small.any(1)


def _mean_over_patches(errors: Tensor, weights: Tensor) -> Tensor:
    return (errors * weights).sum() / weights.sum()


def measure_of_errors(guide: Guide, embeddings: Tensor) -> Tensor:
    """(V, V), symmetric: an error e of the embedding counts e^T M e; on average over films, guessing the mean
    of each place counts 1.

    Half of it is the plain square; half weighs directions by how much the guide's tokens hang on them.
    """
    chance = torch.Generator().manual_seed(1)
    slopes = torch.zeros(embeddings.shape[-1], embeddings.shape[-1])
    for batch in torch.split(embeddings, 8):
        hidden = batch.clone().requires_grad_(True)
        tokens = guide.tokens(hidden)
        drawn = torch.randn(tokens.shape, generator=chance)
        (slope,) = torch.autograd.grad((drawn * tokens / tokens.detach().flatten(0, 1).std(0)).sum(), hidden)
        slope = slope[:, 1:].flatten(0, 1)
        slopes += slope.T @ slope
    varying = (embeddings[:, 1:] - embeddings[:, 1:].mean(0)).flatten(0, 1)
    spread = varying.T @ varying / len(varying)
    return 0.5 * torch.eye(len(spread)) / spread.trace() + 0.5 * slopes / (slopes @ spread).trace()


def train_plain_tower(
    guide: Guide,
    pools: tuple[Pool, Pool],
    validation: Pool,
    recipe: PlainRecipe,
    report: Report,
    state: Path,
    team: Team = SOLO,
) -> Dinov2Model:
    """Teach a plain tower by the guide on films of both pools; `state` is taken up, and kept up to date."""
    for pool in (*pools, validation):
        pool.grow_to(pool.job.count)
    trainer = PlainTrainer(guide, recipe, pools, team)
    if state.exists():
        trainer.take_up(state)
        report(f"taking up the plain tower at step {trainer.step}")
    started, first = time.monotonic(), trainer.step
    seen: list[dict[str, float]] = []
    while trainer.step < trainer.steps:
        seen.append(trainer.learn())
        step = trainer.step
        ends = step in trainer.ends
        if (step % 250 == 0 or ends) and team.leads:
            rate = recipe.plain_batch * (step - first) / (time.monotonic() - started)
            means = {name: np.mean([s[name] for s in seen[-250:] if name in s]) for name in seen[-1]}
            shown = " ".join(f"{name} {value:.3f}" for name, value in means.items())
            report(f"plain tower {step}/{trainer.steps} {shown} {rate:.0f} pictures/s")
        if (step % 1000 == 0 or ends) and team.leads:
            trainer.keep(state)
            report(_validate(trainer, validation))
    bake_patches(trainer.tower)
    return trainer.tower.requires_grad_(False).eval()


@torch.no_grad()
def _validate(trainer: PlainTrainer, pool: Pool) -> str:
    """Shares of the variance of embeddings and tokens that the tower explains, as one line."""
    found: list[tuple[Tensor, ...]] = []
    for indices in np.array_split(np.arange(min(96, pool.available)), 8):
        pixels = normalise(pool.images(indices), trainer.recipe)
        near = trainer.guide.embedding(pixels)
        with torch.autocast("cpu", torch.bfloat16):
            far = trainer.guide.tokens(near)
            num_blocks = len(trainer.tower.encoder.layer)
            states = list(tower_hidden_states(trainer.tower, pixels, num_blocks))
        ours = states[trainer._front], states[-1]
        found.append(tuple(t.float()[:, 1:] for t in (near, ours[0], far, ours[1])))
    near, ours_near, far, ours_far = (torch.cat(parts) for parts in zip(*found, strict=True))
    scale = trainer.token_spread.sqrt()
    first, last = _explained(near, ours_near), _explained(far / scale, ours_far / scale)
    return f"  validation: explains {first:.4f} of what the guide's blocks get and {last:.4f} of its tokens"


def _explained(theirs: Tensor, ours: Tensor) -> float:
    """Share of the variance, over films, of (N, P, V)."""
    return float(1 - (ours - theirs).pow(2).sum() / (theirs - theirs.mean(0)).pow(2).sum())
