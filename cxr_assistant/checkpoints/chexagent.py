"""CheXagent-2-3b: one or two chest films in; views, findings, answers, comparisons and boxes out.

SigLIP-Large at 512 pixels (XraySigLIP), a position-aware projector of 1024 tokens per film, Phi-2. Paper:
Chen et al., "CheXagent: Towards a Foundation Model for Chest X-Ray Interpretation", arXiv 2401.12208.
Licence: CC BY-NC 4.0. Known weakness: films are squashed to a square, and two films already exceed the
2,048 positions of Phi-2's own rotary table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_assistant.checkpoints.chexagent_prompts import (
    PROMPTS,
    WORDINGS,
    ask_in_words,
    is_about_text_alone,
)
from cxr_assistant.checkpoints.spec import Checkpoint, Licence, RemoteFile, TaskWording
from cxr_assistant.checkpoints.tokenizer import FolderTokenizer
from cxr_assistant.conversation import Conversation
from cxr_assistant.errors import InvalidStudy, MissingRadiograph, WeightsMismatch
from cxr_assistant.generation import GenerationEvent
from cxr_assistant.imaging.rendering import Rendering
from cxr_assistant.imaging.transforms import ImageSpec, ResizeRule
from cxr_assistant.settings import read_pins
from cxr_assistant.study import Radiograph, Study, ViewPosition
from cxr_assistant.tasks import Task

if TYPE_CHECKING:
    from cxr_assistant.models.vlm import Processor, Prompt, Tokenizer, VisionLanguageModel

__all__ = ["CHECKPOINTS", "UNPINNED", "WEIGHT_MAP", "build", "convert", "interpret", "render"]

# ------------------------------------------------------------------------------------------ the checkpoint

_REPOSITORY = "StanfordAIMI/CheXagent-2-3b"
_REVISION = "8f19b53a2eceda4c33b0acec6c81fbc293ad80d0"
_TOWER = "StanfordAIMI/XraySigLIP__vit-l-16-siglip-384__webli"
_TOWER_REVISION = "f0edbf5d90dba44edb7f4f96d8663537cb0749bf"

_NAMES = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")
_TOKENIZER_NAMES = ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json")


def _files(repository: str, revision: str) -> tuple[RemoteFile, ...]:
    # Of the vision repository only the sizes are needed: its weights are in the checkpoint again.
    names = (*_NAMES, *_TOKENIZER_NAMES)
    return (
        *(RemoteFile(repository=repository, revision=revision, path=name) for name in names),
        *(
            RemoteFile(repository=_TOWER, revision=_TOWER_REVISION, path=name)
            for name in ("config.json", "preprocessor_config.json")
        ),
    )


_CHEXAGENT = Checkpoint(
    name="chexagent",
    title="CheXagent",
    summary="Findings, questions, views, comparisons and boxes on one or two films, from Stanford AIMI.",
    repository=_REPOSITORY,
    revision=_REVISION,
    files=_files(_REPOSITORY, _REVISION),
    licence=Licence(
        name="CC BY-NC 4.0",
        url="https://huggingface.co/StanfordAIMI/CheXagent-2-3b",
        terms="Non-commercial use only, with attribution. For research, not for clinical care.",
        needs_acceptance=True,
    ),
    citation=(
        "Chen et al. CheXagent: Towards a Foundation Model for Chest X-Ray Interpretation. arXiv 2401.12208."
    ),
    tasks=WORDINGS,
    image=ImageSpec(
        size_px=512,  # config.json: visual.image_size
        channels=3,
        mean=(0.5, 0.5, 0.5),  # preprocessor_config.json of the tower's repository
        std=(0.5, 0.5, 0.5),
        resize=ResizeRule.SQUASH,
        resampling="bicubic",  # resample 3, on 8 bits, PIL
        rendering=Rendering.MIMIC_CXR_JPG,
    ),
    max_images=2,
    views=frozenset({ViewPosition.PA, ViewPosition.AP, ViewPosition.LATERAL}),
    supports_prior=True,
    supports_boxes=True,
    multi_turn=False,
    phantoms_only=False,
    # Trained on 4,096 tokens (paper); max_position_embeddings 2,048 is Phi-2's, and rotary positions have
    # no table here that could end.
    context_length=4096,
    can=(
        "Draft findings, as a whole or part by part, and conclude an impression from findings",
        "Answer questions, tell the view, match two views, follow one finding from a prior film",
        "Mark phrases and findings with boxes",
    ),
    cannot=("Remember earlier turns of the conversation", "Read more than two films at once"),
    weakness="Squashes films to a square; was measured on MIMIC-CXR and CheXpert, so other sites may differ.",
    num_parameters=3_140_746_752,
    max_new_tokens=512,  # the authors' wrapper
)


def _fine_tune(name: str, title: str, repository: str, revision: str, task: Task, prompt: str) -> Checkpoint:
    """A fine-tune of the same layout that writes one section of a structured report."""
    return replace(
        _CHEXAGENT,
        name=name,
        title=title,
        summary=f"CheXagent fine-tuned to write a structured {task} section.",
        repository=repository,
        revision=revision,
        files=_files(repository, revision),
        licence=replace(_CHEXAGENT.licence, url=f"https://huggingface.co/{repository}"),
        tasks={task: TaskWording(prompt=prompt)},
        supports_prior=False,
        supports_boxes=False,
        can=(f"Write a structured {task} section",),
        cannot=("Answer questions, compare films or draw boxes",),
        weakness="A fine-tune for one kind of text; everything else is outside its training.",
    )


UNPINNED = {"chexagent-srrg-impression": "StanfordAIMI/CheXagent-2-3b-srrg-impression"}
"""The sister fine-tune, none of whose commits is known here: on the menu once its owner pins one."""


def _pinned_by_the_owner() -> tuple[Checkpoint, ...]:
    return tuple(
        _fine_tune(
            name,
            "CheXagent SRRG impression",
            UNPINNED[name],
            revision,
            Task.IMPRESSION,
            PROMPTS["structured_report_impression"],
        )
        for name, revision in read_pins()
        if name in UNPINNED
    )


CHECKPOINTS = (
    _CHEXAGENT,
    _fine_tune(
        "chexagent-srrg-findings",
        "CheXagent SRRG findings",
        "StanfordAIMI/CheXagent-2-3b-srrg-findings",
        "9f7225fc382ddd1297ade1aa796da660237940bc",  # as pinned by unrelated projects
        Task.FINDINGS,
        PROMPTS["structured_report_findings"],
    ),
    *_pinned_by_the_owner(),
)

# --------------------------------------------------------------------------------------------- the weights

STORED_PRECISION = "fp32"  # as published

# Stored names -> our names. None: dropped on purpose.
WEIGHT_MAP: Mapping[str, str | None] = {
    "model.visual.model.head.*": None,  # SigLIP's attention pooling: the patches are used, not their pool
    "model.visual.model.*": "vision_tower.*",
    "model.visual.*": "projector.*",
    "model.*": "language_model.model.*",
    "lm_head.*": "language_model.lm_head.*",
}

# ---------------------------------------------------------------------------------------------- the prompt


def render(
    checkpoint: Checkpoint, study: Study, conversation: Conversation, task: Task, processor: Processor
) -> Prompt:
    """The authors' chat format, single turn: `Picture k:` with each film, then the task's exact words.

    The newest question may be the bare text (a phrase, a finding) or already stand in the task's words.
    Raises: MissingRadiograph, InvalidStudy for more films than the model reads.
    """
    question = ask_in_words(checkpoint, study, conversation, task)
    films = () if is_about_text_alone(question) else _films(checkpoint, study, task)
    return render_chat(question, films, processor)


def render_chat(question: str, films: Sequence[Radiograph], processor: Processor) -> Prompt:
    """The prompt of one user turn about `films`; user text cannot become one of the format's own tokens."""
    from cxr_assistant.checkpoints.prompting import assemble

    tokenizer = processor.tokenizer
    return assemble([_token_or_text(piece, tokenizer) for piece in chat_pieces(question, films)], processor)


