"""The published layouts as lists of files, names and shapes, at any size.

Knows what each family's repository looks like; knows no numbers and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cxr_assistant.checkpoints.random_sizes import Sizes
from cxr_assistant.checkpoints.spec import Checkpoint
from cxr_assistant.checkpoints.tensors import TensorSpec

__all__ = ["Layout", "family_of", "layout_of"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One repository's folder. pickles: file name -> tensors; members: the dictionary they lie in."""

    folder: str
    json_files: Mapping[str, Any] = field(default_factory=dict)
    safetensors: tuple[TensorSpec, ...] = ()
    pickles: Mapping[str, tuple[TensorSpec, ...]] = field(default_factory=dict)
    members: Mapping[str, str] = field(default_factory=dict)
    sentencepiece_size: int = 0
    byte_level_size: int = 0


LORA_RANK, LORA_ALPHA = 64, 128
_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_PHI_BASE_VOCABULARY = 50_257


def layout_of(checkpoint: Checkpoint, sizes: Sizes) -> tuple[Layout, ...]:
    """One layout per repository, in the order of the checkpoint's files."""
    families = {"llava-rad": _llava_rad, "chexagent": _chexagent, "cxr-llava": _cxr_llava}
    return families[family_of(checkpoint)](sizes)


def family_of(checkpoint: Checkpoint) -> str:
    """The name of the checkpoint whose layout this one has: fine-tunes are published as their parent is."""
    return checkpoint.name.split("-srrg-")[0]


# -------------------------------------------------------------------- LLaVA-Rad


def _llava_rad(s: Sizes) -> tuple[Layout, ...]:
    llama, tower = _llama_config(s, "float16"), "biomedclipcxr_518_checkpoint.pt"
    adapter = Layout(
        folder="llava-rad",
        json_files={
            "config.json": {
                **llama,
                "model_type": "llava",
                "mm_hidden_size": s.vision_width,
                "mm_projector_type": "mlp2x_gelu",
                "mm_use_im_patch_token": False,
                "mm_use_im_start_end": False,
                "mm_vision_select_feature": "patch",
                "mm_vision_select_layer": -2,
                "mm_vision_tower": "biomedclip_cxr_518",
                "mm_vision_tower_checkpoint": tower,
                "image_aspect_ratio": "square",
            },
            "adapter_config.json": {
                "base_model_name_or_path": "lmsys/vicuna-7b-v1.5",
                "bias": "none",
                "fan_in_fan_out": False,
                "lora_alpha": LORA_ALPHA,
                "lora_dropout": 0.05,
                "modules_to_save": None,
                "peft_type": "LORA",
                "r": LORA_RANK,
                "target_modules": list(_TARGETS),
                "task_type": "CAUSAL_LM",
            },
            "biomedclipcxr_518.json": {
                "embed_dim": 512,
                "vision_cfg": {
                    "timm_model_name": "vit_base_patch14_dinov2.lvd142m",
                    "timm_model_pretrained": False,
                    "timm_pool": "",
                    "timm_proj": "linear",
                    "image_size": s.image_size,
                },
            },
        },
        pickles={
            "adapter_model.bin": tuple(_lora(s)),
            "non_lora_trainables.bin": tuple(_llava_projector(s)),
            tower: tuple(_timm_tower(s)),
        },
        members={tower: "state_dict"},
    )
    weights = tuple(_llama(s, "F16", "model.", "lm_head.weight"))
    half = next(i for i, spec in enumerate(weights) if f"layers.{3 * s.layers // 4}." in spec.name)
    base = Layout(
        folder="vicuna-7b-v1.5",
        json_files={
            "config.json": llama,
            "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
            "tokenizer_config.json": {"add_bos_token": True, "add_eos_token": False, "legacy": False},
        },
        pickles={
            "pytorch_model-00001-of-00002.bin": weights[:half],
            "pytorch_model-00002-of-00002.bin": weights[half:],
        },
        sentencepiece_size=s.vocab,
    )
    return adapter, base


def _lora(s: Sizes) -> Iterator[TensorSpec]:
    for name, (rows, columns) in _llama_linears(s):
        prefix = f"base_model.model.model.{name}"
        yield TensorSpec(f"{prefix}.lora_A.weight", (LORA_RANK, columns), "BF16")
        yield TensorSpec(f"{prefix}.lora_B.weight", (rows, LORA_RANK), "BF16")


def _llava_projector(s: Sizes) -> Iterator[TensorSpec]:
    prefix = "base_model.model.model.mm_projector"
    for number, columns in ((0, s.vision_width), (2, s.width)):
        yield TensorSpec(f"{prefix}.{number}.weight", (s.width, columns), "BF16")
        yield TensorSpec(f"{prefix}.{number}.bias", (s.width,), "BF16")


