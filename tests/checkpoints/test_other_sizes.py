"""The three layouts at other sizes than the published ones: no number may come from anywhere but the files.

Each fixture is made here: transformers' own classes with other head counts, grouped attention, eps, rope
theta, MLP ratio, shards and special tokens are filled with random numbers, saved under the published names,
and are the oracle afterwards.
"""

# I image tokens, L text tokens, D width

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cxr_assistant.checkpoints import chexagent, cxr_llava, llava_rad
from cxr_assistant.checkpoints.random_tokenizers import write_byte_level_bpe, write_sentencepiece
from cxr_assistant.checkpoints.spec import get_checkpoint
from cxr_assistant.conversation import Conversation
from cxr_assistant.models.vlm import Prompt, VisionLanguageModel
from cxr_assistant.study import Radiograph, Study, ViewPosition
from cxr_assistant.tasks import Task

STUDY = Study((Radiograph(np.arange(4096, dtype=np.uint16).reshape(64, 64) % 251, 8, view=ViewPosition.PA),))
QUESTION = Conversation().ask("Is there a nodule?")
LLAMA = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-4,
    "rope_theta": 700.0,
    "max_position_embeddings": 1024,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}


@dataclass
class Layout:
    """A published folder, and what its authors' model would say: prompt and pixels -> logits (L + I, V)."""

    folder: Path
    oracle: Callable[[Prompt], Tensor]


def randomised(module: Any, seed: int) -> Any:
    """Numbers that matter: large enough for every part to move the logits, norms not left at one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.15 * noise if parameter.ndim > 1 else 0.7 + 0.2 * noise)
    return module.eval()


def saved_in_shards(folder: Path, tensors: Mapping[str, Tensor], num_shards: int) -> None:
    """Tensors dealt out to shards, so that neighbours lie in different files."""
    index: dict[str, str] = {}
    for number in range(num_shards):
        name = f"model-{number + 1:05d}-of-{num_shards:05d}.safetensors"
        mine = dict(list(tensors.items())[number::num_shards])
        save_file({key: tensor.contiguous() for key, tensor in mine.items()}, folder / name)
        index |= dict.fromkeys(mine, name)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content), "utf-8")


def spliced(prompt: Prompt, embed: nn.Module, image_ID: Tensor) -> Tensor:
    """Text and image embeddings in order, (1, L + I, D)."""
    (span,) = prompt.image_spans
    before, after = prompt.token_ids[: span.start], prompt.token_ids[span.stop :]
    return torch.cat([embed(torch.tensor(before)), image_ID, embed(torch.tensor(after))])[None]


def renamed(state: Mapping[str, Tensor], *steps: tuple[str, str]) -> dict[str, Tensor]:
    def name_of(name: str) -> str:
        for pattern, target in steps:
            name = re.sub(pattern, target, name)
        return name

    return {name_of(name): tensor for name, tensor in state.items()}


def stacked(state: dict[str, Tensor], separate: str, joined: str) -> dict[str, Tensor]:
    """Query, key and value of every attention in one table, under the authors' name for it."""
    for block in {name.split(".attn.")[0] for name in state if ".attn." in name}:
        for leaf in ("weight", "bias"):
            parts = [state.pop(f"{block}.attn.{separate.format(part=part, leaf=leaf)}") for part in "qkv"]
            state[f"{block}.attn.{joined.format(leaf=leaf)}"] = torch.cat(parts)
    return state


# -------------------------------------------------------------------- CXR-LLaVA


def make_cxr_llava(folder: Path) -> Layout:
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    vision = {"image_size": 40, "patch_size": 8, "width": 96, "layers": 3, "head_width": 24, "mlp_ratio": 2.5}
    clip: Any = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=96,
            intermediate_size=240,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_channels=1,
            image_size=40,
            patch_size=8,
            hidden_act="gelu",
        )
    )
    tower = randomised(getattr(clip, "vision_model", clip), 1)
    projector, llama = (
        randomised(nn.Linear(96, 96), 2),
        LlamaForCausalLM(LlamaConfig(**LLAMA, vocab_size=520)),
    )
    randomised(llama, 3)
    saved_in_shards(
        folder, {**open_clip_names(tower), **llama_names(llama), **named("mm_projector", projector)}, 5
    )
    write_json(
        folder / "config.json",
        {
            "model_type": "CXR-LLAVA",
            "clip_vision_cfg": vision,
            "image_preprocess_cfg": {"mean": 0.4, "std": 0.3},
            "llama": {**LLAMA, "vocab_size": 520},
        },
    )
    write_json(folder / "tokenizer_config.json", {"add_bos_token": True, "legacy": True})
    write_sentencepiece(folder / "tokenizer.model", 500)

    def oracle(prompt: Prompt) -> Tensor:
        hidden = tower.pre_layrnorm(tower.embeddings(torch.tensor(prompt.pixel_values)))
        features = tower.post_layernorm(tower.encoder(inputs_embeds=hidden).last_hidden_state)[0, 1:]
        embeds = spliced(prompt, llama.get_input_embeddings(), projector(features))
        return llama(inputs_embeds=embeds).logits[0]

    return Layout(folder, oracle)


