"""The standard Hugging Face folder of a LLaVA: written at conversion, read at loading.

Knows the file names and keys that transformers and vLLM expect; must not know any checkpoint's prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_assistant.checkpoints.convert import LazyTensor, read_json, write_tensors
from cxr_assistant.checkpoints.tokenizer import FolderTokenizer
from cxr_assistant.errors import WeightsMismatch
from cxr_assistant.imaging.rendering import Rendering
from cxr_assistant.imaging.transforms import ImageSpec, ResizeRule
from cxr_assistant.models.precision import lower_layers
from cxr_assistant.models.vlm import Processor

if TYPE_CHECKING:
    from cxr_assistant.models.llava import StockLlava

__all__ = [
    "expected_tensors",
    "load_llava",
    "published_name",
    "read_processor",
    "write_config_files",
    "write_llava",
]

IMAGE_TOKEN = "<image>"
_RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers, as image processors store them


def read_processor(directory: Path, default: ImageSpec) -> Processor:
    """Tokenizer, picture and lengths of a folder; `default` fills what its preprocessor leaves open.

    Raises MissingWeights, CorruptWeights, or WeightsMismatch when sizes contradict each other.
    """
    config = read_json(directory / "config.json")
    vision, text = config["vision_config"], config["text_config"]
    image = _read_image_spec(read_json(directory / "preprocessor_config.json"), vision, default)
    if image.size_px != vision["image_size"]:
        raise WeightsMismatch(
            f"Pictures are prepared at {image.size_px} pixels; the tower takes {vision['image_size']}.",
            hint="config.json and preprocessor_config.json do not belong together.",
        )
    return Processor(
        tokenizer=FolderTokenizer(directory),
        image=image,
        num_image_tokens=_num_image_tokens(config),
        context_length=text["max_position_embeddings"],
        stop_token_ids=_stop_token_ids(directory, text),
        bos_token_id=_bos_token_id(directory, text),
    )


def load_llava(directory: Path, default: ImageSpec, *, device: str, precision: str) -> StockLlava:
    """The model in `directory`, tensors memory-mapped, cast and moved one at a time.

    Raises MissingWeights, CorruptWeights, WeightsMismatch (leftover, missing or misshapen tensors) and
    OutOfMemory.
    """
    from cxr_assistant.checkpoints.streaming import empty_weights, reading_ahead, stream_in
    from cxr_assistant.models.llava import StockLlava, make_config, make_empty

    with reading_ahead(directory, device=device, precision=precision):
        processor = read_processor(directory, default)
        config = make_config(read_json(directory / "config.json"))
        with empty_weights():
            llava = make_empty(config)
            lower_layers(llava.model.language_model.layers, precision, device)
        if config.tie_word_embeddings:
            del llava.lm_head.weight
        stream_in(directory, {"": llava}, device=device, precision=precision, stored_name=published_name)
    if config.tie_word_embeddings:
        llava.lm_head.weight = llava.model.language_model.embed_tokens.weight
    return StockLlava(llava, processor)


def write_llava(
    target: Path, llava: Any, tokenizer: Any, image: ImageSpec, *, chat_template: str, precision: str
) -> None:
    """Write a `LlavaForConditionalGeneration` and its tokenizer as a folder that `load_llava` reads."""
    target.mkdir(parents=True, exist_ok=True)
    stored = {published_name(name): tensor.detach().cpu() for name, tensor in llava.state_dict().items()}
    tensors = {name: LazyTensor(tuple(t.shape), lambda t=t: t) for name, t in stored.items()}  # type: ignore[misc]
    if llava.config.tie_word_embeddings:
        tensors.pop("language_model.lm_head.weight", None)
    write_tensors(target / "model.safetensors", tensors, precision=precision)
    tokenizer.save(str(target / "tokenizer.json"))
    write_config_files(target, llava.config, image, chat_template=chat_template, generation={}, adds_bos=True)


def write_config_files(
    target: Path,
    config: Any,
    image: ImageSpec,
    *,
    chat_template: str,
    generation: Mapping[str, Any],
    adds_bos: bool,
) -> None:
    """Everything in the folder but tensors and tokenizer.json; `config` is a LlavaConfig."""
    _write_json(target / "config.json", config.to_dict())
    text = config.text_config
    _write_json(target / "preprocessor_config.json", _image_processor(image))
    _write_json(
        target / "processor_config.json",
        {
            "processor_class": "LlavaProcessor",
            "image_token": IMAGE_TOKEN,
            "patch_size": config.vision_config.patch_size,
            # The class token: counted by the processor, dropped by the "default" strategy.
            "num_additional_image_tokens": 1,
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
        },
    )
    _write_json(
        target / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",  # reads tokenizer.json as it is
            "add_bos_token": adds_bos,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<unk>",
            "image_token": IMAGE_TOKEN,
            "model_max_length": text.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
        },
    )
    (target / "chat_template.jinja").write_text(chat_template, "utf-8")
    _write_json(
        target / "generation_config.json",
        {
            "bos_token_id": text.bos_token_id,
            "eos_token_id": text.eos_token_id,
            "pad_token_id": text.pad_token_id,
            "do_sample": False,
            "suppress_tokens": [config.image_token_index],
            **generation,
        },
    )


def expected_tensors(config: Any) -> dict[str, tuple[int, ...]]:
    """Names, as `save_pretrained` writes them, and shapes of all tensors of a LlavaConfig's model."""
    import torch

    from cxr_assistant.models.llava import make_empty

    with torch.device("meta"):
        llava = make_empty(config)
    tied = {"language_model.lm_head.weight"} if config.tie_word_embeddings else set()
    shapes = {published_name(name): tuple(tensor.shape) for name, tensor in llava.state_dict().items()}
    return {name: shape for name, shape in shapes.items() if name not in tied}


