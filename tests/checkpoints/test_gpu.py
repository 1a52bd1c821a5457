"""On a CUDA device: every precision loads, answers and sees; memory that runs out leaves a usable process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cxr_assistant.checkpoints import cxr_llava
from cxr_assistant.checkpoints.blindness import measure_image_effect, require_sight
from cxr_assistant.checkpoints.random_sizes import TINY_SIZES
from cxr_assistant.checkpoints.random_weights import write_random_checkpoint
from cxr_assistant.checkpoints.spec import find_module
from cxr_assistant.errors import OutOfMemory
from cxr_assistant.models.precision import Footprint, choose_fit, read_device
from cxr_assistant.models.vlm import VisionLanguageModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

HALF = ["bf16", "fp16"]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("random") / "published"
    write_random_checkpoint(cxr_llava.CHECKPOINT, source, sizes=TINY_SIZES)
    target = tmp_path_factory.mktemp("converted")
    cxr_llava.convert([source], target, precision="bf16")
    return target


@pytest.fixture
def precision(request: pytest.FixtureRequest) -> str:
    if request.param == "bf16" and not read_device("cuda").has_bf16:
        pytest.skip("the device has no bfloat16")
    return str(request.param)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """As if all but a sliver of the device belonged to somebody else."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def build(converted: Path, precision: str, device: str = "cuda") -> VisionLanguageModel:
    return cxr_llava.build(converted, device=device, precision=precision)


@pytest.mark.parametrize("precision", ["fp32", *HALF, "int8", "nf4", "offload"], indirect=True)
def test_every_precision_loads_answers_and_sees(converted: Path, precision: str) -> None:
    model = build(converted, precision)
    assert require_sight(cxr_llava.CHECKPOINT, find_module("cxr-llava"), model) > 0
    assert torch.device(model.device).type == "cuda"


def test_float32_gives_the_numbers_of_the_cpu(converted: Path) -> None:
    module = find_module("cxr-llava")
    effects = [
        measure_image_effect(cxr_llava.CHECKPOINT, module, build(converted, "fp32", device))
        for device in ("cpu", "cuda")
    ]
    assert effects[0] == pytest.approx(effects[1], abs=1e-3)


@pytest.mark.parametrize("precision", ["int8", "nf4"], indirect=True)
def test_quantised_weights_take_less_of_the_device(converted: Path, precision: str) -> None:
    def taken(kind: str) -> int:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        model = build(converted, kind)
        after = torch.cuda.memory_allocated()
        del model
        return after - before

    assert taken(precision) < taken("fp16")


def test_the_best_that_fits_is_half_precision() -> None:
    device = read_device("cuda")
    best = choose_fit(Footprint.estimate(1_000_000), device).precision
    assert best == ("bf16" if device.has_bf16 else "fp16")


def test_memory_that_runs_out_while_loading_is_a_sentence(converted: Path, little_memory: None) -> None:
    with pytest.raises(OutOfMemory, match="The memory of 'cuda' does not hold this model in fp32"):
        build(converted, "fp32")


def test_after_memory_ran_out_the_next_load_works(converted: Path) -> None:
    torch.cuda.set_per_process_memory_fraction(1e-6)
    with pytest.raises(OutOfMemory):
        build(converted, "fp32")
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert require_sight(cxr_llava.CHECKPOINT, find_module("cxr-llava"), build(converted, "fp32")) > 0
