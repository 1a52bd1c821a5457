"""Prompts that make no sense cannot be built, and images land where their spans say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cxr_assistant.checkpoints import embedded
from cxr_assistant.checkpoints.folder import load_llava
from cxr_assistant.errors import PromptTooLong, WeightsMismatch
from cxr_assistant.models.llava import StockLlava
from cxr_assistant.models.vlm import ImageSpan, Prompt

IMAGE = embedded.CHECKPOINT.image
PICTURE = np.zeros((1, IMAGE.channels, IMAGE.size_px, IMAGE.size_px), np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("tiny")
    embedded.make_random(target)
    return target


@pytest.fixture(scope="module")
def model(folder: Path) -> StockLlava:
    return load_llava(folder, IMAGE, device="cpu", precision="fp32")


@pytest.mark.parametrize(
    "parts",
    [
        {"image_spans": (ImageSpan(0, 2),)},
        {"image_spans": (ImageSpan(3, 2),), "pixel_values": PICTURE, "digests": ("d",)},
        {"image_spans": (ImageSpan(0, 0),), "pixel_values": PICTURE, "digests": ("d",)},
        {
            "image_spans": (ImageSpan(0, 2), ImageSpan(1, 2)),
            "pixel_values": np.repeat(PICTURE, 2, axis=0),
            "digests": ("d", "e"),
        },
    ],
    ids=["span-without-picture", "span-past-the-end", "empty-span", "overlapping-spans"],
)
def test_a_prompt_that_contradicts_itself_is_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Spans|spans"):
        Prompt(token_ids=(1, 2, 3, 4), **parts)


def test_one_token_must_fit_after_the_prompt() -> None:
    Prompt(token_ids=(1, 2, 3)).require_fit(4)
    with pytest.raises(PromptTooLong, match="take 3 tokens; this model reads at most 2"):
        Prompt(token_ids=(1, 2, 3)).require_fit(3)


def test_pixels_of_a_prompt_are_read_only() -> None:
    prompt = Prompt((1, 2), (ImageSpan(0, 1),), PICTURE.copy(), ("d",))
    with pytest.raises(ValueError, match="read-only"):
        prompt.pixel_values[0] = 1


def test_filler_ids_inside_a_span_do_not_matter(model: StockLlava) -> None:
    length = model.processor.num_image_tokens
    embeds = model.encode(PICTURE)
    logits = []
    for filler in (0, 7):
        ids = (1, 5, *[filler] * length, 9)
        prompt = Prompt(ids, (ImageSpan(2, length),), PICTURE, ("d",))
        logits.append(model.prefill(prompt, embeds, model.new_cache(len(ids))))
    torch.testing.assert_close(*logits, rtol=0, atol=0)


def test_two_images_take_their_places_in_order(model: StockLlava) -> None:
    length = model.processor.num_image_tokens
    pictures = np.concatenate((PICTURE, PICTURE + 1))
    spans = (ImageSpan(1, length), ImageSpan(2 + length, length))
    prompt = Prompt((1, *[0] * length, 5, *[0] * length, 6), spans, pictures, ("a", "b"))
    embeds = model.encode(pictures)
    straight = model.prefill(prompt, embeds, model.new_cache(len(prompt)))
    swapped = model.prefill(prompt, embeds.flip(0), model.new_cache(len(prompt)))
    assert not torch.allclose(straight, swapped)


def test_a_position_is_not_read_twice(model: StockLlava) -> None:
    prompt = Prompt((1, 5, 6))
    cache = model.new_cache(8)
    model.prefill(prompt, [], cache)
    with pytest.raises(ValueError, match="Cannot read positions 3 to 3"):
        model.prefill(prompt, [], cache)


def test_scores_end_where_prefill_does(model: StockLlava) -> None:
    prompt = Prompt((1, 5, 6, 7))
    scores = model.score(prompt, [], model.new_cache(4))
    last = model.prefill(prompt, [], model.new_cache(4))
    assert scores.shape[0] == 4
    torch.testing.assert_close(scores[-1:], last)


def test_a_tower_that_makes_other_tokens_than_configured_is_refused(model: StockLlava) -> None:
    side = IMAGE.size_px * 6 // 7  # 6 x 6 patches where the folder names 7 x 7
    picture = np.zeros((1, IMAGE.channels, side, side), np.float32)
    with pytest.raises(WeightsMismatch, match="makes 36 tokens of an image; the prompt holds 49"):
        model.encode(picture)


def test_blocks_behind_the_layer_that_is_read_do_not_run(
    model: StockLlava, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.config, "vision_feature_layer", -2)
    last_block = model.tower.encoder.layer[-1]
    handle = last_block.register_forward_hook(lambda *_: pytest.fail("the last block ran"))
    try:
        model.encode(PICTURE)
    finally:
        handle.remove()
