"""LLaVA-Rad's loader beyond the golden numbers: what it writes, what it refuses, what it takes from files."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cxr_assistant.checkpoints import llava_rad
from cxr_assistant.checkpoints.folder import load_llava
from cxr_assistant.conversation import Conversation
from cxr_assistant.engine.engine import Engine
from cxr_assistant.engine.sampling import Token
from cxr_assistant.errors import CorruptWeights, MissingRadiograph, MissingWeights, WeightsMismatch
from cxr_assistant.generation import SamplingParams
from cxr_assistant.models.llava import StockLlava
from cxr_assistant.models.vlm import Prompt
from cxr_assistant.study import Radiograph, Study, ViewPosition
from cxr_assistant.tasks import Task
from tests.checkpoints.golden import COPIES

PUBLISHED = COPIES / "llava_rad_tiny"
QUESTION = "Provide a description of the findings in the radiology image."


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A copy of the published layout that a test may damage."""
    copy = tmp_path / "published"
    shutil.copytree(PUBLISHED, copy)
    return copy


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("converted")
    llava_rad.convert([PUBLISHED], target, precision="fp32")
    return target


@pytest.fixture(scope="module")
def model(converted: Path) -> StockLlava:
    return load_llava(converted, llava_rad.CHECKPOINT.image, device="cpu", precision="fp32")


def convert(published: Path) -> Path:
    target = published.parent / "converted"
    target.mkdir()
    llava_rad.convert([published], target, precision="fp32")
    return target


def square_film(seed: int = 0) -> Radiograph:
    pixels = np.random.default_rng(seed).integers(0, 256, (56, 56), dtype=np.uint8)
    return Radiograph(stored=pixels, bits_stored=8, view=ViewPosition.PA)


def render(model: StockLlava, conversation: Conversation | None = None, indication: str = "") -> Prompt:
    study = Study(radiographs=(square_film(),)).with_indication(indication)
    return llava_rad.render(
        llava_rad.CHECKPOINT, study, conversation or Conversation(), Task.FINDINGS, model.processor
    )


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def edit_tensors(path: Path, change: Callable[[dict[str, Any]], object], member: str | None = None) -> None:
    content = torch.load(path, weights_only=True)
    change(content if member is None else content[member])
    torch.save(content, path)


# -------------------------------------------------------------------------------- the folder is a standard


@pytest.fixture(scope="module")
def stock(converted: Path) -> Any:
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(converted).eval()


def test_stock_transformers_gives_the_same_answer(model: StockLlava, stock: Any) -> None:
    prompt = render(model)
    (span,) = prompt.image_spans
    marker = stock.config.image_token_index
    ids = [*prompt.token_ids[: span.start], *[marker] * span.length, *prompt.token_ids[span.stop :]]
    with torch.inference_mode():
        theirs = stock.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            pixel_values=torch.from_numpy(np.array(prompt.pixel_values)),
            max_new_tokens=16,
        )[0, len(ids) :].tolist()
    steps = Engine().steps(model, prompt, SamplingParams(max_new_tokens=16))
    assert [step.token_id for step in steps if isinstance(step, Token)] == theirs


def test_the_stock_processor_gives_our_ids_in_one_pass(model: StockLlava, converted: Path) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(converted)
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    picture = Image.fromarray(square_film().stored.astype(np.uint8)).convert("RGB")
    inputs = processor(images=picture, text=text, add_special_tokens=False, return_tensors="pt")
    prompt = render(model)
    (span,) = prompt.image_spans
    marker = model.processor.tokenizer.id_of("<image>")
    ours = [*prompt.token_ids[: span.start], *[marker] * span.length, *prompt.token_ids[span.stop :]]
    assert inputs["input_ids"][0].tolist() == ours
    np.testing.assert_allclose(inputs["pixel_values"].numpy(), prompt.pixel_values, atol=1e-6)


def test_sampling_defaults_of_vicuna_are_gone(converted: Path) -> None:
    generation = json.loads((converted / "generation_config.json").read_text("utf-8"))
    assert not {"temperature", "top_p", "max_length"} & generation.keys()


@pytest.mark.requirement("W3")
def test_nothing_in_the_folder_asks_for_code(converted: Path) -> None:
    assert not list(converted.glob("*.py"))
    assert "auto_map" not in "".join(path.read_text("utf-8") for path in converted.glob("*.json"))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_half_precision_folder_loads(published: Path, precision: str) -> None:
    target = published.parent / "half"
    target.mkdir()
    llava_rad.convert([published], target, precision=precision)
    loaded = llava_rad.build(target, device="cpu", precision=precision)
    assert loaded.dtype == {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]


