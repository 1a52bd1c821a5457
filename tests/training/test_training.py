"""The recipe runs, its targets stand where they should, and the pool grows by step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_assistant.checkpoints.embedded import prompt_pieces
from cxr_assistant.imaging.phantom import make_phantom
from cxr_assistant.training.data import IGNORED, PRESENCE, encode_phantom
from cxr_assistant.training.language import (
    EOS,
    IGNORED_TOKEN,
    encode_conversation,
    sample_turns,
    train_tokenizer,
)
from cxr_assistant.training.recipe import MICRO
from cxr_assistant.training.tower import augment


@pytest.fixture(scope="module")
def records() -> list[dict]:
    spec = MICRO.image_spec
    return [
        encode_phantom(make_phantom(s, size_px=spec.size_px), spec, MICRO.patches)["record"]
        for s in range(12)
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
    starts = [
        sample_turns(records[i % len(records)], rng, 4)[0][1] == records[i % len(records)]["report"]
        for i in range(100)
    ]
    assert 50 < sum(starts) < 90


def test_a_lateral_film_leaves_sides_without_a_label() -> None:
    from cxr_assistant.study import ViewPosition

    phantom = make_phantom(1, view=ViewPosition.LATERAL, size_px=MICRO.image_px)
    presence = encode_phantom(phantom, MICRO.image_spec, MICRO.patches)["presence"]
    assert all(value == IGNORED for (_, side), value in zip(PRESENCE, presence, strict=True) if side)


def test_augmentation_never_flips() -> None:
    """A mark on the left stays on the left: a flip would swap the patient's sides."""
    images = torch.zeros(64, 1, 32, 32)
    images[:, :, 8:24, 2:10] = 1.0
    moved, _ = augment(images, images, torch.Generator().manual_seed(0))
    assert (moved[..., :16].sum(dim=(1, 2, 3)) > moved[..., 16:].sum(dim=(1, 2, 3))).all()


def test_the_micro_recipe_makes_a_model_that_the_product_loads(tmp_path: Path) -> None:
    """Every step of the real recipe, small; the written folder answers through the product's own loader."""
    from dataclasses import replace

    from cxr_assistant.checkpoints.embedded import build
    from cxr_assistant.models.gate import PhantomGate
    from cxr_assistant.training.train import train

    recipe = replace(
        MICRO,
        phantoms=32,
        first_phantoms=32,
        validation=16,
        coarse_steps=2,
        fine_steps=2,
        align_steps=1,
        instruct_steps=2,
    )
    lines: list[str] = []
    folder = train(recipe, tmp_path / "model", tmp_path / "work", lines.append, processes=1)
    model = build(folder, device="cpu", precision="fp32")
    assert model.processor.num_image_tokens == recipe.patches**2
    assert PhantomGate.load(folder / "gate.safetensors").threshold > 0
    assert any(line.startswith("instruct 2/2") for line in lines)