class Mark(str):
    """One of the format's own tokens."""


def chat_pieces(question: str, films: Sequence[Radiograph]) -> list[str | Radiograph]:
    """Text, marks and films in order; each text between two marks is tokenised as one."""
    end, text = Mark("<|endoftext|>"), "\n<|user|>\n"
    pieces: list[str | Radiograph] = ["<|system|>\nYou are a helpful assistant.", end]
    for number, film in enumerate(films, start=1):
        pieces += [f"{text}Picture {number}:", Mark("<|img|>"), film, Mark("<|/img|>")]
        text = "\n"
    return [*pieces, text + question, end, "\n<|assistant|>\n"]


def _token_or_text(piece: str | Radiograph, tokenizer: Tokenizer) -> str | int | Radiograph:
    return tokenizer.id_of(piece) if isinstance(piece, Mark) else piece


def interpret(events: Iterable[GenerationEvent], study: Study, task: Task) -> Iterator[GenerationEvent]:
    """The events of an answer with its box markup turned into `Grounding` events on the first film."""
    from cxr_assistant.checkpoints.boxes import separate_boxes

    films = study.radiographs
    return separate_boxes(events, films[0].digest if films else "")


def _films(checkpoint: Checkpoint, study: Study, task: Task) -> tuple[Radiograph, ...]:
    """The films in the order of training: a reference before the new film."""
    wording = checkpoint.tasks.get(task)
    films = study.radiographs
    if task is Task.PROGRESSION:
        if study.prior is None:
            raise MissingRadiograph(
                "A comparison needs a prior film.", hint="Add the earlier film as the prior."
            )
        films = (*study.prior.radiographs[:1], *films[:1])
    elif wording is not None:
        films = films[: wording.most_images]
    if len(films) > checkpoint.max_images:
        raise InvalidStudy(
            f"{checkpoint.title} reads at most {checkpoint.max_images} films at once; "
            f"the study holds {len(films)}.",
            hint="Remove a film, or ask about one of them.",
        )
    needed = 1 if wording is None else wording.num_images
    if len(films) < needed:
        raise MissingRadiograph(
            f"This task needs {needed} film{'s' * (needed > 1)}; the study holds {len(films)}.",
            hint="Add a film.",
        )
    return films