# ------------------------------------------------------------------------------------------- the prompt


def test_the_reason_for_the_exam_is_given_in_the_words_of_training(model: StockLlava) -> None:
    text = model.processor.tokenizer.decode(render(model, indication="cough\nand fever").token_ids)
    assert "image given the following indication: cough and fever ASSISTANT:" in text


@pytest.mark.requirement("O1")
def test_special_tokens_in_the_reason_stay_text(model: StockLlava) -> None:
    prompt = render(model, indication="</s> <image> <s>")
    specials = {model.processor.tokenizer.id_of(token) for token in ("</s>", "<image>")}
    (span,) = prompt.image_spans
    assert not specials & set(prompt.token_ids[span.stop :])
    assert len(prompt.image_spans) == 1


def test_words_of_a_person_are_passed_on_as_they_are(model: StockLlava) -> None:
    prompt = render(model, Conversation().ask("Describe it.\n"), indication="cough")
    text = model.processor.tokenizer.decode(prompt.token_ids[prompt.image_spans[0].stop :])
    assert text.endswith("\nDescribe it.\n ASSISTANT:")


def test_a_lateral_film_alone_is_refused(model: StockLlava) -> None:
    lateral = Radiograph(square_film().stored, 8, view=ViewPosition.LATERAL)
    with pytest.raises(MissingRadiograph, match="a lateral film only"):
        llava_rad.render(
            llava_rad.CHECKPOINT, Study((lateral,)), Conversation(), Task.FINDINGS, model.processor
        )


# ------------------------------------------------------------------- nothing is hard-coded to one size


def test_the_base_may_lie_in_one_file(published: Path) -> None:
    base = published / "vicuna-like"
    shards = sorted(base.glob("pytorch_model-*.bin"))
    whole = {name: tensor for shard in shards for name, tensor in torch.load(shard).items()}
    for path in (*shards, base / "pytorch_model.bin.index.json"):
        path.unlink()
    torch.save(whole, base / "pytorch_model.bin", _use_new_zipfile_serialization=False)  # an older pickle
    convert(published)


def test_rope_theta_and_eps_come_from_the_configuration(published: Path) -> None:
    edit_json(published / "llava-rad" / "config.json", rope_theta=500.0, rms_norm_eps=0.01)
    model = llava_rad.build(convert(published), device="cpu", precision="fp32")
    assert isinstance(model, StockLlava)
    head_width = 16
    assert model.language_model.rotary_emb.inv_freq[1].item() == pytest.approx(500 ** (-2 / head_width))
    assert model.language_model.norm.variance_epsilon == 0.01


def test_the_layer_that_is_read_comes_from_the_configuration(published: Path, model: StockLlava) -> None:
    edit_json(published / "llava-rad" / "config.json", mm_vision_select_layer=-1)
    other = llava_rad.build(convert(published), device="cpu", precision="fp32")
    pixel_values = render(model).pixel_values
    assert not torch.equal(other.encode(pixel_values), model.encode(pixel_values))


def test_an_mlp_ratio_that_is_no_whole_number_is_read(published: Path) -> None:
    hidden, width = 340, 128  # 2.65625

    def narrow(state: dict[str, Any]) -> None:
        for name, tensor in state.items():
            if ".mlp.fc1." in name:
                state[name] = tensor[:hidden].clone()
            if name.endswith(".mlp.fc2.weight"):
                state[name] = tensor[:, :hidden].clone()

    edit_tensors(published / "llava-rad" / "biomedclipcxr_518_checkpoint.pt", narrow, "state_dict")
    model = llava_rad.build(convert(published), device="cpu", precision="fp32")
    assert isinstance(model, StockLlava)
    assert model.tower.encoder.layer[0].mlp.fc1.out_features == hidden
    assert model.encode(render(model).pixel_values).shape == (1, 16, 64)
    assert hidden / width % 1


def test_grouped_attention_is_read(published: Path) -> None:
    edit_json(published / "llava-rad" / "config.json", num_key_value_heads=2)

    def halve(state: dict[str, Any]) -> None:
        for name, tensor in state.items():
            if any(part in name for part in ("k_proj", "v_proj")) and not name.endswith("lora_A.weight"):
                state[name] = tensor[:32].clone()

    for path in (*published.glob("vicuna-like/*.bin"), published / "llava-rad" / "adapter_model.bin"):
        edit_tensors(path, halve)
    model = llava_rad.build(convert(published), device="cpu", precision="fp32")
    steps = Engine().steps(model, render(model), SamplingParams(max_new_tokens=3))
    assert sum(isinstance(step, Token) for step in steps) == 3


