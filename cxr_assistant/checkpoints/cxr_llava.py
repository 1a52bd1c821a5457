"""CXR-LLaVA v2: one frontal chest film in; a report, a differential diagnosis or a conversation out.

ViT-L/16 at 512 pixels on one grayscale channel, one linear projector, LLaMA-2-7B-chat. Paper: Lee et al.,
European Radiology 2025;35:4374-4386, arXiv 2310.18341. Licence: CC BY-NC 4.0 and the Llama 2 Community
License. Known weakness: the released model often says nothing about a finding, and films that are not
square lose their ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_assistant.checkpoints.spec import Checkpoint, Licence, RemoteFile, TaskWording
from cxr_assistant.checkpoints.tokenizer import FolderTokenizer
from cxr_assistant.conversation import Conversation, Role
from cxr_assistant.errors import WeightsMismatch
from cxr_assistant.imaging.rendering import Rendering
from cxr_assistant.imaging.transforms import ImageSpec, ResizeRule
from cxr_assistant.study import Study, ViewPosition
from cxr_assistant.tasks import Task

if TYPE_CHECKING:
    from cxr_assistant.models.vlm import Processor, Prompt, VisionLanguageModel

__all__ = ["CHECKPOINT", "WEIGHT_MAP", "build", "convert", "render"]

# ------------------------------------------------------------------------------------------ the checkpoint

_REPOSITORY = "ECOFRI/CXR-LLAVA-v2"
_REVISION = "b2224786bb90d54b1e1291171866706cfbb44e2b"  # head of main, "Upload tokenizer"

_NAMES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
)

_SYSTEM = (  # CXR_LLAVA_HF.py, every method (ECOFRI/CXR_LLaVA, a8df56e)
    "You are a helpful radiologist. Try to interpret chest x ray image and answer to the question that user "
    "provides."
)

CHECKPOINT = Checkpoint(
    name="cxr-llava",
    title="CXR-LLaVA",
    summary="Report, differential diagnosis and questions on one frontal film, from ECOFRI.",
    repository=_REPOSITORY,
    revision=_REVISION,
    files=tuple(RemoteFile(repository=_REPOSITORY, revision=_REVISION, path=name) for name in _NAMES),
    licence=Licence(
        name="CC BY-NC 4.0; Llama 2 Community License",
        url="https://huggingface.co/ECOFRI/CXR-LLAVA-v2",
        terms=(
            "Non-commercial use only, with attribution; the Llama 2 Community License "
            "(https://ai.meta.com/llama/license) applies as well. Research only, not for clinical use."
        ),
        needs_acceptance=True,
    ),
    citation=(
        "Lee et al. CXR-LLaVA: a multimodal large language model for interpreting chest X-ray images. "
        "European Radiology 35, 4374-4386 (2025)."
    ),
    tasks={
        Task.REPORT: TaskWording(
            prompt=(
                "Write a radiologic report on the given chest radiograph, including information about "
                "atelectasis, cardiomegaly, consolidation, pulmonary edema, pleural effusion, and "
                "pneumothorax."
            )
        ),
        Task.DIFFERENTIAL: TaskWording(
            prompt="What are the possible differential diagnoses for this patient?"
        ),
        Task.QUESTION: TaskWording(prompt="{text}", hint="Any question about the film.", needs_text=True),
    },
    image=ImageSpec(
        size_px=512,  # config.json: clip_vision_cfg.image_size
        channels=1,  # conv1 has one input channel; PIL convert("L")
        mean=(0.5518136078431373,),  # config.json: image_preprocess_cfg
        std=(0.3821719215686275,),
        resize=ResizeRule.CROP_FLOOR,  # CLIPImageProcessor: offsets are floored
        resampling="lanczos",  # resample=True is the integer 1
        rendering=Rendering.DISPLAY,  # trained on display-ready 8-bit pictures of seven public sets
    ),
    max_images=1,
    views=frozenset({ViewPosition.PA, ViewPosition.AP}),
    supports_prior=False,
    supports_boxes=False,
    multi_turn=True,
    phantoms_only=False,
    context_length=2048,  # the authors' own limit; their config has no other at the top level
    can=(
        "Write a report that speaks of six common findings",
        "List differential diagnoses",
        "Answer questions and go on with a conversation",
    ),
    cannot=("Read a lateral film or compare with a prior", "Mark where something is"),
    weakness="Often says nothing about a finding, and cuts off the ends of films that are not square.",
    num_parameters=7_046_371_328,
    max_new_tokens=512,
)

# --------------------------------------------------------------------------------------------- the weights

STORED_PRECISION = "bf16"  # as published

_BLOCK, _LAYER = "vision_tower.transformer.resblocks.*", "vision_tower.encoder.layers.*"

# Stored names -> our names. None: dropped on purpose.
WEIGHT_MAP: Mapping[str, str | None] = {
    "vision_tower.proj": None,  # CLIP's own projection: computed and thrown away by the authors' code
    "vision_tower.class_embedding": "vision_tower.embeddings.class_embedding",
    "vision_tower.positional_embedding": "vision_tower.embeddings.position_embedding.weight",
    "vision_tower.conv1.weight": "vision_tower.embeddings.patch_embedding.weight",
    "vision_tower.ln_pre.*": "vision_tower.pre_layrnorm.*",  # (sic) in transformers
    f"{_BLOCK}.ln_1.*": f"{_LAYER}.layer_norm1.*",
    f"{_BLOCK}.ln_2.*": f"{_LAYER}.layer_norm2.*",
    f"{_BLOCK}.attn.in_proj_weight": f"{_LAYER}.self_attn.{{q,k,v}}_proj.weight",
    f"{_BLOCK}.attn.in_proj_bias": f"{_LAYER}.self_attn.{{q,k,v}}_proj.bias",
    f"{_BLOCK}.attn.out_proj.*": f"{_LAYER}.self_attn.out_proj.*",
    f"{_BLOCK}.mlp.c_fc.*": f"{_LAYER}.mlp.fc1.*",
    f"{_BLOCK}.mlp.c_proj.*": f"{_LAYER}.mlp.fc2.*",
    "vision_tower.ln_post.*": "vision_tower.post_layernorm.*",
    "mm_projector.*": "projector.*",
    "lm_head.weight": "language_model.lm_head.weight",
    "llama.layers.*.self_attn.rotary_emb.inv_freq": None,  # a buffer that is computed from the configuration
    "llama.*": "language_model.model.*",
}

# ---------------------------------------------------------------------------------------------- the prompt


def render(
    checkpoint: Checkpoint, study: Study, conversation: Conversation, task: Task, processor: Processor
) -> Prompt:
    """LLaMA-2's chat format, the film in front of the first question; raises MissingRadiograph.

    The literal `<s>` of the format follows the tokenizer's own: the authors' code sends both, and so do we.
    """
    from cxr_assistant.checkpoints.prompting import assemble, require_frontal

    film, tokenizer = require_frontal(study), LlamaPieces.of(processor)
    marks = {"<s>": tokenizer.id_of("<s>"), "</s>": tokenizer.id_of("</s>"), "<image>": film}
    pieces: list[Any] = []
    for piece in chat_pieces(_in_words(checkpoint, conversation, task)):
        if isinstance(piece, Mark):
            pieces.append(marks[piece])
        elif pieces and pieces[-1] is film:
            pieces += tokenizer.encode(piece)
        else:
            pieces += tokenizer.encode_after_special(piece)
    return assemble(pieces, processor)


class Mark(str):
    """A place in the rendered text that is no text: `<s>`, `</s>`, `<image>`."""


def chat_pieces(turns: Sequence[tuple[Role, str]]) -> list[str]:
    """The rendered chat, cut at its marks: joined, it is what LlamaTokenizer's old template rendered."""
    pieces: list[str] = []
    for piece in _chat(turns):
        if pieces and not isinstance(piece, Mark) and not isinstance(pieces[-1], Mark):
            pieces[-1] += piece  # tokenised as one
        else:
            pieces.append(piece)
    return pieces