def _timm_tower(s: Sizes) -> Iterator[TensorSpec]:
    w, m = s.vision_width, s.vision_mlp
    trunk = "module.visual.trunk"
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, w),
        "pos_embed": (1, s.num_patches + 1, w),
        "patch_embed.proj.weight": (w, 3, s.patch_size, s.patch_size),
        "patch_embed.proj.bias": (w,),
        "norm.weight": (w,),
        "norm.bias": (w,),
    }
    for i in range(s.vision_layers):
        block = {
            "attn.qkv": (3 * w, w),
            "attn.proj": (w, w),
            "mlp.fc1": (m, w),
            "mlp.fc2": (w, m),
        }
        shapes |= {f"blocks.{i}.{n}.weight": shape for n, shape in block.items()}
        shapes |= {f"blocks.{i}.{n}.bias": shape[:1] for n, shape in block.items()}
        shapes |= {
            f"blocks.{i}.{n}": (w,) for n in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")
        }
        shapes |= {f"blocks.{i}.{n}.gamma": (w,) for n in ("ls1", "ls2")}
    yield from (TensorSpec(f"{trunk}.{name}", shape, "F32") for name, shape in shapes.items())
    yield TensorSpec("module.visual.head.proj.weight", (512, w), "F32")


# -------------------------------------------------------------------- CheXagent


def _chexagent(s: Sizes) -> tuple[Layout, ...]:
    base = min(_PHI_BASE_VOCABULARY, s.vocab - 112)
    config = {
        "architectures": ["CheXagentForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_chexagent.CheXagentForCausalLM"},
        "bos_token_id": base - 1,
        "eos_token_id": base - 1,
        "hidden_act": "gelu_new",
        "hidden_size": s.width,
        "intermediate_size": s.mlp,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048,
        "model_type": "phi",
        "num_attention_heads": s.heads,
        "num_hidden_layers": s.layers,
        "num_key_value_heads": s.heads,
        "partial_rotary_factor": 0.4,
        "qk_layernorm": False,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "visual": {"image_size": s.image_size, "output_dim": s.width},
        "vocab_size": s.vocab,
    }
    vision = {
        "hidden_size": s.vision_width,
        "image_size": s.image_size,
        "intermediate_size": s.vision_mlp,
        "num_attention_heads": s.vision_heads,
        "num_hidden_layers": s.vision_layers,
        "patch_size": s.patch_size,
    }
    return (
        Layout(
            folder="CheXagent-2-3b",
            json_files={"config.json": config, "generation_config.json": {"eos_token_id": base - 1}},
            safetensors=(*_phi(s), *_siglip(s), *_chexagent_projector(s)),
            byte_level_size=base,
        ),
        Layout(
            folder="XraySigLIP__vit-l-16-siglip-384__webli",
            json_files={
                "config.json": {"model_type": "siglip", "vision_config": vision},
                "preprocessor_config.json": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3},
            },
        ),
    )


def _phi(s: Sizes) -> Iterator[TensorSpec]:
    def linear(name: str, rows: int, columns: int) -> Iterator[TensorSpec]:
        yield TensorSpec(f"{name}.weight", (rows, columns), "F32")
        yield TensorSpec(f"{name}.bias", (rows,), "F32")

    yield TensorSpec("model.embed_tokens.weight", (s.vocab, s.width), "F32")
    for i in range(s.layers):
        prefix = f"model.layers.{i}"
        yield from _norm(f"{prefix}.input_layernorm", s.width)
        for name in ("q_proj", "k_proj", "v_proj", "dense"):
            yield from linear(f"{prefix}.self_attn.{name}", s.width, s.width)
        yield from linear(f"{prefix}.mlp.fc1", s.mlp, s.width)
        yield from linear(f"{prefix}.mlp.fc2", s.width, s.mlp)
    yield from _norm("model.final_layernorm", s.width)
    yield from linear("lm_head", s.vocab, s.width)


def _siglip(s: Sizes) -> Iterator[TensorSpec]:
    w, m, prefix = s.vision_width, s.vision_mlp, "model.visual.model"
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.patch_embedding.weight": (w, 3, s.patch_size, s.patch_size),
        "embeddings.patch_embedding.bias": (w,),
        "embeddings.position_embedding.weight": (s.num_patches, w),
        "head.probe": (1, 1, w),
        "head.attention.in_proj_weight": (3 * w, w),
        "head.attention.in_proj_bias": (3 * w,),
    }
    linears = {"head.attention.out_proj": (w, w), "head.mlp.fc1": (m, w), "head.mlp.fc2": (w, m)}
    norms = ["post_layernorm", "head.layernorm"]
    for i in range(s.vision_layers):
        layer = f"encoder.layers.{i}"
        linears |= {f"{layer}.self_attn.{n}_proj": (w, w) for n in ("q", "k", "v", "out")}
        linears |= {f"{layer}.mlp.fc1": (m, w), f"{layer}.mlp.fc2": (w, m)}
        norms += [f"{layer}.layer_norm1", f"{layer}.layer_norm2"]
    shapes |= {f"{n}.weight": shape for n, shape in linears.items()}
    shapes |= {f"{n}.bias": shape[:1] for n, shape in linears.items()}
    yield from (TensorSpec(f"{prefix}.{name}", shape, "F32") for name, shape in shapes.items())
    for name in norms:
        yield from _norm(f"{prefix}.{name}", w)


