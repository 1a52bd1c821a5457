"""The models that are measured, each made by one call, and prompts for them.

Knows shapes and folders; must not know what is measured. All but the embedded model speak noise: speed does
not depend on what is said.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import nn

from cxr_assistant.checkpoints import embedded
from cxr_assistant.checkpoints.folder import load_llava
from cxr_assistant.checkpoints.random_weights import STD, write_random_checkpoint
from cxr_assistant.checkpoints.spec import find_module, get_checkpoint
from cxr_assistant.checkpoints.streaming import empty_weights
from cxr_assistant.checkpoints.weights import is_ready, locate
from cxr_assistant.models.llava import StockLlava, make_config, make_empty
from cxr_assistant.models.precision import torch_dtype
from cxr_assistant.models.vlm import ImageSpan, Processor, Prompt

__all__ = ["SUBJECTS", "Subject", "follow_up", "make_prompt"]

FIRST_QUESTION = (
    "Describe the findings of this radiograph in full sentences, first the lungs, then the heart."
)


@dataclass(frozen=True)
class Subject:
    """A row: how its model is made, and how much is asked of it.

    Several streams ask about one film in one session, as the questions of a checklist do; own_films: and
    then again, each with a film of its own in a session of its own, new and then read before.
    """

    name: str
    title: str
    device: str
    precision: str
    make: Callable[[Subject, Path], Any]
    checkpoint: str = ""
    num_tokens: int = 32
    num_repetitions: int = 3
    streams: tuple[int, ...] = (1, 2, 4, 8, 16)
    stream_tokens: int = 24
    stream_rounds: int = 2
    own_films: bool = False
    compiles: bool = True


# ------------------------------------------------------------------------------------------------ the prompts


def make_prompt(model: Any, number: int, question: str = FIRST_QUESTION) -> Prompt:
    """A question about film `number`: every number is another picture, and always the same one."""
    processor: Processor = model.processor
    size = processor.image.size_px
    pixels = np.random.default_rng(number).standard_normal((1, processor.image.channels, size, size))
    head = [] if processor.bos_token_id is None else [processor.bos_token_id]
    head += processor.tokenizer.encode("USER: ")
    tail = processor.tokenizer.encode(f"\n{question} ASSISTANT:")
    return Prompt(
        token_ids=(*head, *[0] * processor.num_image_tokens, *tail),
        image_spans=(ImageSpan(len(head), processor.num_image_tokens),),
        pixel_values=pixels.astype(np.float32),
        digests=(f"film {number}",),
    )


def follow_up(model: Any, prompt: Prompt, answer: str, question: str) -> Prompt:
    """The next turn of a conversation, made of the words of the answer as the app makes it."""
    words = model.processor.tokenizer.encode(f" {answer} USER: {question} ASSISTANT:")
    return replace(prompt, token_ids=(*prompt.token_ids, *words))


# ------------------------------------------------------------------------------------------ how they are made


def _load(subject: Subject, work: Path) -> Any:
    """The folder that the app would read, or random weights in the published layout, made in `work` once."""
    checkpoint, module = get_checkpoint(subject.checkpoint), find_module(subject.checkpoint)
    if is_ready(checkpoint):
        folder = locate(checkpoint)
    else:
        folder = work / f"{checkpoint.name}-random"
        if not (folder / "config.json").is_file():
            published = work / f"{checkpoint.name}-published"
            write_random_checkpoint(checkpoint, published)
            folder.mkdir(parents=True, exist_ok=True)
            module.convert([published], folder, precision="bf16")
            shutil.rmtree(published)
    return module.build(folder, device=subject.device, precision=subject.precision)


def _make_tiny(subject: Subject, _work: Path) -> Any:
    """One megabyte, for the test of this benchmark."""
    with TemporaryDirectory() as folder:
        embedded.make_random(Path(folder))
        model = load_llava(
            Path(folder), embedded.CHECKPOINT.image, device=subject.device, precision=subject.precision
        )
    model.processor = replace(model.processor, tokenizer=_Words(model.config.text_config.vocab_size))
    return model


def _make_1b(subject: Subject, work: Path) -> StockLlava:
    """LLaVA-Rad's tower in front of a Llama of TinyLlama-1.1B's sizes (arXiv 2401.02385, section 2.2).

    Mapped from a file in `work`, as weights in their stored type are: what is packed need not stay in memory.
    """
    config = make_config(ONE_BILLION)
    dtype = torch_dtype(subject.precision)
    with empty_weights():
        llava = make_empty(config)
    block = (torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)) * STD).to(dtype)
    work.mkdir(parents=True, exist_ok=True)
    num_weights = sum(parameter.numel() for parameter in llava.parameters())
    path = work / f"{subject.name}.bin"
    is_there = path.is_file() and path.stat().st_size == num_weights * dtype.itemsize
    mapped = torch.from_file(str(path), shared=True, size=num_weights, dtype=dtype)
    place = 0
    for owner in llava.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            weight = mapped[place : place + parameter.numel()].view(parameter.shape)
            if not is_there:
                weight.copy_(_fill(parameter.shape, block, is_bias=name.endswith("bias")))
            setattr(owner, name, nn.Parameter(weight, requires_grad=False))
            place += parameter.numel()
    processor = Processor(
        tokenizer=_Words(config.text_config.vocab_size),
        image=replace(embedded.CHECKPOINT.image, size_px=config.vision_config.image_size),
        num_image_tokens=config.image_seq_length,
        context_length=config.text_config.max_position_embeddings,
        stop_token_ids=frozenset(),
        bos_token_id=1,
    )
    return StockLlava(llava.eval(), processor)


def _fill(shape: torch.Size, block: torch.Tensor, *, is_bias: bool) -> torch.Tensor:
    """Matrices are filled with the block again and again, each shifted; norms leave things as they are."""
    if len(shape) == 1:
        return torch.full(shape, 0.0 if is_bias else 1.0, dtype=block.dtype)
    count = shape.numel()
    shift = count % 7919
    repeated = block.repeat((count + shift) // len(block) + 1)
    return repeated[shift : shift + count].reshape(shape).clone()


ONE_BILLION: dict[str, Any] = {
    "vision_config": {
        "model_type": "dinov2",
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "mlp_ratio": 4,
        "image_size": 518,
        "patch_size": 14,
    },
    "text_config": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "image_token_index": 3,
    "image_seq_length": 1369,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}


@dataclass(frozen=True)
class _Words:
    """A word for each id, so that equal texts mean equal ids, whatever random weights come up with."""

    size: int

    def encode(self, text: str) -> list[int]:
        return [self._id(word) for word in text.split()]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(f" w{token_id}" for token_id in token_ids)

    def id_of(self, token: str) -> int:
        return self._id(token)

    def _id(self, word: str) -> int:
        is_ours = word.startswith("w") and word[1:].isdigit()
        return int(word[1:]) if is_ours else 4 + crc32(word.encode()) % (self.size - 4)


def _in_each(subject: Subject, **precisions: dict[str, Any]) -> list[Subject]:
    """A row in each precision, with what differs there."""
    return [
        replace(
            subject,
            name=f"{subject.name}-{precision}",
            title=f"{subject.title}, {precision}",
            precision=precision,
            **differing,
        )
        for precision, differing in precisions.items()
    ]


def _published(checkpoint: str, title: str) -> list[Subject]:
    # transformers does not compile what bitsandbytes quantised (its `is_compileable` is False).
    eager = {"compiles": False}
    subject = Subject(checkpoint, title, "cuda", "", _load, checkpoint, num_tokens=64)
    return _in_each(subject, bf16={}, int8=eager, nf4=eager)


_TINY = Subject(
    name="tiny",
    title="1 MB of noise",
    device="cpu",
    precision="fp32",
    make=_make_tiny,
    num_tokens=6,
    num_repetitions=2,
    streams=(1, 2),
    stream_tokens=6,
    own_films=True,
    compiles=False,
)
_EMBEDDED = Subject(
    name="embedded",
    title="embedded model, fp32",
    device="cpu",
    precision="fp32",
    make=_load,
    checkpoint="embedded",
    num_tokens=64,
    num_repetitions=9,
    stream_tokens=64,
    stream_rounds=15,
    own_films=True,
)
_ONE_BILLION = _in_each(
    Subject("1b", "1B Llama", "cpu", "", _make_1b, num_tokens=24),
    fp32={"num_repetitions": 2},
    bf16={"num_repetitions": 3},
)

SUBJECTS: dict[str, Subject] = {
    subject.name: subject
    for subject in (
        _TINY,
        _EMBEDDED,
        *_ONE_BILLION,
        *_published("llava-rad", "LLaVA-Rad 7B"),
        *_published("chexagent", "CheXagent 3B"),
    )
}
