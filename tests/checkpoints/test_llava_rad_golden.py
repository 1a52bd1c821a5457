"""LLaVA-Rad against the authors' own numbers, through the loader that a real checkpoint takes."""

# One test per stage, so that a failure names its stage. Tolerances are the fixture's.

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from cxr_assistant.checkpoints import llava_rad
from cxr_assistant.conversation import Conversation
from cxr_assistant.engine.engine import Engine
from cxr_assistant.engine.sampling import Token
from cxr_assistant.generation import SamplingParams, collect
from cxr_assistant.imaging.transforms import prepare_pixels
from cxr_assistant.models.llava import StockLlava, tower_hidden_states
from cxr_assistant.models.vlm import Prompt
from cxr_assistant.study import Radiograph, Study
from cxr_assistant.tasks import Task
from tests.checkpoints.golden import golden_fixtures, most_cases

TOWER_ATOL, LOGITS_ATOL = 2e-5, 5e-4
IMAGE_MARK = -200
FIXTURES = golden_fixtures("adapter_config.json")


@dataclass(frozen=True)
class Golden:
    """One fixture, converted and loaded."""

    directory: Path
    converted: Path
    meta: dict[str, Any]
    tensors: dict[str, Tensor]
    model: StockLlava

    def case(self, index: int) -> dict[str, Any]:
        return self.meta["cases"][index]

    def expected(self, index: int, name: str) -> Tensor:
        return self.tensors[f"case{index}.{name}"]

    def pixel_values(self, index: int) -> np.ndarray:
        with Image.open(self.directory / self.case(index)["image"]) as picture:
            return prepare_pixels(np.asarray(picture), self.model.processor.image)

    def prompt(self, index: int) -> Prompt:
        """The prompt of a case by the public `render`; the fixture's pictures come in where films do."""
        case = self.case(index)
        study = Study(radiographs=(Radiograph(np.ones((8, 8), np.uint8), bits_stored=8),))
        study = study.with_indication(case["reason"] or "")
        query = case["query"].removeprefix("<image>\n")
        conversation = Conversation() if case["flow"] == "eval" else Conversation().ask(query)
        prompt = llava_rad.render(
            llava_rad.CHECKPOINT, study, conversation, Task.FINDINGS, self.model.processor
        )
        pixel_values = self.pixel_values(index)[None]
        return replace(prompt, pixel_values=pixel_values, digests=(f"case{index}",))


@pytest.fixture(scope="module", params=FIXTURES, ids=lambda path: path.name)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    converted = tmp_path_factory.mktemp("converted")
    llava_rad.convert([request.param], converted, precision="fp32")
    return Golden(
        directory=request.param,
        converted=converted,
        meta=json.loads((request.param / "meta.json").read_text("utf-8")),
        tensors=load_file(request.param / "golden.safetensors"),
        model=llava_rad.build(converted, device="cpu", precision="fp32"),
    )


@pytest.fixture(params=most_cases(FIXTURES), ids=lambda index: f"case{index}")
def case(request: pytest.FixtureRequest, golden: Golden) -> int:
    if request.param >= len(golden.meta["cases"]):
        pytest.skip("the fixture has fewer cases")
    return request.param


def test_there_is_a_fixture() -> None:
    assert FIXTURES


def test_merged_weights_are_exact(golden: Golden) -> None:
    merged = {name: tensor for name, tensor in golden.tensors.items() if name.startswith("merged.")}
    assert merged
    with safe_open(golden.converted / "model.safetensors", "pt") as stored:
        for name, expected in merged.items():
            ours = "language_model." + name.removeprefix("merged.")
            torch.testing.assert_close(stored.get_tensor(ours), expected, rtol=0, atol=0)


def test_the_stage_1_projector_is_not_used(golden: Golden) -> None:
    decoys = list(golden.directory.glob("*/mm_projector.bin"))
    assert decoys
    decoy = torch.load(decoys[0], weights_only=True)["model.mm_projector.0.weight"].float()
    assert not torch.equal(golden.model.projector.linear_1.weight, decoy)


def test_pixels_are_exact(golden: Golden, case: int) -> None:
    expected = golden.expected(case, "pixel_values").numpy()
    np.testing.assert_array_equal(golden.pixel_values(case), expected)


def test_ids_are_exact(golden: Golden, case: int) -> None:
    prompt = golden.prompt(case)
    (span,) = prompt.image_spans
    ids = [*prompt.token_ids[: span.start], IMAGE_MARK, *prompt.token_ids[span.stop :]]
    assert ids == golden.expected(case, "input_ids").tolist()


def test_every_hidden_state_of_the_tower(golden: Golden) -> None:
    names = sorted(name for name in golden.tensors if name.startswith("case0.tower_hidden."))
    pixel_values = golden.expected(0, "pixel_values")[None]
    with torch.inference_mode():
        states = list(tower_hidden_states(golden.model.tower, pixel_values, len(names) - 1))
    for name, state in zip(names, states, strict=True):
        torch.testing.assert_close(state[0], golden.tensors[name], rtol=0, atol=TOWER_ATOL)


def test_tower_features(golden: Golden, case: int) -> None:
    with torch.inference_mode():
        features = golden.model.tower_features(golden.expected(case, "pixel_values")[None])
    torch.testing.assert_close(features[0], golden.expected(case, "tower_features"), rtol=0, atol=TOWER_ATOL)


def test_projected_features(golden: Golden, case: int) -> None:
    embeds = golden.model.encode(golden.pixel_values(case)[None])
    torch.testing.assert_close(embeds[0], golden.expected(case, "projected"), rtol=0, atol=TOWER_ATOL)


def logits_of(golden: Golden, prompt: Prompt) -> Tensor:
    model = golden.model
    return model.score(prompt, model.encode(prompt.pixel_values), model.new_cache(len(prompt)))


def test_logits_at_every_position(golden: Golden, case: int) -> None:
    expected = golden.expected(case, "prompt_logits")
    logits = logits_of(golden, golden.prompt(case))
    torch.testing.assert_close(logits[:, : expected.shape[1]], expected, rtol=0, atol=LOGITS_ATOL)


def test_logits_move_when_the_picture_is_another(golden: Golden) -> None:
    prompt = golden.prompt(0)
    other = replace(prompt, pixel_values=golden.pixel_values(1)[None])
    assert (logits_of(golden, prompt)[-1] - logits_of(golden, other)[-1]).abs().nan_to_num().max() > 0.1


def test_greedy_ids_are_equal(golden: Golden, case: int) -> None:
    expected = golden.expected(case, "greedy_ids").tolist()
    params = SamplingParams(max_new_tokens=len(expected))
    steps = Engine().steps(golden.model, golden.prompt(case), params)
    assert [step.token_id for step in steps if isinstance(step, Token)] == expected


def test_the_text_is_the_authors(golden: Golden, case: int) -> None:
    params = SamplingParams(max_new_tokens=len(golden.expected(case, "greedy_ids")))
    text = collect(Engine().generate(golden.model, golden.prompt(case), params)).text
    assert text.strip() == golden.case(case)["decoded"].strip()