# ----------------------------------------------------------------------------------------------- the model


def build(directory: Path, *, device: str, precision: str) -> VisionLanguageModel:
    """The model of a converted folder."""
    from transformers import PhiConfig, PhiForCausalLM, SiglipVisionConfig, SiglipVisionModel

    from cxr_assistant.checkpoints.convert import read_json
    from cxr_assistant.checkpoints.streaming import empty_weights, reading_ahead, stream_in
    from cxr_assistant.checkpoints.tensors import list_tensors
    from cxr_assistant.models.precision import lower_layers
    from cxr_assistant.models.siglip_decoder import PositionalProjector, SiglipDecoder

    with reading_ahead(directory, device=device, precision=precision):
        config = read_json(directory / "config.json")
        shapes = {name: tensor.shape for name, tensor in list_tensors(directory).items()}
        processor = _read_processor(directory, config)
        with empty_weights():
            tower = SiglipVisionModel(SiglipVisionConfig(**config["vision_config"], vision_use_head=False))
            tower = getattr(tower, "vision_model", tower)  # older 5.x releases wrap it once more
            num_positions, vision_width = shapes["projector.pos_embed"]
            projector = PositionalProjector(
                num_positions,
                vision_width,
                hidden_width=shapes["projector.attn_pool.0.weight"][0],
                width=shapes["projector.proj"][0],
                eps=1e-6,
            )
            # Fused attention keeps its scores in float32; half-precision scores overflow in Phi-2.
            phi = PhiForCausalLM._from_config(PhiConfig(**config["text_config"]), attn_implementation="sdpa")
        lower_layers(phi.model.layers, precision, device)
        parts = {"vision_tower": tower, "projector": projector, "language_model": phi}
        stream_in(directory, parts, device=device, precision=precision)
    return SiglipDecoder(tower, projector, phi.model, phi.lm_head, processor)


