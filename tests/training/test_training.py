"""The recipe runs, its targets stand where they should, and the pool grows by step."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Dinov2Model

from cxr_assistant.checkpoints.embedded import CHECKPOINT, build, prompt_pieces
from cxr_assistant.imaging.phantom import (
    TRAINING_SEEDS,
    FindingKind,
    drawn_findings,
    make_phantom,
    read_report,
    write_findings,
)
from cxr_assistant.models.gate import PhantomGate
from cxr_assistant.models.stem import CELL_PX
from cxr_assistant.settings import PROJECT_ROOT
from cxr_assistant.study import ViewPosition
from cxr_assistant.training.data import IGNORED, KINDS, PRESENCE, encode_phantom
from cxr_assistant.training.emphasis import chances_to_be_told, hardest_seeds, seeds_to_learn_from
from cxr_assistant.training.language import (
    EOS,
    IGNORED_TOKEN,
    encode_conversation,
    reworded,
    sample_turns,
    train_tokenizer,
)
from cxr_assistant.training.pictures import augment
from cxr_assistant.training.pool import Pool, RenderJob
from cxr_assistant.training.recipe import EMBEDDED, MICRO, MICRO_PLAIN
from cxr_assistant.training.stage_stem import CropDealer, train_stem
from cxr_assistant.training.stage_tower import share_per_patch, tower_config
from cxr_assistant.training.tower import bake_patches, whiten_patches
from cxr_assistant.training.train import train, train_plain


@pytest.fixture(scope="module")
def records() -> list[dict]:
    spec = MICRO.image_spec
    return [
        encode_phantom(make_phantom(s, size_px=spec.size_px), spec, MICRO.cells)["record"] for s in range(12)
    ]


@pytest.fixture(scope="module")
def tokenizer(records):  # type: ignore[no-untyped-def]
    return train_tokenizer(records, MICRO.vocabulary)


def test_only_answers_carry_loss(tokenizer) -> None:  # type: ignore[no-untyped-def]
    turns = [("Which view is this?", "This is a PA view."), ("Is there a mass?", "No, there is no mass.")]
    ids, targets = encode_conversation(tokenizer, turns, num_image_tokens=4)
    wanted = [token for token in targets if token != IGNORED_TOKEN]
    said = [
        *tokenizer.encode(" This is a PA view.").ids,
        EOS,
        *tokenizer.encode(" No, there is no mass.").ids,
        EOS,
    ]
    assert wanted == said
    assert all(ids[i + 1] == t for i, t in enumerate(targets) if t != IGNORED_TOKEN)


def test_training_and_serving_cut_the_same_pieces(tokenizer) -> None:  # type: ignore[no-untyped-def]
    turns = [("Which view is this?", "This is a PA view."), ("Is there a mass?", "No, there is no mass.")]
    ids, _ = encode_conversation(tokenizer, turns, num_image_tokens=4)
    pieces = list(prompt_pieces([turns[0]], turns[1][0]))
    served = [
        token
        for piece in pieces
        for token in (tokenizer.encode(piece).ids if isinstance(piece, str) else [EOS])
    ]
    first = len(tokenizer.encode(pieces[0]).ids)
    assert [1, *served[:first]] == ids[: first + 1]
    assert served[first:] == ids[first + 1 + 4 :][: len(served) - first]


def test_conversations_start_with_findings_more_often_than_not(records) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    several = [records[i % len(records)] for i in range(100)]
    starts = [read_report(sample_turns(record, rng, 4)[0][1]) for record in several]
    are_findings = [said == read_report(r["report"]) for said, r in zip(starts, several, strict=True)]
    assert 50 < sum(are_findings) < 90


def test_a_lateral_film_leaves_sides_without_a_label() -> None:
    phantom = make_phantom(1, view=ViewPosition.LATERAL, size_px=MICRO.image_px)
    presence = encode_phantom(phantom, MICRO.image_spec, MICRO.cells)["presence"]
    assert all(value == IGNORED for (_, side), value in zip(PRESENCE, presence, strict=True) if side)


def test_augmentation_never_flips() -> None:
    """A mark on the left stays on the left: a flip would swap the patient's sides."""
    images = torch.zeros(64, 3, 32, 32)
    images[:, :, 8:24, 2:10] = 1.0
    moved, _ = augment(images, images, torch.Generator().manual_seed(0))
    assert (moved[..., :16].sum(dim=(1, 2, 3)) > moved[..., 16:].sum(dim=(1, 2, 3))).all()