class LlamaPieces(FolderTokenizer):
    """SentencePiece's Llama with both of its ways to begin a text: with and without the dummy prefix."""

    def __init__(self, directory: Path) -> None:
        from cxr_assistant.checkpoints.convert import read_json

        super().__init__(directory)
        self._is_legacy = bool(read_json(directory / "tokenizer_config.json").get("legacy", True))
        self._newline = self.encode("\n")

    @staticmethod
    def of(processor: Processor) -> LlamaPieces:
        if not isinstance(processor.tokenizer, LlamaPieces):
            raise WeightsMismatch("This folder holds no Llama tokenizer.", hint="Fetch the checkpoint again.")
        return processor.tokenizer

    def encode_after_special(self, text: str) -> list[int]:
        """Ids of text that follows a special token: only `legacy` tokenizers put the dummy prefix there."""
        if self._is_legacy:
            return self.encode(text)
        # A newline is a byte of its own and joins nothing, so it can carry the prefix and be cut off.
        return self.encode(f"\n{text}")[len(self._newline) :]


def _chat(turns: Sequence[tuple[Role, str]]) -> Iterator[str]:
    for number, (role, text) in enumerate(turns):
        if role is Role.ASSISTANT:
            yield from (f" {text.strip()} ", Mark("</s>"))
        elif number == 0:
            head = f"[INST] <<SYS>>\n{_SYSTEM}\n<</SYS>>\n\n"
            yield from (Mark("<s>"), head, Mark("<image>"), f"\n{text.rstrip()} [/INST]")
        else:
            yield from (Mark("<s>"), f"[INST] {text.strip()} [/INST]")