def published_name(name: str) -> str:
    """The name on disk; Hub folders keep the names of transformers 4, which every later release reads."""
    for ours, published in (
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("lm_head.", "language_model.lm_head."),
    ):
        if name.startswith(ours):
            name = published + name.removeprefix(ours)
            break
    if name.startswith("vision_tower."):
        for ours, published in (("q", "query"), ("k", "key"), ("v", "value")):
            name = name.replace(f".attention.{ours}_proj.", f".attention.attention.{published}.")
        name = name.replace(".attention.o_proj.", ".attention.output.dense.")
    return name


def _image_processor(image: ImageSpec) -> dict[str, Any]:
    """What CLIPImageProcessor needs to take a picture of the right size as it is, and our own two keys."""
    resample = {name: number for number, name in _RESAMPLE.items()}[image.resampling]
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": image.channels == 3,
        "do_resize": True,
        "size": {"shortest_edge": image.size_px},
        "resample": resample,
        "do_center_crop": True,
        "crop_size": {"height": image.size_px, "width": image.size_px},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "resize_rule": str(image.resize),
        "rendering": str(image.rendering),
    }


def _read_image_spec(stored: Mapping[str, Any], vision: Mapping[str, Any], default: ImageSpec) -> ImageSpec:
    crop = stored.get("crop_size") or stored.get("size") or {"height": default.size_px}
    resample = _RESAMPLE.get(stored.get("resample", -1), default.resampling)
    return ImageSpec(
        size_px=int(crop.get("height") or crop.get("shortest_edge") or default.size_px),
        channels=vision.get("num_channels", 3),
        mean=tuple(stored.get("image_mean", default.mean)),
        std=tuple(stored.get("image_std", default.std)),
        resize=ResizeRule(stored.get("resize_rule", default.resize)),
        resampling=resample,  # type: ignore[arg-type]  # one of the three, or the default's
        rendering=Rendering(stored.get("rendering", default.rendering)),
    )


def _num_image_tokens(config: Mapping[str, Any]) -> int:
    vision = config["vision_config"]
    per_side = vision["image_size"] // vision["patch_size"]
    keeps_class_token = config.get("vision_feature_select_strategy", "default") == "full"
    return int(per_side**2 + keeps_class_token)


def _stop_token_ids(directory: Path, text: Mapping[str, Any]) -> frozenset[int]:
    path = directory / "generation_config.json"
    stored = read_json(path).get("eos_token_id") if path.is_file() else None
    stop = text["eos_token_id"] if stored is None else stored
    return frozenset(stop if isinstance(stop, list) else [stop])


def _bos_token_id(directory: Path, text: Mapping[str, Any]) -> int | None:
    adds_bos = read_json(directory / "tokenizer_config.json").get("add_bos_token", True)
    return int(text["bos_token_id"]) if adds_bos else None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