def open_clip_names(tower: Any) -> dict[str, Tensor]:
    """open_clip keeps query, key and value in one table, and has a projection that nobody uses."""
    state = renamed(
        tower.state_dict(),
        (r"^embeddings\.class_embedding", "class_embedding"),
        (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
        (r"^embeddings\.patch_embedding", "conv1"),
        (r"^pre_layrnorm", "ln_pre"),
        (r"^post_layernorm", "ln_post"),
        (r"^encoder\.layers", "transformer.resblocks"),
        (r"self_attn", "attn"),
        (r"layer_norm(\d)", r"ln_\1"),
        (r"mlp\.fc1", "mlp.c_fc"),
        (r"mlp\.fc2", "mlp.c_proj"),
    )
    state = {name: tensor for name, tensor in state.items() if "position_ids" not in name}
    state = stacked(state, "{part}_proj.{leaf}", "in_proj_{leaf}")
    state["proj"] = torch.randn(96, 16)
    return {f"vision_tower.{name}": tensor for name, tensor in state.items()}


def llama_names(llama: Any) -> dict[str, Tensor]:
    return renamed(llama.state_dict(), (r"^model\.", "llama."))


def named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


# -------------------------------------------------------------------- CheXagent


def make_chexagent(folder: Path) -> Layout:
    from transformers import PhiConfig, PhiForCausalLM, SiglipVisionConfig, SiglipVisionModel

    vision = {
        "hidden_size": 60,
        "intermediate_size": 100,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "image_size": 48,
        "patch_size": 8,
    }
    text = {
        "hidden_size": 80,
        "intermediate_size": 144,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "partial_rotary_factor": 0.6,
        "layer_norm_eps": 1e-3,
        "rope_theta": 300.0,
        "hidden_act": "gelu_new",
        "max_position_embeddings": 96,  # shorter than the prompt: positions go on without a table
        "vocab_size": 500,
        "tie_word_embeddings": False,
        "bos_token_id": 379,
        "eos_token_id": 379,
    }
    siglip: Any = SiglipVisionModel(SiglipVisionConfig(**vision))
    siglip = getattr(siglip, "vision_model", siglip)
    tower, phi = randomised(siglip, 1), randomised(PhiForCausalLM(PhiConfig(**text)), 2)
    table, matrix = torch.randn(36, 60) * 0.3, torch.randn(80, 80) * 0.15
    pool = randomised(nn.Sequential(nn.Linear(60, 128), nn.GELU(), nn.Linear(128, 80)), 3)
    norm = randomised(nn.LayerNorm(80, eps=1e-6), 4)
    tensors = {
        **phi.state_dict(),
        **{f"model.visual.model.{name}": t for name, t in tower.state_dict().items() if "ids" not in name},
        **named("model.visual.attn_pool", pool),
        **named("model.visual.ln_post", norm),
        "model.visual.pos_embed": table,
        "model.visual.proj": matrix,
    }
    saved_in_shards(folder, tensors, 4)
    visual = {"image_size": 48, "output_dim": 80}
    write_json(folder / "config.json", {**text, "model_type": "phi", "visual": visual})
    write_json(folder / "generation_config.json", {"eos_token_id": 379})
    write_byte_level_bpe(folder, 380)
    (folder / "tower").mkdir()
    write_json(folder / "tower" / "config.json", {"model_type": "siglip", "vision_config": vision})
    write_json(
        folder / "tower" / "preprocessor_config.json", {"image_mean": [0.4] * 3, "image_std": [0.6] * 3}
    )

    def oracle(prompt: Prompt) -> Tensor:
        hidden = tower.embeddings(torch.tensor(prompt.pixel_values))
        features = tower.encoder(inputs_embeds=hidden).last_hidden_state[0]
        image = norm(pool(features + table)) @ matrix
        return phi(inputs_embeds=spliced(prompt, phi.get_input_embeddings(), image)).logits[0]

    return Layout(folder, oracle)


# -------------------------------------------------------------------- LLaVA-Rad


def make_llava_rad(folder: Path) -> Layout:
    from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

    vision = Dinov2Config(
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=3,
        mlp_ratio=2,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        image_size=42,
        patch_size=7,
        qkv_bias=True,
    )
    tower: Any = randomised(Dinov2Model(vision), 1)
    llama: Any = randomised(LlamaForCausalLM(LlamaConfig(**LLAMA, vocab_size=416)), 2)
    projector = randomised(nn.Sequential(nn.Linear(192, 96), nn.GELU(), nn.Linear(96, 96)), 3)
    adapter, base = folder / "adapter", folder / "base"
    adapter.mkdir()
    base.mkdir()
    published = {**LLAMA, "vocab_size": 416, "model_type": "llava"}
    write_json(
        adapter / "config.json",
        {
            **published,
            "mm_hidden_size": 192,
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -3,
            "mm_vision_tower_checkpoint": "tower_checkpoint.pt",
        },
    )
    write_json(adapter / "tower.json", {"vision_cfg": {"timm_model_name": "vit", "image_size": 42}})
    write_json(
        adapter / "adapter_config.json",
        {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"], "bias": "none"},
    )
    state = {f"visual.trunk.{name}": tensor for name, tensor in timm_names(tower).items()}
    torch.save({"state_dict": {f"module.{n}": t for n, t in state.items()}}, adapter / "tower_checkpoint.pt")
    stored = {f"base_model.model.model.mm_projector.{n}": t for n, t in projector.state_dict().items()}
    torch.save(stored, adapter / "non_lora_trainables.bin")
    shards = list(llama.state_dict().items())
    for number in range(3):
        torch.save(dict(shards[number::3]), base / f"pytorch_model-{number + 1:05d}-of-00003.bin")
    write_json(base / "config.json", published)
    write_json(base / "tokenizer_config.json", {"add_bos_token": True, "legacy": True})
    write_sentencepiece(base / "tokenizer.model", 400)  # fewer than the table of embeddings has rows
    torch.save(
        adapted(llama, ("q_proj", "v_proj", "down_proj"), rank=2, scale=3.0), adapter / "adapter_model.bin"
    )

    def oracle(prompt: Prompt) -> Tensor:
        pixels = torch.tensor(prompt.pixel_values)
        features = tower(pixels, output_hidden_states=True).hidden_states[-3][0, 1:]
        embeds = spliced(prompt, llama.get_input_embeddings(), projector(features))
        return llama(inputs_embeds=embeds).logits[0]

    return Layout(folder, oracle)


def timm_names(tower: Any) -> dict[str, Tensor]:
    """timm's names, query, key and value in one table; without the mask token, which only training uses."""
    state = renamed(
        tower.state_dict(),
        (r"^embeddings\.cls_token", "cls_token"),
        (r"^embeddings\.position_embeddings", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
        (r"^layernorm", "norm"),
        (r"^encoder\.layer", "blocks"),
        (r"attention\.(attention\.)?(q|query)(_proj)?\.", "attn.q."),
        (r"attention\.(attention\.)?(k|key)(_proj)?\.", "attn.k."),
        (r"attention\.(attention\.)?(v|value)(_proj)?\.", "attn.v."),
        (r"attention\.(o_proj|output\.dense)", "attn.proj"),
        (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    )
    state.pop("embeddings.mask_token", None)
    return stacked(state, "{part}.{leaf}", "qkv.{leaf}")


def adapted(llama: Any, targets: Sequence[str], *, rank: int, scale: float) -> dict[str, Tensor]:
    """LoRA pairs of `targets`, as stored; the oracle gets their product added."""
    pairs: dict[str, Tensor] = {}
    for name, module in llama.named_modules():
        if name.split(".")[-1] in targets:
            rows, columns = module.weight.shape
            narrow, wide = torch.randn(rank, columns) * 0.1, torch.randn(rows, rank) * 0.1
            pairs[f"base_model.model.{name}.lora_A.weight"] = narrow
            pairs[f"base_model.model.{name}.lora_B.weight"] = wide
            module.weight.data += scale * wide @ narrow
    return pairs


# -------------------------------------------------------------------- the tests


FAMILIES: dict[str, tuple[Any, Callable[[Path], Layout]]] = {
    "chexagent": (chexagent, make_chexagent),
    "cxr-llava": (cxr_llava, make_cxr_llava),
    "llava-rad": (llava_rad, make_llava_rad),
}


@dataclass
class Loaded:
    """A layout of other sizes, through the loader that a real checkpoint takes."""

    layout: Layout
    model: VisionLanguageModel
    prompt: Prompt


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    module, make = FAMILIES[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        layout = make(tmp_path_factory.mktemp("published"))
    target = tmp_path_factory.mktemp("converted")
    module.convert([layout.folder], target, precision="fp32")
    model = module.build(target, device="cpu", precision="fp32")
    checkpoint = get_checkpoint(request.param)
    prompt = module.render(checkpoint, STUDY, QUESTION, Task.QUESTION, model.processor)
    return Loaded(layout, model, prompt)


@torch.inference_mode()
def test_logits_are_those_of_the_stock_classes_at_every_position(loaded: Loaded) -> None:
    model, prompt = loaded.model, loaded.prompt
    found = model.score(prompt, model.encode(prompt.pixel_values), model.new_cache(len(prompt)))
    expected = loaded.layout.oracle(prompt)
    torch.testing.assert_close(found[:, : expected.shape[1]], expected, rtol=0, atol=1e-3)
    assert float(expected.std()) > 0.1  # the numbers say something


@torch.inference_mode()
def test_another_picture_is_another_answer(loaded: Loaded) -> None:
    model, prompt = loaded.model, loaded.prompt
    other = replace(prompt, pixel_values=-prompt.pixel_values)
    first, second = (
        model.score(p, model.encode(p.pixel_values), model.new_cache(len(p)))[-1] for p in (prompt, other)
    )
    assert float((first - second).abs().max()) > 0.01
    assert float((loaded.layout.oracle(prompt)[-1] - loaded.layout.oracle(other)[-1]).abs().max()) > 0.01