# ------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "name",
    ["adapter_config.json", "adapter_model.bin", "non_lora_trainables.bin", "biomedclipcxr_518.json"],
)
def test_a_missing_file_is_named(published: Path, name: str) -> None:
    (published / "llava-rad" / name).unlink()
    with pytest.raises(MissingWeights, match=name):
        convert(published)


def test_a_missing_shard_is_a_missing_tensor(published: Path) -> None:
    (published / "vicuna-like" / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(WeightsMismatch, match="missing"):
        convert(published)


@pytest.mark.requirement("W7")
def test_a_pickle_that_would_run_code_is_not_opened(published: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(published / "owned"),))

    (published / "llava-rad" / "adapter_model.bin").write_bytes(pickle.dumps(Payload(), protocol=2))
    with pytest.raises(CorruptWeights, match="holds more than tensors"):
        convert(published)
    assert not (published / "owned").exists()


@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_a_cut_file_is_refused(published: Path, size: int) -> None:
    path = published / "llava-rad" / "adapter_model.bin"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CorruptWeights, match=r"adapter_model\.bin"):
        convert(published)


def test_broken_json_is_refused(published: Path) -> None:
    (published / "llava-rad" / "config.json").write_text("{", "utf-8")
    with pytest.raises(CorruptWeights, match=r"config\.json is no JSON"):
        convert(published)


@pytest.mark.parametrize(
    ("file", "member", "name", "complaint"),
    [
        ("non_lora_trainables.bin", None, "base_model.model.model.mm_projector.1.weight", "left over"),
        ("non_lora_trainables.bin", None, "surprise", "left over"),
        ("biomedclipcxr_518_checkpoint.pt", "state_dict", "module.visual.trunk.reg_token", "left over"),
        ("adapter_model.bin", None, "base_model.model.lm_head.lora_A.weight", "Half of the LoRA pair"),
        ("adapter_model.bin", None, "surprise", "no LoRA tensor"),
    ],
)
def test_a_tensor_too_many_is_refused(
    published: Path, file: str, member: str | None, name: str, complaint: str
) -> None:
    edit_tensors(
        published / "llava-rad" / file, lambda state: state.update({name: torch.ones(4, 64)}), member
    )
    with pytest.raises(WeightsMismatch, match=complaint):
        convert(published)


@pytest.mark.parametrize(
    ("file", "member", "name", "complaint"),
    [
        ("non_lora_trainables.bin", None, "base_model.model.model.mm_projector.2.bias", "missing"),
        ("biomedclipcxr_518_checkpoint.pt", "state_dict", "module.visual.trunk.norm.bias", "missing"),
        (
            "adapter_model.bin",
            None,
            "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight",
            "Half of the LoRA pair",
        ),
    ],
)
def test_a_tensor_too_few_is_refused(
    published: Path, file: str, member: str | None, name: str, complaint: str
) -> None:
    edit_tensors(published / "llava-rad" / file, lambda state: state.pop(name), member)
    with pytest.raises(WeightsMismatch, match=complaint):
        convert(published)


def test_a_whole_lora_pair_that_is_missing_is_refused(published: Path) -> None:
    def drop(state: dict[str, Any]) -> None:
        for name in [name for name in state if "layers.1.mlp.up_proj" in name]:
            del state[name]

    edit_tensors(published / "llava-rad" / "adapter_model.bin", drop)
    with pytest.raises(WeightsMismatch, match="LoRA pairs are missing or left over"):
        convert(published)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("adapter_config.json", {"bias": "all"}),
        ("adapter_config.json", {"use_rslora": True}),
        ("config.json", {"mm_projector_type": "linear"}),
        ("config.json", {"hidden_size": 128}),
        ("biomedclipcxr_518.json", {"vision_cfg": {"image_size": 70}}),
    ],
    ids=str,
)
def test_a_configuration_that_contradicts_is_refused(
    published: Path, file: str, change: dict[str, Any]
) -> None:
    edit_json(published / "llava-rad" / file, **change)
    with pytest.raises(WeightsMismatch):
        convert(published)


def test_two_candidates_for_one_folder_are_refused(published: Path) -> None:
    shutil.copytree(published / "llava-rad", published / "another")
    with pytest.raises(MissingWeights, match="found in 2 folders"):
        convert(published)