def _chexagent_projector(s: Sizes) -> Iterator[TensorSpec]:
    hidden = 4 * s.width  # 10240 of 2560
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (s.num_patches, s.vision_width),
        "attn_pool.0.weight": (hidden, s.vision_width),
        "attn_pool.0.bias": (hidden,),
        "attn_pool.2.weight": (s.width, hidden),
        "attn_pool.2.bias": (s.width,),
        "proj": (s.width, s.width),
    }
    yield from (TensorSpec(f"model.visual.{name}", shape, "F32") for name, shape in shapes.items())
    yield from _norm("model.visual.ln_post", s.width)


def _norm(name: str, width: int) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{name}.weight", (width,), "F32")
    yield TensorSpec(f"{name}.bias", (width,), "F32")


# -------------------------------------------------------------------- CXR-LLaVA


def _cxr_llava(s: Sizes) -> tuple[Layout, ...]:
    config = {
        "architectures": ["CXRLLAVAModel"],
        "auto_map": {"AutoModel": "CXR_LLAVA_HF.CXRLLAVAModel"},
        "clip_embed_dim": 128,
        "clip_quick_gelu": False,
        "clip_vision_cfg": {
            "image_size": s.image_size,
            "layers": s.vision_layers,
            "patch_size": s.patch_size,
            "width": s.vision_width,
            "head_width": s.vision_width // s.vision_heads,
        },
        "image_preprocess_cfg": {"mean": 0.5518136078431373, "std": 0.3821719215686275},
        "llama": _llama_config(s, "bfloat16"),
        "model_type": "CXR-LLAVA",
    }
    return (
        Layout(
            folder="CXR-LLAVA-v2",
            json_files={
                "config.json": config,
                "generation_config.json": {"_from_model_config": True},
                "tokenizer_config.json": {"add_bos_token": True, "legacy": False},
                "special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
            },
            safetensors=(*_open_clip(s), *_llama(s, "BF16", "llama.", "lm_head.weight")),
            sentencepiece_size=s.vocab,
        ),
    )


def _open_clip(s: Sizes) -> Iterator[TensorSpec]:
    w, m = s.vision_width, s.vision_mlp
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (w,),
        "positional_embedding": (s.num_patches + 1, w),
        "proj": (w, 128),
        "conv1.weight": (w, 1, s.patch_size, s.patch_size),
    }
    norms = ["ln_pre", "ln_post"]
    linears: dict[str, tuple[int, int]] = {}
    for i in range(s.vision_layers):
        block = f"transformer.resblocks.{i}"
        shapes |= {f"{block}.attn.in_proj_weight": (3 * w, w), f"{block}.attn.in_proj_bias": (3 * w,)}
        linears |= {
            f"{block}.attn.out_proj": (w, w),
            f"{block}.mlp.c_fc": (m, w),
            f"{block}.mlp.c_proj": (w, m),
        }
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
    shapes |= {f"{n}.weight": shape for n, shape in linears.items()}
    shapes |= {f"{n}.bias": shape[:1] for n, shape in linears.items()}
    shapes |= {f"{n}.{leaf}": (w,) for n in norms for leaf in ("weight", "bias")}
    yield from (TensorSpec(f"vision_tower.{name}", shape, "BF16") for name, shape in shapes.items())
    yield TensorSpec("mm_projector.weight", (s.width, w), "BF16")
    yield TensorSpec("mm_projector.bias", (s.width,), "BF16")


# -------------------------------------------------------------------- Llama, in two of the three


def _llama_config(s: Sizes, dtype: str) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": s.width,
        "intermediate_size": s.mlp,
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "num_attention_heads": s.heads,
        "num_hidden_layers": s.layers,
        "num_key_value_heads": s.heads,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "vocab_size": s.vocab,
    }


def _llama(s: Sizes, dtype: str, prefix: str, head: str) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{prefix}embed_tokens.weight", (s.vocab, s.width), dtype)
    linears = dict(_llama_linears(s))
    for i in range(s.layers):
        for target in _TARGETS:
            name = f"layers.{i}.{_block_of(target)}.{target}"
            yield TensorSpec(f"{prefix}{name}.weight", linears[name], dtype)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield TensorSpec(f"{prefix}layers.{i}.{norm}.weight", (s.width,), dtype)
    yield TensorSpec(f"{prefix}norm.weight", (s.width,), dtype)
    yield TensorSpec(head, (s.vocab, s.width), dtype)


def _llama_linears(s: Sizes) -> Iterator[tuple[str, tuple[int, int]]]:
    shapes = {"gate_proj": (s.mlp, s.width), "up_proj": (s.mlp, s.width), "down_proj": (s.width, s.mlp)}
    for i in range(s.layers):
        for target in _TARGETS:
            yield f"layers.{i}.{_block_of(target)}.{target}", shapes.get(target, (s.width, s.width))


def _block_of(target: str) -> str:
    return "mlp" if target in ("gate_proj", "up_proj", "down_proj") else "self_attn"