def convert(sources: Sequence[Path], target: Path, *, precision: str) -> None:
    """Published files (this repository's and the tower's sizes) -> our folder in `target`.

    Raises MissingWeights, CorruptWeights or WeightsMismatch, also for anything left over: a checkpoint
    without its visual tensors would write fluent prose about a film that it never saw.
    """
    from cxr_assistant.checkpoints.convert import find_folder, read_json
    from cxr_assistant.checkpoints.tensors import copy_renamed

    folder, tower = find_folder(sources, "vocab.json"), find_folder(sources, "preprocessor_config.json")
    published = read_json(folder / "config.json")
    if "visual" not in published:
        raise WeightsMismatch(
            "config.json has no 'visual' part: this is a text-only model.", hint=f"Fetch {_REPOSITORY}."
        )
    copy_renamed(folder, target / "model.safetensors", WEIGHT_MAP, precision=precision)
    for name, content in {
        "config.json": _our_config(published, read_json(tower / "config.json"), folder),
        "preprocessor_config.json": read_json(tower / "preprocessor_config.json"),
    }.items():
        (target / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    _write_tokenizer(folder, target)


def _our_config(published: Mapping[str, Any], tower: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    from cxr_assistant.checkpoints.convert import read_json

    not_ours = ("_name_or_path", "architectures", "auto_map", "model_type", "torch_dtype", "visual")
    vision = {**tower.get("vision_config", tower), "image_size": published["visual"]["image_size"]}
    generation = folder / "generation_config.json"
    stop = read_json(generation).get("eos_token_id") if generation.is_file() else None
    return {
        "model_type": "cxr-assistant-siglip-phi",  # no library may take it for a text-only "phi"
        "text_config": {k: v for k, v in published.items() if k not in not_ours},
        "vision_config": {k: v for k, v in vision.items() if k not in not_ours},
        "eos_token_id": stop if stop is not None else published.get("eos_token_id"),
    }


def _write_tokenizer(folder: Path, target: Path) -> None:
    """GPT-2's byte-level BPE with the checkpoint's added tokens at their own ids."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    from cxr_assistant.checkpoints.convert import read_json

    tokenizer = Tokenizer(BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    for token_id, (content, is_special) in sorted(_added_tokens(read_json, folder).items()):
        # Regions stay readable in answers and may be quoted in questions; nothing else may.
        is_region = re.fullmatch(r"<\|/?(ref|box|quad)\|>", content) is not None
        token = AddedToken(content, special=is_special and not is_region, normalized=not is_special)
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
        if tokenizer.token_to_id(content) != token_id:
            raise WeightsMismatch(
                f"The added token {content!r} has the id {token_id} in the checkpoint and "
                f"{tokenizer.token_to_id(content)} here.",
                hint="Fetch the tokenizer files again.",
            )
    tokenizer.save(str(target / "tokenizer.json"))


def _added_tokens(read_json: Any, folder: Path) -> dict[int, tuple[str, bool]]:
    """Id -> (text, whether it is special), from both files that may hold them."""
    path = folder / "added_tokens.json"
    plain = read_json(path) if path.is_file() else {}
    found = {int(i): (content, content.startswith("<|")) for content, i in plain.items()}
    for i, entry in read_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {}).items():
        found[int(i)] = (entry["content"], bool(entry["special"]))
    return found


def _read_processor(directory: Path, config: Mapping[str, Any]) -> Processor:
    from cxr_assistant.checkpoints.convert import read_json
    from cxr_assistant.models.vlm import Processor

    vision, stored = config["vision_config"], read_json(directory / "preprocessor_config.json")
    image = replace(
        _CHEXAGENT.image,
        size_px=vision["image_size"],
        mean=tuple(stored.get("image_mean", _CHEXAGENT.image.mean)),
        std=tuple(stored.get("image_std", _CHEXAGENT.image.std)),
    )
    stop = config["eos_token_id"]
    return Processor(
        tokenizer=FolderTokenizer(directory),
        image=image,
        num_image_tokens=(vision["image_size"] // vision["patch_size"]) ** 2,
        context_length=max(_CHEXAGENT.context_length, config["text_config"]["max_position_embeddings"]),
        stop_token_ids=frozenset(stop if isinstance(stop, list) else [stop]),
        bos_token_id=None,
    )