def test_the_micro_recipe_makes_a_model_that_the_product_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step of the real recipe in under a minute; the product's own loader reads the folder."""
    lines: list[str] = []
    folder = train(MICRO, tmp_path / "model", tmp_path / "work", lines.append)
    model = build(folder, device="cpu", precision="fp32")
    assert model.processor.num_image_tokens == MICRO.patches**2
    assert PhantomGate.load(folder / "gate.safetensors").threshold > 0
    assert any(line.startswith(f"instruct {MICRO.instruct_steps}/") for line in lines)
    assert any(line.startswith(f"tower {MICRO.tower_steps + MICRO.hard_steps}/") for line in lines)
    plain = train_plain(folder, MICRO_PLAIN, tmp_path / "plain", tmp_path / "work", lines.append)
    tower = build(plain, device="cpu", precision="fp32").tower  # type: ignore[attr-defined]
    assert len(tower.encoder.layer) == MICRO_PLAIN.plain_layers
    assert type(tower.embeddings.patch_embeddings.projection) is nn.Conv2d
    assert PhantomGate.load(plain / "gate.safetensors").mean.shape == (3 * MICRO_PLAIN.tower_width,)
    # The gate takes long, and follows from the model.
    monkeypatch.setattr("cxr_assistant.training.train.fit_gate", lambda *_: None)
    (folder / "gate.safetensors").unlink()
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    # A run that was cut before the last leg of instruction goes on to the same weights.
    again, lines = train_again(tmp_path)
    assert "taking up the language model before it settles" in lines
    assert not any(line.startswith("instruct") for line in lines)
    assert again == first
    # So does one that begins anew: the seed decides.
    for state in (tmp_path / "work").glob("*-*.*"):
        state.unlink()
    again, lines = train_again(tmp_path)
    assert not any(line.startswith("taking up") for line in lines)
    assert again == first


def train_again(directory: Path) -> tuple[dict[str, bytes], list[str]]:
    """Every file of the folder that another run writes, and what it reported."""
    lines: list[str] = []
    folder = train(MICRO, directory / "again", directory / "work", lines.append)
    return {path.name: path.read_bytes() for path in folder.iterdir()}, lines


def test_the_committed_model_was_made_by_the_committed_recipe() -> None:
    stored = json.loads((PROJECT_ROOT / "weights" / "embedded" / "recipe.json").read_text("utf-8"))
    assert stored == asdict(EMBEDDED)


def test_the_revision_is_that_of_the_committed_weights() -> None:
    content = (PROJECT_ROOT / "weights" / "embedded" / "model.safetensors").read_bytes()
    assert CHECKPOINT.revision == hashlib.sha1(content, usedforsecurity=False).hexdigest()


def test_whitening_changes_the_coordinates_and_not_the_function() -> None:
    tower = Dinov2Model(tower_config(MICRO)).eval()
    chance = torch.Generator().manual_seed(1)
    pixels = torch.randn(8, 3, MICRO.image_px, MICRO.image_px, generator=chance)
    before = tower(pixels).last_hidden_state
    whiten_patches(tower, pixels)
    torch.testing.assert_close(tower(pixels).last_hidden_state, before, atol=1e-4, rtol=1e-4)
    bake_patches(tower)
    torch.testing.assert_close(tower(pixels).last_hidden_state, before, atol=1e-4, rtol=1e-4)
    assert "parametrizations" not in " ".join(tower.state_dict())


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Pool:  # type: ignore[no-untyped-def]
    """Thirty phantoms, as the stem's stage reads them."""
    directory = tmp_path_factory.mktemp("pool")
    job = RenderJob(directory, TRAINING_SEEDS.seeds(30), MICRO.image_spec, MICRO.cells)
    job.render_shard(0)
    pool = Pool(job, lambda line: None)
    pool.grow_to(30)
    return pool


