"""LLaVA-Rad: one frontal chest film in, the findings section of a report out.

Reads a frontal radiograph and, optionally, the reason for the exam; writes English findings in the style
of MIMIC-CXR. BiomedCLIP-CXR tower (DINOv2 ViT-B/14 at 518 pixels), two-layer projector, Vicuna 7B with a
merged LoRA. Paper: Zambrano Chaves et al., Nature Communications 16, 3108 (2025), arXiv 2403.08002.
Licence: Microsoft Research License, research only, neither weights nor a merged copy may be passed on.
Known weakness: the ends of a film that is not square are cut off, and anything outside one adult frontal
film still yields a fluent report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_assistant.checkpoints.spec import Checkpoint, Licence, RemoteFile, TaskWording
from cxr_assistant.conversation import Conversation
from cxr_assistant.errors import WeightsMismatch
from cxr_assistant.imaging.rendering import Rendering
from cxr_assistant.imaging.transforms import ImageSpec, ResizeRule
from cxr_assistant.study import Study, ViewPosition
from cxr_assistant.tasks import Task

if TYPE_CHECKING:
    from cxr_assistant.checkpoints.convert import LazyTensor
    from cxr_assistant.models.vlm import Processor, Prompt, VisionLanguageModel

__all__ = ["CHECKPOINT", "WEIGHT_MAP", "build", "convert", "render"]

# ------------------------------------------------------------------------------------------ the checkpoint

_REPOSITORY = "microsoft/llava-rad"
_REVISION = "dcdbc6caf6806c9acb66e12a827a39c86e00f6a7"  # head on 2026-09-17
_BASE = "lmsys/vicuna-7b-v1.5"
_BASE_REVISION = "3321f76e3f527bd14065daf69dad9344000a201d"

_FILES = (
    "config.json",
    "adapter_config.json",
    "adapter_model.bin",
    "non_lora_trainables.bin",
    "biomedclipcxr_518.json",
    "biomedclipcxr_518_checkpoint.pt",
)
_BASE_FILES = (
    "config.json",
    "pytorch_model-00001-of-00002.bin",
    "pytorch_model-00002-of-00002.bin",
    "tokenizer.model",
    "tokenizer_config.json",
)

_QUERY = "Provide a description of the findings in the radiology image."  # LLaVA-Rad utils.py, 1fc4409
_QUERY_WITH_REASON = (  # same source; no full stop is added after the reason
    "Provide a description of the findings in the radiology image given the following indication: {reason}"
)
_SYSTEM = (  # conversation.py, template "v1", which the published evaluation uses (eval.sh)
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

CHECKPOINT = Checkpoint(
    name="llava-rad",
    title="LLaVA-Rad",
    summary="Findings of one frontal chest radiograph, from Microsoft Research.",
    repository=_REPOSITORY,
    revision=_REVISION,
    files=(
        *(RemoteFile(repository=_REPOSITORY, revision=_REVISION, path=name) for name in _FILES),
        *(RemoteFile(repository=_BASE, revision=_BASE_REVISION, path=name) for name in _BASE_FILES),
    ),
    licence=Licence(
        name="Microsoft Research License; Llama 2 Community License",
        url="https://huggingface.co/microsoft/llava-rad",
        terms=(
            "Non-commercial research only. The model may be used but not redistributed, merged copies "
            "included, and not be offered to others as a stand-alone hosted service. Not for clinical care."
        ),
        needs_acceptance=True,
    ),
    citation=(
        "Zambrano Chaves et al. A clinically accessible small multimodal radiology model and evaluation "
        "metric for chest X-ray findings. Nature Communications 16, 3108 (2025)."
    ),
    tasks={
        Task.FINDINGS: TaskWording(
            prompt=_QUERY,
            hint="The reason for the exam, when given, is added in the words used in training.",
        )
    },
    image=ImageSpec(
        size_px=518,  # biomedclipcxr_518.json
        channels=3,  # convert("RGB"), open_clip 2.23 image_transform_v2
        mean=(0.48145466, 0.4578275, 0.40821073),  # OpenAI CLIP, open_clip's default
        std=(0.26862954, 0.26130258, 0.27577711),
        resize=ResizeRule.CROP,  # "square" in image_aspect_ratio means: not padded
        resampling="bicubic",  # on 8 bits, PIL
        rendering=Rendering.MIMIC_CXR_JPG,  # trained on MIMIC-CXR-JPG, PhysioNet description
    ),
    max_images=1,
    views=frozenset({ViewPosition.PA, ViewPosition.AP}),  # trained on frontal images alone (PhysioNet)
    supports_prior=False,
    supports_boxes=False,
    multi_turn=False,
    phantoms_only=False,
    context_length=4096,  # max_position_embeddings of Vicuna
    can=(
        "Write the findings of one frontal film (PA or AP) of an adult",
        "Take the reason for the exam into account",
    ),
    cannot=(
        "Write an impression, answer questions or hold a conversation",
        "Read a lateral film or compare with a prior",
        "Mark where something is",
    ),
    weakness=(
        "Cuts off the ends of films that are not square, and may speak of change although it sees no prior; "
        "third parties report misses on abnormal studies and wrong lobes."
    ),
    # Vicuna 6,738,415,616 + tower 86,579,712 + projector 19,931,136
    num_parameters=6_844_926_464,
    max_new_tokens=256,  # eval.sh
)

# --------------------------------------------------------------------------------------------- the weights

_BLOCK, _LAYER = "visual.trunk.blocks.*", "vision_tower.encoder.layer.*"
_QKV = "attention.attention.{query,key,value}"

# Stored names (after "module." and "base_model.model.") -> names of transformers' LLaVA folder.
# None: dropped on purpose.
WEIGHT_MAP: Mapping[str, str | None] = {
    "visual.trunk.cls_token": "vision_tower.embeddings.cls_token",
    "visual.trunk.pos_embed": "vision_tower.embeddings.position_embeddings",
    "visual.trunk.patch_embed.proj.*": "vision_tower.embeddings.patch_embeddings.projection.*",
    f"{_BLOCK}.attn.qkv.*": f"{_LAYER}.{_QKV}.*",
    f"{_BLOCK}.attn.proj.*": f"{_LAYER}.attention.output.dense.*",
    f"{_BLOCK}.norm1.*": f"{_LAYER}.norm1.*",
    f"{_BLOCK}.norm2.*": f"{_LAYER}.norm2.*",
    f"{_BLOCK}.ls1.gamma": f"{_LAYER}.layer_scale1.lambda1",
    f"{_BLOCK}.ls2.gamma": f"{_LAYER}.layer_scale2.lambda1",
    f"{_BLOCK}.mlp.fc1.*": f"{_LAYER}.mlp.fc1.*",
    f"{_BLOCK}.mlp.fc2.*": f"{_LAYER}.mlp.fc2.*",
    "visual.trunk.norm.*": "vision_tower.layernorm.*",  # stored, never used by LLaVA-Rad
    "visual.head.*": None,  # CLIP's image projection
    "text.*": None,  # CLIP's text tower
    "logit_scale": None,
    "logit_bias": None,
    "model.mm_projector.0.*": "multi_modal_projector.linear_1.*",
    "model.mm_projector.2.*": "multi_modal_projector.linear_2.*",
    "model.layers.*.self_attn.rotary_emb.inv_freq": None,  # a buffer that is computed from the configuration
    "model.*": "language_model.model.*",
    "lm_head.weight": "language_model.lm_head.weight",
    # Made at conversion, without a source:
    "vision_tower.embeddings.mask_token": "vision_tower.embeddings.mask_token",
}

# ---------------------------------------------------------------------------------------------- the prompt


def render(
    checkpoint: Checkpoint, study: Study, conversation: Conversation, task: Task, processor: Processor
) -> Prompt:
    """Template "v1": system sentence, then one user turn with the film in front of the query.

    Findings are asked in the words of training, with the reason for the exam where there is one; any other
    words of a person are passed on as they are. Raises MissingRadiograph without a frontal film.
    """
    from cxr_assistant.checkpoints.prompting import assemble, require_frontal

    query = _query(checkpoint, study, conversation, task)
    return assemble((f"{_SYSTEM} USER: ", require_frontal(study), f"\n{query} ASSISTANT:"), processor)


def _query(checkpoint: Checkpoint, study: Study, conversation: Conversation, task: Task) -> str:
    asked = conversation.last_question
    standard = checkpoint.tasks[Task.FINDINGS].prompt
    if asked not in ("", standard):
        return asked
    return _QUERY_WITH_REASON.format(reason=study.indication) if study.indication else standard


# ----------------------------------------------------------------------------------------------- the model


def build(directory: Path, *, device: str, precision: str) -> VisionLanguageModel:
    """The model of a converted folder."""
    from cxr_assistant.checkpoints.folder import load_llava

    return load_llava(directory, CHECKPOINT.image, device=device, precision=precision)


def convert(sources: Sequence[Path], target: Path, *, precision: str) -> None:
    """Published layout (folders of both repositories) -> a standard Hugging Face folder in `target`.

    The LoRA is merged in float32, tensor by tensor. `mm_projector.bin` is the projector of stage 1 and is
    not read. Raises MissingWeights, CorruptWeights or WeightsMismatch, also for anything left over.
    """
    from cxr_assistant.checkpoints.convert import find_folder, read_json, rename_all, write_tensors
    from cxr_assistant.checkpoints.folder import IMAGE_TOKEN, expected_tensors, write_config_files
    from cxr_assistant.checkpoints.tokenizer import convert_sentencepiece

    adapter, base = find_folder(sources, "adapter_config.json"), find_folder(sources, "tokenizer.model")
    stored = {**_tower_tensors(adapter), **_projector_tensors(adapter), **_language_tensors(adapter, base)}
    config = _llava_config(read_json(adapter / "config.json"), _tower_config(adapter, stored))
    stored["vision_tower.embeddings.mask_token"] = _zeros(1, config.vision_config.hidden_size)
    tensors = rename_all(stored, WEIGHT_MAP, expected_tensors(config))
    write_tensors(target / "model.safetensors", tensors, precision=precision)
    convert_sentencepiece(base / "tokenizer.model", target / "tokenizer.json", image_token=IMAGE_TOKEN)
    write_config_files(
        target,
        config,
        replace(CHECKPOINT.image, size_px=config.vision_config.image_size),
        chat_template=_CHAT_TEMPLATE,
        generation={"max_new_tokens": CHECKPOINT.max_new_tokens},
        adds_bos=read_json(base / "tokenizer_config.json").get("add_bos_token", True),
    )


_CHAT_TEMPLATE = (
    "{{ bos_token }}" + _SYSTEM + " {% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% else %} ASSISTANT: {{ message['content'][0]['text'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def _tower_tensors(adapter: Path) -> dict[str, LazyTensor]:
    from cxr_assistant.checkpoints.convert import read_pickled_tensors

    name = read_tower_file_name(adapter)
    tensors = read_pickled_tensors([adapter / name], member="state_dict")
    return {stored.removeprefix("module."): tensor for stored, tensor in tensors.items()}


def read_tower_file_name(adapter: Path) -> str:
    """The open_clip training checkpoint that config.json names."""
    from cxr_assistant.checkpoints.convert import read_json

    return Path(read_json(adapter / "config.json")["mm_vision_tower_checkpoint"]).name


def _projector_tensors(adapter: Path) -> dict[str, LazyTensor]:
    from cxr_assistant.checkpoints.convert import read_pickled_tensors

    tensors = read_pickled_tensors([adapter / "non_lora_trainables.bin"])
    return {stored.removeprefix("base_model.model."): tensor for stored, tensor in tensors.items()}


def _language_tensors(adapter: Path, base: Path) -> dict[str, LazyTensor]:
    """Vicuna with the LoRA merged in, and one more row of the vocabulary for the image marker."""
    from cxr_assistant.checkpoints.convert import merge_lora, read_json, read_pickled_tensors

    tensors = merge_lora(
        read_pickled_tensors(sorted(base.glob("pytorch_model*.bin"))),
        read_pickled_tensors([adapter / "adapter_model.bin"]),
        read_json(adapter / "adapter_config.json"),
    )
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = _with_image_row(tensors[name])
    return tensors


def _with_image_row(weight: LazyTensor) -> LazyTensor:
    """The row of the unknown token once more: its logit then never beats the unknown token's, and greedy
    decoding takes the first of equals, so that no engine ever writes the image marker."""
    import torch

    from cxr_assistant.checkpoints.convert import LazyTensor

    def read() -> torch.Tensor:
        rows = weight.read()
        return torch.cat((rows, rows[:1]))

    return LazyTensor((weight.shape[0] + 1, weight.shape[1]), read, weight.origin)


def _zeros(*shape: int) -> LazyTensor:
    import torch

    from cxr_assistant.checkpoints.convert import LazyTensor

    return LazyTensor(shape, lambda: torch.zeros(shape))


def _tower_config(adapter: Path, stored: Mapping[str, LazyTensor]) -> dict[str, Any]:
    """A Dinov2 configuration read off the tensors, as the stored JSON names a timm model only."""
    from cxr_assistant.checkpoints.convert import read_json

    image_size = read_json(_clip_json(adapter))["vision_cfg"]["image_size"]
    width, channels, patch_size, _ = stored["visual.trunk.patch_embed.proj.weight"].shape
    num_tokens = stored["visual.trunk.pos_embed"].shape[1]
    if num_tokens != (image_size // patch_size) ** 2 + 1:
        raise WeightsMismatch(
            f"{num_tokens} position embeddings do not fit {image_size} pixels of {patch_size}."
        )
    return {
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": sum(name.endswith(".norm1.weight") for name in stored),
        "num_attention_heads": width // 64,  # DINOv2: every head is 64 wide; the weights cannot tell
        "mlp_ratio": _mlp_ratio(stored["visual.trunk.blocks.0.mlp.fc1.weight"].shape[0], width),
        "hidden_act": "gelu",  # exact (erf), timm's default
        "layer_norm_eps": 1e-6,  # timm vision_transformer
        "image_size": image_size,
        "patch_size": patch_size,
        "num_channels": channels,
        "qkv_bias": True,
    }


def _mlp_ratio(hidden: int, width: int) -> int | float:
    """Hidden over model width; an int where it is one, because that is all that stock Dinov2Config takes."""
    return hidden // width if hidden % width == 0 else hidden / width


def _clip_json(adapter: Path) -> Path:
    """The open_clip configuration beside the tower checkpoint ("<name>_checkpoint.pt" -> "<name>.json")."""
    return adapter / f"{read_tower_file_name(adapter).removesuffix('.pt').removesuffix('_checkpoint')}.json"


def _llava_config(published: Mapping[str, Any], vision: Mapping[str, Any]) -> Any:
    """transformers' LlavaConfig from LLaVA 1.1's keys, which share its model_type and mean something else."""
    from transformers import LlamaConfig

    from cxr_assistant.models.llava import make_config

    if published["mm_projector_type"] != "mlp2x_gelu":
        raise WeightsMismatch(
            f"mm_projector_type is {published['mm_projector_type']!r}; allowed: 'mlp2x_gelu'."
        )
    ours = {key: value for key, value in published.items() if not key.startswith(_NOT_THE_DECODERS)}
    text = LlamaConfig.from_dict({**ours, "model_type": "llama", "vocab_size": published["vocab_size"] + 1})
    num_patches = (vision["image_size"] // vision["patch_size"]) ** 2
    keeps_class_token = published["mm_vision_select_feature"] == "cls_patch"
    return make_config(
        {
            "architectures": ["LlavaForConditionalGeneration"],
            "vision_config": dict(vision),
            "text_config": text.to_dict(),
            "image_token_index": published["vocab_size"],
            "image_seq_length": num_patches + keeps_class_token,
            "projector_hidden_act": "gelu",
            "vision_feature_layer": published["mm_vision_select_layer"],
            "vision_feature_select_strategy": "full" if keeps_class_token else "default",
            "tie_word_embeddings": published.get("tie_word_embeddings", False),
        }
    )


_NOT_THE_DECODERS = (
    "_",
    "architectures",
    "mm_",
    "image_",
    "tune_",
    "freeze_",
    "use_mm",
    "model_type",
    "torch_dtype",
    "transformers",
)
