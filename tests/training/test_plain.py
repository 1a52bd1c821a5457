"""A tower of plain blocks learns from a guide: how it begins and ends, and goes on where it was cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from cxr_assistant.checkpoints.embedded import build
from cxr_assistant.errors import WeightsMismatch
from cxr_assistant.imaging.phantom import FindingKind
from cxr_assistant.models.llava import tower_hidden_states
from cxr_assistant.models.stem import Stem
from cxr_assistant.training.data import KINDS
from cxr_assistant.training.guide import Guide
from cxr_assistant.training.language import train_tokenizer
from cxr_assistant.training.pictures import normalise
from cxr_assistant.training.plain_tower import begin_plain_tower, make_plain_tower
from cxr_assistant.training.pool import Pool, RenderJob
from cxr_assistant.training.recipe import MICRO_PLAIN
from cxr_assistant.training.stage_language import make_student, take_over_words
from cxr_assistant.training.stage_plain import (
    PlainTrainer,
    measure_of_errors,
    patch_emphasis,
    train_plain_tower,
)
from cxr_assistant.training.stage_tower import tower_config
from cxr_assistant.training.team import SOLO
from cxr_assistant.training.tower import TowerTeacher, bake_patches
from cxr_assistant.training.train import write_student

RECIPE = replace(
    MICRO_PLAIN, phantoms=16, hard_phantoms=8, validation=8, front_steps=4, whole_steps=4, polish_steps=3
)


@pytest.fixture(scope="module")
def pools(tmp_path_factory) -> tuple[Pool, Pool]:  # type: ignore[no-untyped-def]
    made = []
    for seeds in (range(16), range(16, 24)):
        job = RenderJob(tmp_path_factory.mktemp("pool"), seeds, RECIPE.image_spec, RECIPE.cells)
        job.render_shard(0)
        made.append(Pool(job, lambda _: None))
        made[-1].grow_to(job.count)
    return made[0], made[1]


@pytest.fixture(scope="module")
def guide(pools, tmp_path_factory) -> Guide:  # type: ignore[no-untyped-def]
    """One that nobody taught."""
    torch.manual_seed(2)
    tokenizer = train_tokenizer(pools[0].shards[0].records, RECIPE.vocabulary)
    tower = TowerTeacher(tower_config(RECIPE), Stem(RECIPE.image_spec.channels, RECIPE.stem_width)).tower
    llava = make_student(RECIPE, tokenizer.get_vocab_size(), tower)
    folder = tmp_path_factory.mktemp("guide") / "model"
    write_student(llava, tokenizer, RECIPE, folder)
    return Guide(folder)


def taught(guide: Guide, pools: tuple[Pool, Pool], state: Path, recipe=RECIPE):  # type: ignore[no-untyped-def]
    lines: list[str] = []
    return train_plain_tower(guide, pools, pools[1], recipe, lines.append, state), lines


def films(pools: tuple[Pool, Pool], count: int = 8) -> torch.Tensor:
    return normalise(pools[0].images(np.arange(count)), RECIPE)


def test_patches_begin_as_the_strongest_patterns_and_end_as_an_ordinary_convolution(guide, pools) -> None:  # type: ignore[no-untyped-def]
    pixels = films(pools)
    tower = begin_plain_tower(RECIPE, guide, pixels).eval()
    projection = tower.embeddings.patch_embeddings.projection
    with torch.no_grad():
        seen = projection(pixels).flatten(2).transpose(1, 2).flatten(0, 1)
        strongest = seen[:, :4]
        torch.testing.assert_close(strongest.mean(0), torch.zeros(4), atol=0.1, rtol=0)
        torch.testing.assert_close(torch.cov(strongest.T), 0.25 * torch.eye(4), atol=0.05, rtol=0)
        before = tower(pixels).last_hidden_state
        bake_patches(tower)
        torch.testing.assert_close(tower(pixels).last_hidden_state, before, atol=1e-5, rtol=1e-5)
    assert set(tower.state_dict()) == set(make_plain_tower(RECIPE).state_dict())


def test_the_first_leg_teaches_the_front_alone(guide, pools, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    trainer = PlainTrainer(guide, RECIPE, pools, SOLO)
    before = {name: tensor.clone() for name, tensor in trainer.tower.state_dict().items()}
    for _ in range(RECIPE.front_steps):
        assert set(trainer.learn()) == {"near"}
    changed = {n for n, tensor in trainer.tower.state_dict().items() if not torch.equal(tensor, before[n])}
    blocks = {int(name.split(".")[2]) for name in changed if name.startswith("encoder")}
    assert blocks == {0, 1}
    assert any("projection" in name for name in changed)
    assert set(trainer.learn()) == {"near", "far", "read", "words"}
    changed = {n for n, tensor in trainer.tower.state_dict().items() if not torch.equal(tensor, before[n])}
    assert {int(name.split(".")[2]) for name in changed if name.startswith("encoder")} == {0, 1, 2, 3}


def test_the_guide_says_of_its_own_tokens_what_the_lessons_hold_and_of_others_something_else(
    guide, pools
) -> None:  # type: ignore[no-untyped-def]
    trainer = PlainTrainer(guide, replace(RECIPE, front_steps=0), pools, SOLO)
    trainer.learn()
    tokens = torch.stack(trainer.lessons.tokens[:3]).float()[:, 1:]
    said = torch.cat(trainer.lessons.logits[:3]).float()

    def distance(seen: torch.Tensor) -> float:
        logits, _ = guide.words(seen, trainer.lessons.conversations[:3])
        return float((logits - said).pow(2).mean())

    assert len(said) > 30
    assert distance(tokens) < 0.2 * distance(torch.randn(tokens.shape) * 5)


def test_a_guide_with_a_tensor_missing_is_a_sentence(guide, pools, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_student(guide.llava, guide.tokenizer, RECIPE, tmp_path / "guide")
    path = tmp_path / "guide" / "model.safetensors"
    stored = load_file(path)
    del stored["language_model.lm_head.weight"]
    save_file(stored, path)
    with pytest.raises(WeightsMismatch, match="lacks 1 tensors, for example lm_head.weight"):
        Guide(tmp_path / "guide")


def test_a_taught_tower_is_taken_up_without_new_lessons(guide, pools, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    whole, _ = taught(guide, pools, tmp_path / "whole.pt")
    monkeypatch.setattr(PlainTrainer, "_see", lambda *_, **__: pytest.fail("lessons were made"))
    again, _ = taught(guide, pools, tmp_path / "whole.pt")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_to_guess_the_mean_of_each_place_counts_one(guide, pools) -> None:  # type: ignore[no-untyped-def]
    embeddings = guide.embedding(films(pools))
    measure = measure_of_errors(guide, embeddings)
    wrong = (embeddings - embeddings.mean(0))[:, 1:]
    assert ((wrong @ measure) * wrong).sum(-1).mean() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(measure, measure.T)
    assert torch.linalg.eigvalsh(measure).min() > 0


def test_patches_with_a_small_finding_weigh_most() -> None:
    shares = torch.zeros(1, len(KINDS), 2, 2)
    shares[0, KINDS.index(FindingKind.PLEURAL_EFFUSION), 0, 1] = 0.5
    shares[0, KINDS.index(FindingKind.NODULE), 1, 0] = 0.5
    shares[0, KINDS.index(FindingKind.NODULE), 1, 1] = 0.01
    assert patch_emphasis(shares).tolist() == [[0.0, 3.0, 8.0, 0.0]]


@pytest.mark.parametrize("at", [2, 4, 9], ids=["in the first leg", "behind it", "in the third"])
def test_a_run_that_was_cut_goes_on_to_the_same_tower(guide, pools, tmp_path: Path, at: int) -> None:  # type: ignore[no-untyped-def]
    whole, lines = taught(guide, pools, tmp_path / "whole.pt")
    assert not any(line.startswith("taking up") for line in lines)
    trainer = PlainTrainer(guide, RECIPE, pools, SOLO)
    for _ in range(at):
        trainer.learn()
    trainer.keep(tmp_path / "cut.pt")
    again, lines = taught(guide, pools, tmp_path / "cut.pt")
    assert f"taking up the plain tower at step {at}" in lines
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_transformers_alone_reads_the_finished_folder(guide, pools, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    tower, _ = taught(guide, pools, tmp_path / "state.pt")
    student = make_student(RECIPE, guide.tokenizer.get_vocab_size(), tower)
    take_over_words(student, guide.llava)
    write_student(student, guide.tokenizer, RECIPE, tmp_path / "model")
    stock, found = LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "model", output_loading_info=True, dtype=torch.float32
    )
    assert not any(found.values()), found
    ours = build(tmp_path / "model", device="cpu", precision="fp32")
    pixels = films(pools, 2)
    with torch.inference_mode():
        theirs = stock.get_image_features(pixels).pooler_output
        torch.testing.assert_close(
            torch.stack(list(theirs)), ours.encode(pixels.numpy()), atol=1e-5, rtol=1e-4
        )
        *_, last = tower_hidden_states(stock.model.vision_tower, pixels, RECIPE.plain_layers)
    torch.testing.assert_close(last[:, 1:], ours.tower_features(pixels), atol=1e-5, rtol=1e-4)  # type: ignore[attr-defined]