def test_masks_of_a_crop_belong_to_its_pixels(pool) -> None:  # type: ignore[no-untyped-def]
    """Films drawn from their own masks: every cell of a crop must show what its mask says."""
    shard = pool.shards[0]
    drawn = shard.masks[:, :3].repeat(CELL_PX, axis=2).repeat(CELL_PX, axis=3)
    dealer = CropDealer(
        replace(pool, shards=[replace(shard, images=drawn)]),
        replace(MICRO, stem_crop_px=24),
        np.random.default_rng(1),
    )
    images, masks = dealer.draw(100)
    assert images.shape == (100, 3, 24, 24)
    assert masks.shape == (100, len(KINDS), 3, 3)
    assert torch.equal(images[:, :, ::CELL_PX, ::CELL_PX], masks[:, :3])
    assert torch.equal(images[:, :, CELL_PX - 1 :: CELL_PX, CELL_PX - 1 :: CELL_PX], masks[:, :3])
    assert masks[:, :3].amax() > 0


def test_crops_show_a_finding_more_often_than_chance_would(pool) -> None:  # type: ignore[no-untyped-def]
    """Of the same films: which film is taken is another matter."""
    films = [pool.locate(np.array([index]))[0] for index in range(30) for _ in range(15)]
    dealer = CropDealer(pool, replace(MICRO, stem_crop_px=24), np.random.default_rng(0))
    taken = iter(films)
    dealer._film = lambda: next(taken)  # type: ignore[method-assign]
    _, masks = dealer.draw(len(films))
    around = float((masks.amax(dim=(1, 2, 3)) > 0.08).float().mean())
    everywhere = F.max_pool2d(pool.masks(np.arange(30)).amax(dim=1), 3, stride=1)
    assert around > float((everywhere > 0.08).float().mean()) + 0.1


def test_crops_are_rather_taken_from_films_with_a_nodule(pool) -> None:  # type: ignore[no-untyped-def]
    kinds = [["nodule", "mass"], ["mass", "pneumothorax"], ["pneumothorax"], []]
    shard = replace(pool.shards[0], images=pool.shards[0].images[:4], records=[{"kinds": k} for k in kinds])
    dealer = CropDealer(replace(pool, shards=[shard]), MICRO, np.random.default_rng(2))
    drawn = np.bincount([dealer._film()[1] for _ in range(4000)]) / 4000
    assert drawn == pytest.approx([0.5, 0.25, 0.125, 0.125], abs=0.04)