def _in_words(checkpoint: Checkpoint, conversation: Conversation, task: Task) -> list[tuple[Role, str]]:
    """The turns, the last question in the task's words when the person typed none."""
    turns = [(turn.role, turn.text) for turn in conversation.turns]
    if not turns or turns[-1][0] is Role.ASSISTANT or not turns[-1][1].strip():
        asked = [] if not turns or turns[-1][0] is Role.ASSISTANT else [turns.pop()]
        wording = checkpoint.tasks.get(task)
        turns.append((Role.USER, wording.prompt if wording is not None else asked[0][1] if asked else ""))
    return _merged(turns)


def _merged(turns: Sequence[tuple[Role, str]]) -> list[tuple[Role, str]]:
    """Roles alternate and a user begins, as the template demands; neighbours of one role become one turn."""
    merged: list[tuple[Role, str]] = []
    for role, text in turns:
        if merged and merged[-1][0] is role:
            merged[-1] = (role, f"{merged[-1][1]}\n{text}")
        elif merged or role is Role.USER:
            merged.append((role, text))
    return merged


# ----------------------------------------------------------------------------------------------- the model


def build(directory: Path, *, device: str, precision: str) -> VisionLanguageModel:
    """The model of a converted folder."""
    from torch import nn
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    from cxr_assistant.checkpoints.convert import read_json
    from cxr_assistant.checkpoints.streaming import empty_weights, reading_ahead, stream_in
    from cxr_assistant.models.clip_decoder import ClipDecoder
    from cxr_assistant.models.precision import lower_layers

    with reading_ahead(directory, device=device, precision=precision):
        config = read_json(directory / "config.json")
        processor = _read_processor(directory, config)
        with empty_weights():
            tower = CLIPVisionModel(CLIPVisionConfig(**config["vision_config"]))
            tower = getattr(tower, "vision_model", tower)  # older 5.x releases wrap it once more
            llama = LlamaForCausalLM(LlamaConfig(**config["text_config"]))
            projector = nn.Linear(tower.config.hidden_size, llama.config.hidden_size)
        lower_layers(llama.model.layers, precision, device)
        parts = {"vision_tower": tower, "projector": projector, "language_model": llama}
        stream_in(directory, parts, device=device, precision=precision)
    return ClipDecoder(tower, projector, llama.model, llama.lm_head, processor)


