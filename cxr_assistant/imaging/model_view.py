"""A film as a model sees it: the very square that its tower takes, and where that square lies on the film.

Knows an `ImageSpec` and a radiograph, by the same functions that prepare the tensor; must not know which
checkpoint asks, nor how the picture is shown to a person.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxr_assistant.imaging.rendering import render_for_model
from cxr_assistant.imaging.transforms import ImageSpec, ResizeRule, crop_box, to_square
from cxr_assistant.study import Radiograph

__all__ = ["Frame", "ModelView", "frame_of", "model_view"]


class Frame(NamedTuple):
    """A rectangle in fractions of the film; beyond 0 to 1 lies the black that a film was padded with."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    @property
    def cut_off(self) -> float:
        """The share of the film's area that lies outside."""
        width = min(self.x_max, 1.0) - max(self.x_min, 0.0)
        height = min(self.y_max, 1.0) - max(self.y_min, 0.0)
        return 1.0 - width * height


@dataclass(frozen=True, eq=False)
class ModelView:
    """`pixels` (S, S) uint8 before normalisation; `frame` is where they lie on the film."""

    pixels: NDArray[np.uint8]
    frame: Frame


def model_view(radiograph: Radiograph, spec: ImageSpec) -> ModelView:
    """The film rendered, cut or padded, and resized for `spec`: what `prepare` goes on to normalise."""
    return ModelView(
        to_square(render_for_model(radiograph, spec.rendering), spec), frame_of(radiograph, spec)
    )


def frame_of(radiograph: Radiograph, spec: ImageSpec) -> Frame:
    """Where the model's square lies on the film, by arithmetic alone."""
    if spec.resize is not ResizeRule.PAD:
        box = crop_box(radiograph, spec)
        return Frame(box.x_min, box.y_min, box.x_max, box.y_max)
    side, width, height = max(radiograph.width, radiograph.height), radiograph.width, radiograph.height
    left, top = (side - width) // 2, (side - height) // 2
    return Frame(-left / width, -top / height, (side - left) / width, (side - top) / height)
