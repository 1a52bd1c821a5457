"""Converted tensors reach the model memory-mapped, in any precision, towers never quantised."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cxr_assistant.checkpoints import cxr_llava, streaming
from cxr_assistant.checkpoints.blindness import require_sight
from cxr_assistant.checkpoints.random_sizes import TINY_SIZES
from cxr_assistant.checkpoints.random_weights import write_random_checkpoint
from cxr_assistant.checkpoints.spec import find_module
from cxr_assistant.checkpoints.tensors import StoredTensor, list_tensors
from cxr_assistant.errors import CorruptWeights, OutOfMemory, WeightsMismatch
from cxr_assistant.models.clip_decoder import ClipDecoder


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("random") / "published"
    write_random_checkpoint(cxr_llava.CHECKPOINT, source, sizes=TINY_SIZES)
    target = tmp_path_factory.mktemp("converted")
    cxr_llava.convert([source], target, precision="bf16")
    return target


def build(converted: Path, precision: str) -> ClipDecoder:
    model = cxr_llava.build(converted, device="cpu", precision=precision)
    assert isinstance(model, ClipDecoder)
    return model


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_quantised_models_answer_and_keep_tower_and_projector(converted: Path, precision: str) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = build(converted, precision)
    kind = {"int8": bitsandbytes.nn.Linear8bitLt, "nf4": bitsandbytes.nn.Linear4bit}[precision]
    in_blocks = [m for m in model.language_model.layers.modules() if isinstance(m, torch.nn.Linear)]
    elsewhere = [*model.tower.modules(), model.projector, model.head]
    assert in_blocks and all(isinstance(layer, kind) for layer in in_blocks)
    assert not any(isinstance(module, kind) for module in elsewhere)
    assert require_sight(cxr_llava.CHECKPOINT, find_module("cxr-llava"), model) > 0


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_quantised_weights_are_smaller(converted: Path, precision: str) -> None:
    pytest.importorskip("bitsandbytes")

    def num_bytes(model: ClipDecoder) -> int:
        return sum(p.numel() * p.element_size() for p in model.language_model.layers.parameters())

    assert num_bytes(build(converted, precision)) < 0.65 * num_bytes(build(converted, "bf16"))


def test_a_model_read_from_disk_layer_by_layer_computes_the_same(converted: Path) -> None:
    offloaded, resident = build(converted, "offload"), build(converted, "bf16")
    ids = torch.tensor([[1, 5, 9, 12]])
    with torch.inference_mode():
        expected = resident._logits(resident._token_embeds(ids), resident.new_cache(8), num_last=4)
        found = offloaded._logits(offloaded._token_embeds(ids), offloaded.new_cache(8), num_last=4)
    assert torch.equal(found, expected)
    assert {p.device.type for p in offloaded.language_model.layers.parameters()} == {"meta"}


def test_weights_in_their_stored_type_stay_mapped_to_the_file(converted: Path) -> None:
    weight = build(converted, "bf16").language_model.layers[0].mlp.up_proj.weight
    with Path("/proc/self/maps").open(encoding="ascii") as maps:
        spans = [line.split()[0].split("-") for line in maps if str(converted / "model.safetensors") in line]
    assert any(int(low, 16) <= weight.data_ptr() < int(high, 16) for low, high in spans)


def stored_half(folder: Path, dtype: torch.dtype) -> tuple[torch.Tensor, StoredTensor]:
    """Every half-precision number, some of them often: no whole number of blocks or pages."""
    every_half = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16).nan_to_num()
    tensor = every_half.repeat(33)[: 2**21 + 5].to(dtype)
    save_file({"before": torch.ones(3), "weight": tensor}, folder / "model.safetensors")
    return tensor, list_tensors(folder)["weight"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_cast_from_the_file_in_blocks_is_the_same_cast(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor, stored = stored_half(tmp_path, dtype)
    made = streaming._cast(stored, torch.bfloat16, "cpu")
    assert torch.equal(made, tensor.to(torch.bfloat16))
    made += 1  # it is ours to write to


def test_a_part_of_a_tensor_is_cast_from_its_own_bytes(tmp_path: Path) -> None:
    tensor = torch.randn(12, 700, generator=torch.Generator().manual_seed(0))
    save_file({"qkv": tensor}, tmp_path / "model.safetensors")
    made = torch.empty(4, 700, dtype=torch.float16)
    list_tensors(tmp_path)["qkv"].split(1, 3).read_into(made)
    assert torch.equal(made, tensor[4:8].half())


def test_a_cast_has_the_pages_of_its_source_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, stored = stored_half(tmp_path, torch.float16)
    told: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *advice: told.append(advice), raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_DONTNEED", 4, raising=False)
    streaming._cast(stored, torch.bfloat16, "cpu")
    assert told == [(stored.span[0], 2 * (2**21 + 5), 4)]


def test_a_file_that_becomes_shorter_while_it_is_cast(tmp_path: Path) -> None:
    _, stored = stored_half(tmp_path, torch.float16)
    os.truncate(stored.path, stored.span[1] - 1)
    with pytest.raises(CorruptWeights, match="has become shorter"):
        streaming._cast(stored, torch.bfloat16, "cpu")


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")], ids=repr)
def test_memory_that_runs_out_in_the_middle_of_loading_is_a_sentence(
    converted: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(streaming, "_cast", fail)
        with pytest.raises(OutOfMemory, match="The memory of 'cpu' does not hold this model in fp32"):
            build(converted, "fp32")
    assert build(converted, "fp32").device.type == "cpu"


def test_a_configuration_that_contradicts_the_weights(converted: Path, tmp_path: Path) -> None:
    for path in converted.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    config["text_config"]["intermediate_size"] += 16
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(WeightsMismatch, match="the configuration says"):
        build(tmp_path, "fp32")


def test_a_configuration_with_more_layers_than_weights(converted: Path, tmp_path: Path) -> None:
    for path in converted.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    config["text_config"]["num_hidden_layers"] += 1
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(WeightsMismatch, match="are missing"):
        build(tmp_path, "fp32")


def test_reading_ahead_ends_where_the_load_fails_and_goes_on_where_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"weight": torch.zeros(1000, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    size = (tmp_path / "model.safetensors").stat().st_size
    asked: list[int] = []
    is_behind = threading.Event()

    def ask(_: int, offset: int, *__: int) -> None:
        assert is_behind.wait(20)
        asked.append(offset)

    monkeypatch.setattr(streaming, "READ_AHEAD_BYTES", size // 3)
    monkeypatch.setattr(os, "posix_fadvise", ask)

    def ahead(precision: str = "bf16") -> contextlib.AbstractContextManager[None]:
        return streaming.reading_ahead(tmp_path, device="cpu", precision=precision)

    for is_failing in (False, True):
        asked.clear()
        is_behind.clear()
        before = set(threading.enumerate())
        with contextlib.suppress(MemoryError), ahead():
            (thread,) = set(threading.enumerate()) - before
            if is_failing:
                raise MemoryError
        is_behind.set()
        thread.join(20)
        assert asked in ([[], [0]] if is_failing else [list(range(0, size, size // 3))])
    with ahead("fp32"):  # which is cast: read once and in order
        assert set(threading.enumerate()) == before
    is_behind.clear()
    with ahead("nf4"):  # which is quantised from where it is mapped
        assert len(set(threading.enumerate()) - before) == 1
    is_behind.set()
