"""Tiny models of every family, prompts for them, and the judge: transformers' own forward without a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cxr_assistant.checkpoints import chexagent, cxr_llava, embedded, llava_rad
from cxr_assistant.models.decoder import DecoderModel
from cxr_assistant.models.vlm import ImageSpan, Prompt
from tests.checkpoints.golden import golden_fixtures

FAMILIES = ("llava-rad", "chexagent", "cxr-llava", "embedded")
CLEAR_MARGIN = 1e-3
_GOLDEN: dict[str, tuple[Any, str]] = {
    "llava-rad": (llava_rad, "adapter_config.json"),
    "chexagent": (chexagent, "goldens.npz"),
    "cxr-llava": (cxr_llava, "golden_fp32.safetensors"),
}


def build(family: str, folder: Path, precision: str = "fp32", device: str = "cpu") -> DecoderModel:
    """The golden checkpoint of a family, or a tiny embedded model; converted in `folder` if it is not yet."""
    if family == "embedded":
        if not folder.exists():
            embedded.make_random(folder)
        module: Any = embedded
    else:
        module, marker = _GOLDEN[family]
        if not folder.exists():
            folder.mkdir()
            module.convert([golden_fixtures(marker)[0]], folder, precision="fp32")
    model = module.build(folder, device=device, precision=precision)
    assert isinstance(model, DecoderModel)
    return model


def make_prompt(model: DecoderModel, words: Sequence[int], *, film: int | None = 0) -> Prompt:
    """Four ids, a film of noise, and `words`; all numbers from `words` and the number of the film."""
    spec, length = model.processor.image, model.processor.num_image_tokens
    if film is None:
        return Prompt((5, 6, 7, 8, *words))
    pixels = np.random.default_rng(film).normal(size=(1, spec.channels, spec.size_px, spec.size_px))
    ids = (5, 6, 7, 8, *[0] * length, *words)
    return Prompt(ids, (ImageSpan(4, length),), pixels.astype(np.float32), (f"film {film}",))


def longer(prompt: Prompt, ids: Sequence[int]) -> Prompt:
    return Prompt((*prompt.token_ids, *ids), prompt.image_spans, prompt.pixel_values, prompt.digests)


@torch.inference_mode()
def stock_scores(model: DecoderModel, prompt: Prompt) -> Tensor:
    """Logits (T, V) of the whole sequence at once by transformers' forward, float32."""
    embeds = model.encode(prompt.pixel_values) if prompt.digests else []
    written, model._written = model._written, None
    try:
        return model.score(prompt, embeds, model.new_cache(len(prompt)))
    finally:
        model._written = written


@dataclass
class Judge:
    """Counts the steps at which the two best tokens differ clearly, and that the better one was chosen."""

    num_steps: int = 0
    num_clear: int = 0

    def check(self, model: DecoderModel, prompt: Prompt, ids: Sequence[int]) -> None:
        """`ids` are what greedy decoding without any cache gives, read off one pass over all of them."""
        logits = stock_scores(model, longer(prompt, ids))[len(prompt) - 1 : -1]
        values, best = logits.topk(2)
        clear = ((values[:, 0] - values[:, 1]) > CLEAR_MARGIN).tolist()
        self.num_steps += len(ids)
        self.num_clear += sum(clear)
        expected = best[:, 0].tolist()
        for step, is_clear in enumerate(clear):
            assert not is_clear or ids[step] == expected[step], f"token {step} of {ids} is {expected[step]}"

    def require_most_clear(self) -> None:
        assert self.num_steps > 0
        assert self.num_clear >= 0.95 * self.num_steps
