"""The training loops of stages 2 and 3, and the finished model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Dinov2Model

from cxr_assistant.imaging.phantom import FINDINGS_PROMPT, FindingKind
from cxr_assistant.models.llava import make_config, make_empty
from cxr_assistant.training.descent import cosine_rate, descend
from cxr_assistant.training.emphasis import chances_to_be_told
from cxr_assistant.training.language import (
    EOS,
    IGNORED_TOKEN,
    IMAGE,
    answer_logits,
    encode_conversation,
    padded,
    reworded,
    sample_turns,
)
from cxr_assistant.training.pictures import augment, normalise
from cxr_assistant.training.pool import Pool
from cxr_assistant.training.recipe import Recipe
from cxr_assistant.training.team import SOLO, Team

__all__ = ["make_student", "retrain_language", "take_over_words", "train_language"]

Report = Callable[[str], None]
TurnsOf = Callable[[dict[str, Any]], list[tuple[str, str]]]


def make_student(recipe: Recipe, vocab_size: int, tower: Dinov2Model) -> Any:
    """`LlavaForConditionalGeneration` with the taught tower and a fresh projector and language model."""
    config = make_config(
        {
            "architectures": ["LlavaForConditionalGeneration"],
            "vision_config": tower.config.to_dict(),
            "text_config": {
                "model_type": "llama",
                "hidden_size": recipe.language_width,
                "intermediate_size": recipe.language_width * 2,
                "num_hidden_layers": recipe.language_layers,
                "num_attention_heads": recipe.language_width // 64,
                "num_key_value_heads": recipe.language_width // 64,
                "vocab_size": vocab_size,
                "max_position_embeddings": 1024,
                "bos_token_id": 1,
                "eos_token_id": EOS,
                "pad_token_id": 0,
            },
            "image_token_index": IMAGE,
            "image_seq_length": recipe.patches**2,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "default",
            "projector_hidden_act": "gelu",
        }
    )
    torch.manual_seed(recipe.seed + 1)
    student = make_empty(config)
    student.model.vision_tower.load_state_dict(tower.state_dict())
    return student


def take_over_words(student: Any, guide: Any) -> None:
    """Let projector and language model begin as those of another model, whose tower `student` has not."""
    student.model.multi_modal_projector.load_state_dict(guide.model.multi_modal_projector.state_dict())
    student.model.language_model.load_state_dict(guide.model.language_model.state_dict())
    student.lm_head.load_state_dict(guide.lm_head.state_dict())


class LanguageTrainer:
    """One optimiser over projector and language model; the tower stays as stage 1 left it.

    Its features are computed once: `recipe.feature_views` augmented versions of each picture.
    """

    def __init__(
        self, student: Any, tokenizer: Any, pool: Pool, recipe: Recipe, report: Report, team: Team
    ) -> None:
        self.student, self.tokenizer, self.pool, self.recipe = student, tokenizer, pool, recipe
        self.report, self.team = report, team
        self.rng = np.random.default_rng((recipe.seed + 2, team.rank))
        student.model.vision_tower.requires_grad_(False)
        student.model.language_model.config._attn_implementation = "eager"
        self.trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self.optimizer = self._fresh_optimizer()
        self.indices, self.features = self._see()
        self.chances: NDArray[np.float64] | None = None  # of each picture; None: all alike

    def _fresh_optimizer(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(self.trained, betas=(0.9, 0.98), weight_decay=0.02)

    def take_up(self, path: Path) -> None:
        missing, unknown = self.student.load_state_dict(load_file(path), strict=False)
        assert not unknown and all(name.startswith("model.vision_tower.") for name in missing)

    def keep(self, path: Path) -> None:
        """Write what was taught, whole or not at all."""
        fresh = path.with_suffix(".new")
        taught = {name: p.detach() for name, p in self.student.named_parameters() if p.requires_grad}
        save_file(taught, fresh)
        fresh.replace(path)

    def settle(self) -> None:
        """Begin anew with optimiser and chance, and draw films by what is to be named more readily.

        Greedy decoding names what is likelier than not, where F1 is at its best with what is a little less.
        """
        self.optimizer = self._fresh_optimizer()
        self.rng = np.random.default_rng((self.recipe.seed + 8, self.team.rank))
        records = [shard.records[row] for shard, row in self.pool.locate(self.indices)]
        self.chances = chances_to_be_told([[FindingKind(kind) for kind in r["kinds"]] for r in records])

    @torch.no_grad()
    def _see(self) -> tuple[np.ndarray, Tensor]:
        """Tower features of this member's share of the pool: (N,) picture indices, (N, P, V) bf16."""
        generator = torch.Generator().manual_seed(self.recipe.seed + 3 + self.team.rank)
        share = np.arange(self.team.rank, self.pool.available, self.team.size)
        tower, seen = self.student.model.vision_tower.eval(), []
        for _ in range(self.recipe.feature_views):
            for start in range(0, len(share), 50):
                images = self.pool.images(share[start : start + 50])
                moved, _ = augment(images, images.new_zeros((len(images), 1, 2, 2)), generator)
                with torch.autocast("cpu", torch.bfloat16):
                    hidden = tower(normalise(moved, self.recipe), output_hidden_states=True).hidden_states[-1]
                seen.append(hidden[:, 1:].to(torch.bfloat16))
        if self.team.leads:
            count = sum(map(len, seen)) * self.team.size
            self.report(f"the tower has seen {count} pictures for the language model")
        return np.tile(share, self.recipe.feature_views), torch.cat(seen)

    def run(self, name: str, steps: int, peak: float, turns_of: TurnsOf) -> None:
        started, losses = time.monotonic(), []
        for step in range(steps):
            rows = self._rows(self.team.share_of(self.recipe.batch))
            records = [shard.records[index] for shard, index in self.pool.locate(self.indices[rows])]
            loss = self._loss(self.features[torch.from_numpy(rows)], [turns_of(record) for record in records])
            rate = cosine_rate(step, steps, peak, min(100, steps // 10 + 1))
            descend(loss, self.optimizer, self.trained, rate, self.team)
            losses.append(float(loss.detach()))
            if (step % 50 == 49 or step + 1 == steps) and self.team.leads:
                speed = self.recipe.batch * (step + 1) / (time.monotonic() - started)
                self.report(
                    f"{name} {step + 1}/{steps} loss {np.mean(losses[-50:]):.4f} {speed:.0f} pictures/s"
                )

    def _rows(self, count: int) -> np.ndarray:
        if self.chances is None:
            return self.rng.integers(0, len(self.indices), count)
        return self.rng.choice(len(self.indices), count, p=self.chances)

    def _loss(self, features: Tensor, conversations: list[list[tuple[str, str]]]) -> Tensor:
        patches = self.recipe.patches**2
        ids, targets = padded([encode_conversation(self.tokenizer, t, patches) for t in conversations])
        with torch.autocast("cpu", torch.bfloat16):
            image_embeds = self.student.model.multi_modal_projector(features.float())
            logits = answer_logits(self.student, image_embeds, ids, targets)
        return F.cross_entropy(logits.float(), targets[targets != IGNORED_TOKEN])


def train_language(
    student: Any, tokenizer: Any, pool: Pool, recipe: Recipe, report: Report, state: Path, team: Team = SOLO
) -> None:
    """Stage 2, alignment: a picture and its findings. Stage 3, instruction: whole conversations.

    `state` keeps what was taught before the last leg of instruction, and is taken up if it is there.
    """
    trainer = LanguageTrainer(student, tokenizer, pool, recipe, report, team)

    def findings(record: dict[str, Any]) -> list[tuple[str, str]]:
        return [(FINDINGS_PROMPT, reworded(record["report"], trainer.rng))]

    def conversation(record: dict[str, Any]) -> list[tuple[str, str]]:
        return sample_turns(record, trainer.rng, recipe.questions_per_picture)

    if state.exists():
        trainer.take_up(state)
        report("taking up the language model before it settles")
    else:
        trainer.run("align", recipe.align_steps, recipe.language_rate, findings)
        trainer.run("instruct", recipe.instruct_steps, recipe.language_rate, conversation)
        if team.leads:
            trainer.keep(state)
    trainer.settle()
    trainer.run("settle", recipe.settle_steps, recipe.settle_rate, conversation)


def retrain_language(
    student: Any, tokenizer: Any, pool: Pool, recipe: Recipe, report: Report, team: Team = SOLO
) -> None:
    """Both stages in short, for words that another tower's tokens were told in before."""
    trainer = LanguageTrainer(student, tokenizer, pool, recipe, report, team)
    trainer.run(
        "align",
        recipe.align_steps,
        recipe.settle_rate,
        lambda record: [(FINDINGS_PROMPT, reworded(record["report"], trainer.rng))],
    )
    trainer.settle()
    trainer.run(
        "settle",
        recipe.settle_steps,
        recipe.settle_rate,
        lambda record: sample_turns(record, trainer.rng, recipe.questions_per_picture),
    )
