"""The blindness test: another picture must change what the model is about to say.

A checkpoint loaded without its visual tensors writes fluent prose about an image that it never saw; this
is the last gate before a converted folder is accepted. Knows models only by their three verbs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cxr_assistant.conversation import Conversation
from cxr_assistant.errors import WeightsMismatch
from cxr_assistant.study import Radiograph, Study, ViewPosition
from cxr_assistant.tasks import Task

if TYPE_CHECKING:
    from torch import Tensor

    from cxr_assistant.checkpoints.spec import Checkpoint, CheckpointModule
    from cxr_assistant.models.vlm import Prompt, VisionLanguageModel

__all__ = ["measure_image_effect", "require_sight"]

SMALLEST_EFFECT = 1e-3
"""In units of the logits' own standard deviation; a blind model shows exactly 0, a random one about 1."""

MOST_IMAGE_TOKENS = 64
"""Of each picture: a 7B model reads them in a minute on two cores, the 1,369 of the whole in ten."""

_SIDE_PX = 256


def require_sight(checkpoint: Checkpoint, module: CheckpointModule, model: VisionLanguageModel) -> float:
    """The largest change of the next-token logits between two pictures; raises WeightsMismatch if none."""
    effect, spread = measure_image_effect(checkpoint, module, model)
    if not effect > SMALLEST_EFFECT * spread:  # also refuses NaN
        raise WeightsMismatch(
            f"{checkpoint.title} ignores the image: two different pictures lead to the same answer.",
            hint="Its visual weights were not loaded, or are damaged. Delete the download and fetch again.",
            code="blind",
        )
    return effect


def measure_image_effect(
    checkpoint: Checkpoint, module: CheckpointModule, model: VisionLanguageModel
) -> tuple[float, float]:
    """Largest change of the next-token logits between two pictures, and the logits' standard deviation."""
    first, second = (_next_logits(checkpoint, module, model, picture) for picture in _pictures())
    return float(np.abs(first - second).max()), float(first.std())


def _next_logits(
    checkpoint: Checkpoint, module: CheckpointModule, model: VisionLanguageModel, picture: Radiograph
) -> np.ndarray:
    task = _task_on_one_image(checkpoint)
    study = Study().with_radiograph(picture)
    prompt = module.render(checkpoint, study, Conversation().ask(""), task, model.processor)
    shorter, embeds = _thin_out(prompt, model.encode(prompt.pixel_values))
    logits = model.prefill(shorter, embeds, model.new_cache(len(shorter) + 1))
    return np.asarray(logits[0].float().cpu().numpy())


def _thin_out(prompt: Prompt, embeds: Tensor) -> tuple[Prompt, Tensor]:
    """The same prompt with at most MOST_IMAGE_TOKENS evenly spaced embeddings of its picture."""
    (span,) = prompt.image_spans
    kept = embeds[:, :: -(-span.length // MOST_IMAGE_TOKENS)]
    ids, num_kept = prompt.token_ids, kept.shape[1]
    shorter = replace(
        prompt,
        token_ids=(*ids[: span.start], *ids[span.start : span.start + num_kept], *ids[span.stop :]),
        image_spans=(span._replace(length=num_kept),),
    )
    return shorter, kept


def _task_on_one_image(checkpoint: Checkpoint) -> Task:
    """The first task that needs one picture and no words of a person; a question otherwise."""
    plain = (
        task
        for task, wording in checkpoint.tasks.items()
        if wording.num_images == 1 and not wording.needs_text and not wording.needs_prior
    )
    return next(plain, Task.QUESTION)


def _pictures() -> tuple[Radiograph, Radiograph]:
    """Two frontal pictures that share no structure: a disc on black, and noise."""
    rows, columns = np.mgrid[0:_SIDE_PX, 0:_SIDE_PX] - _SIDE_PX / 2
    disc = (220 * (np.hypot(rows, columns) < _SIDE_PX / 3)).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (_SIDE_PX, _SIDE_PX), dtype=np.uint8)
    return tuple(Radiograph(stored=p, bits_stored=8, view=ViewPosition.PA) for p in (disc, noise))  # type: ignore[return-value]