def test_a_taught_stem_is_taken_up_as_it_was_left(pool, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    recipe, lines = replace(MICRO, phantoms=30, first_phantoms=30, stem_steps=2), list[str]()
    taught = train_stem(pool, recipe, lines.append, tmp_path / "stem.safetensors")
    films, num_lines = pool.images(np.arange(2)), len(lines)
    again = train_stem(pool, recipe, lines.append, tmp_path / "stem.safetensors")
    assert len(lines) == num_lines > 0
    assert torch.equal(again(films), taught(films))


def test_one_crop_of_the_whole_film_is_the_film_or_its_mirror_image(pool) -> None:  # type: ignore[no-untyped-def]
    films, theirs, seen = pool.images(np.arange(30)), pool.masks(np.arange(30)), set()
    for image, mask in zip(*CropDealer(pool, MICRO, np.random.default_rng(3)).draw(8), strict=True):
        ahead = [i for i in range(30) if torch.equal(image, films[i])]
        mirrored = [i for i in range(30) if torch.equal(image, films[i].flip(-1))]
        assert len(ahead + mirrored) == 1
        assert torch.equal(mask, theirs[ahead[0]] if ahead else theirs[mirrored[0]].flip(-1))
        seen.add(bool(ahead))
    assert seen == {True, False}


def test_masks_of_patches_are_the_mean_of_their_cells(pool) -> None:  # type: ignore[no-untyped-def]
    masks = pool.masks(np.arange(30))
    shares = share_per_patch(masks, MICRO)
    assert shares.shape[2:] == (MICRO.patches, MICRO.patches)
    torch.testing.assert_close(shares[:, :, 0, 0], masks[:, :, :2, :2].mean(dim=(2, 3)))


def test_a_report_in_other_words_states_the_same(records) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    for record in records:
        told = [reworded(record["report"], rng) for _ in range(20)]
        assert len(set(told)) > 1
        assert {read_report(text) for text in told} == {read_report(record["report"])}


def test_the_usual_words_are_mostly_taken() -> None:
    def openings(usual: float) -> Counter[str]:
        rng = np.random.default_rng(4)
        texts = [write_findings((), ViewPosition.PA, rng, usual=usual) for _ in range(300)]
        return Counter(text.split(".")[0] for text in texts)

    assert openings(1.0) == {"PA view of the chest": 300}
    assert 210 < openings(0.7)["PA view of the chest"] < 270
    assert set(openings(0.0)) == {"PA view of the chest", "PA chest radiograph", "Single PA view"}


def test_shards_of_another_choice_of_seeds_are_not_taken_up(tmp_path: Path) -> None:
    job = RenderJob(tmp_path, [1, 2, 3], MICRO.image_spec, MICRO.cells)
    assert job.shard_path(0) == replace(job, seeds=range(1, 4)).shard_path(0)
    assert job.shard_path(0) != replace(job, seeds=[1, 2, 4]).shard_path(0)


def test_patients_with_a_nodule_are_learnt_from_more_often() -> None:
    def shares(seeds) -> dict[FindingKind, float]:  # type: ignore[no-untyped-def]
        drawn = [{request.kind for request in drawn_findings(seed)} for seed in seeds]
        return {kind: sum(kind in kinds for kinds in drawn) / len(drawn) for kind in FindingKind}

    seeds = seeds_to_learn_from(TRAINING_SEEDS.first, 1500)
    assert seeds == sorted(set(seeds)) and seeds[:100] == seeds_to_learn_from(TRAINING_SEEDS.first, 100)
    kept, clinic = shares(seeds), shares(range(TRAINING_SEEDS.first, seeds[-1]))
    assert kept[FindingKind.NODULE] > 1.8 * clinic[FindingKind.NODULE]
    assert kept[FindingKind.MASS] > 1.3 * clinic[FindingKind.MASS]
    assert all(kept[kind] > 0.6 * clinic[kind] for kind in FindingKind)
    # Every patient with a nodule is there: none is lost to chance.
    missed = set(range(TRAINING_SEEDS.first, seeds[-1])) - set(seeds)
    assert not any(r.kind is FindingKind.NODULE for seed in missed for r in drawn_findings(seed))


def test_the_hardest_films_show_a_line_beside_leads_or_a_nodule() -> None:
    seeds = hardest_seeds(TRAINING_SEEDS.first, 60)
    assert seeds == sorted(set(seeds)) and seeds[:20] == hardest_seeds(TRAINING_SEEDS.first, 20)

    def sides(seed: int, kind: FindingKind) -> set[str]:
        return {str(request.side) for request in drawn_findings(seed) if request.kind is kind}

    def is_line_beside_leads(seed: int) -> bool:
        return bool(sides(seed, FindingKind.CENTRAL_LINE) & sides(seed, FindingKind.PACEMAKER))

    beside = [seed for seed in seeds if is_line_beside_leads(seed)]
    assert 15 < len(beside) < 45
    assert all(sides(seed, FindingKind.NODULE) for seed in set(seeds) - set(beside))
    # Every line beside leads is there: none is lost to chance.
    missed = set(range(TRAINING_SEEDS.first, seeds[-1])) - set(seeds)
    assert not any(map(is_line_beside_leads, missed))


def test_films_with_a_nodule_are_read_twice_as_often_before_words_settle() -> None:
    nodule, line, mass = FindingKind.NODULE, FindingKind.CENTRAL_LINE, FindingKind.MASS
    chances = chances_to_be_told([[], [mass], [line], [nodule], [line, nodule]])
    assert sum(chances) == pytest.approx(1)
    assert list(chances / chances[0]) == pytest.approx([1, 1, 1.5, 2, 2])


def test_states_of_another_recipe_are_not_taken_up() -> None:
    assert MICRO.fingerprint != EMBEDDED.fingerprint != replace(EMBEDDED, seed=1).fingerprint