def convert(sources: Sequence[Path], target: Path, *, precision: str) -> None:
    """Published files -> our folder in `target`; raises MissingWeights, CorruptWeights or WeightsMismatch."""
    from cxr_assistant.checkpoints.convert import find_folder, read_json
    from cxr_assistant.checkpoints.tensors import copy_renamed
    from cxr_assistant.checkpoints.tokenizer import convert_sentencepiece

    folder = find_folder(sources, "tokenizer.model")
    published = read_json(folder / "config.json")
    for part in ("clip_vision_cfg", "llama"):
        if part not in published:
            raise WeightsMismatch(
                f"config.json has no {part!r} part: this is another model.", hint=f"Fetch {_REPOSITORY}."
            )
    copy_renamed(folder, target / "model.safetensors", WEIGHT_MAP, precision=precision)
    (target / "config.json").write_text(json.dumps(_our_config(published), indent=2) + "\n", "utf-8")
    legacy = {"legacy": read_json(folder / "tokenizer_config.json").get("legacy", True)}
    (target / "tokenizer_config.json").write_text(json.dumps(legacy) + "\n", "utf-8")
    convert_sentencepiece(folder / "tokenizer.model", target / "tokenizer.json", image_token="<image>")


def _our_config(published: Mapping[str, Any]) -> dict[str, Any]:
    vision, text = published["clip_vision_cfg"], published["llama"]
    width, head_width = vision["width"], vision.get("head_width", 64)  # open_clip's CLIPVisionCfg defaults
    _refuse_unknown_vision(vision)
    return {
        "model_type": "cxr-assistant-clip-llama",
        "vision_config": {
            "hidden_size": width,
            "intermediate_size": int(width * vision.get("mlp_ratio", 4.0)),
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": width // head_width,
            "num_channels": 1,
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "hidden_act": "quick_gelu" if published.get("clip_quick_gelu") else "gelu",  # exact (erf)
            "layer_norm_eps": 1e-5,
        },
        "text_config": {k: text[k] for k in _LLAMA_KEYS if text.get(k) is not None},
        "image_mean": published["image_preprocess_cfg"]["mean"],
        "image_std": published["image_preprocess_cfg"]["std"],
        "max_position_embeddings": published.get("max_position_embeddings", CHECKPOINT.context_length),
    }


_LLAMA_KEYS = (
    "attention_bias",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "mlp_bias",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
)


def _refuse_unknown_vision(vision: Mapping[str, Any]) -> None:
    """Raise WeightsMismatch for what open_clip's towers may have and this one does not compute."""
    plain = {
        "attentional_pool": False,
        "final_ln_after_pool": False,
        "ls_init_value": None,
        "no_ln_pre": False,
        "pos_embed_type": "learnable",
    }
    for key, value in plain.items():
        if vision.get(key, value) != value:
            raise WeightsMismatch(
                f"clip_vision_cfg.{key} is {vision[key]!r}; this loader knows {value!r} only."
            )


def _read_processor(directory: Path, config: Mapping[str, Any]) -> Processor:
    from cxr_assistant.models.vlm import Processor

    vision, text = config["vision_config"], config["text_config"]
    tokenizer = LlamaPieces(directory)
    return Processor(
        tokenizer=tokenizer,
        image=replace(
            CHECKPOINT.image,
            size_px=vision["image_size"],
            mean=(config["image_mean"],),
            std=(config["image_std"],),
        ),
        num_image_tokens=(vision["image_size"] // vision["patch_size"]) ** 2,
        context_length=config["max_position_embeddings"],
        # generation_config.json names no stop token; the authors stop on the text `</s>`.
        stop_token_ids=frozenset({text.get("eos_token_id", tokenizer.id_of("</s>"))}),
        bos_token_id=text.get("bos_token_id", tokenizer.id_of("<s>")),
    )
