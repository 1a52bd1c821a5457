"""Pieces of text and films -> a Prompt: ids in order, a span for each image.

Knows how pieces are joined; must not know any checkpoint's wording.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from cxr_assistant.errors import MissingRadiograph
from cxr_assistant.imaging.transforms import ImageSpec, prepare
from cxr_assistant.models.vlm import ImageSpan, Processor, Prompt
from cxr_assistant.study import Radiograph, Study

__all__ = ["assemble", "image_digest", "require_frontal"]

_FILLER_ID = 0  # stands inside image spans, never looked up

Piece = str | int | Radiograph
"""Plain text, one token by its id, or a film."""


def assemble(pieces: Iterable[Piece], processor: Processor) -> Prompt:
    """Encode each text piece on its own, put BOS first if the family has one, and a span for each film."""
    token_ids: list[int] = [] if processor.bos_token_id is None else [processor.bos_token_id]
    spans: list[ImageSpan] = []
    films: list[Radiograph] = []
    for piece in pieces:
        if isinstance(piece, Radiograph):
            spans.append(ImageSpan(len(token_ids), processor.num_image_tokens))
            token_ids.extend([_FILLER_ID] * processor.num_image_tokens)
            films.append(piece)
        elif isinstance(piece, int):
            token_ids.append(piece)
        else:
            token_ids.extend(processor.tokenizer.encode(piece))
    return Prompt(
        token_ids=tuple(token_ids),
        image_spans=tuple(spans),
        pixel_values=_stack(films, processor.image),
        digests=tuple(image_digest(film, processor.image) for film in films),
    )


def image_digest(radiograph: Radiograph, image: ImageSpec) -> str:
    """The identity of a picture as one tower sees it: of the film and of how it is prepared."""
    return hashlib.sha256(f"{radiograph.digest} {image!r}".encode()).hexdigest()


def require_frontal(study: Study) -> Radiograph:
    """The study's frontal film; raises MissingRadiograph when there is none."""
    if study.frontal is None:
        found = "a lateral film only" if study.radiographs else "no radiograph"
        raise MissingRadiograph(
            f"This model reads a frontal radiograph; the study holds {found}.", hint="Add the frontal film."
        )
    return study.frontal


def _stack(
    films: Sequence[Radiograph], image: ImageSpec
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    if not films:
        return np.zeros((0, image.channels, image.size_px, image.size_px), np.float32)
    return np.stack([prepare(film, image) for film in films])
