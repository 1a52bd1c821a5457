"""8-bit picture -> the tensor a vision tower was trained on: resize, crop or pad, normalise.

Follows PIL's resampling and each paper's rounding to the bit; it must not know which checkpoint asks
(every number arrives in an `ImageSpec`), nor how the picture was made.
"""

# H, W height and width of the film; C channels; S side of the square that the tower takes

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr_assistant.imaging.rendering import Rendering, render_for_model
from cxr_assistant.imaging.structure import structure_maps
from cxr_assistant.report import BoundingBox
from cxr_assistant.study import Radiograph

__all__ = ["ImageSpec", "ResizeRule", "crop_box", "prepare", "prepare_pixels", "to_square"]

_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
}


class ResizeRule(StrEnum):
    """How a film that is not square becomes a square."""

    CROP = "shortest-side-then-centre-crop"  # offset rounded half to even, as open_clip's CenterCrop
    CROP_FLOOR = "shortest-side-then-floored-centre-crop"  # offset // 2, as CLIPImageProcessor
    SQUASH = "squash"
    PAD = "pad-to-square"  # with black, centred

    @property
    def cuts_ends(self) -> bool:
        return self in (ResizeRule.CROP, ResizeRule.CROP_FLOOR)


@dataclass(frozen=True)
class ImageSpec:
    """What a checkpoint's vision tower expects; `mean` and `std` refer to values in [0, 1]."""

    size_px: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: ResizeRule
    resampling: Literal["bicubic", "lanczos", "bilinear"]
    rendering: Rendering

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}; allowed: 1, 3.")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need {self.channels} values: {self.mean}, {self.std}.")
        if self.resampling not in _RESAMPLING:
            raise ValueError(f"resampling is {self.resampling!r}; allowed: {', '.join(_RESAMPLING)}.")


class _Size(NamedTuple):
    width: int
    height: int


def prepare(radiograph: Radiograph, spec: ImageSpec) -> NDArray[np.float32]:
    """The film as the tower sees it: (C, S, S), normalised."""
    return prepare_pixels(render_for_model(radiograph, spec.rendering), spec)


def prepare_pixels(pixels: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.float32]:
    """`pixels` (H, W) or (H, W, 3) -> (C, S, S), normalised."""
    square = to_square(pixels, spec)
    # A gray picture is resized once: PIL treats the channels of RGB alike, so copies are equal.
    values_HWC = square.astype(np.float32).reshape(spec.size_px, spec.size_px, -1) / np.float32(255)
    if spec.rendering is Rendering.STRUCTURE:
        values_HWC = structure_maps(values_HWC[..., 0]).transpose(1, 2, 0)
    mean_C, std_C = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
    normalised = (values_HWC - mean_C) / std_C
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def to_square(pixels: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.uint8]:
    """`pixels` (H, W) or (H, W, 3) -> (S, S) or (S, S, 3), before normalisation."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if spec.channels == 1 or spec.rendering is Rendering.STRUCTURE:
        picture = picture.convert("L")
    return np.asarray(_to_square(picture, spec))


def crop_box(radiograph: Radiograph, spec: ImageSpec) -> BoundingBox:
    """The part of the film that the model sees; the whole film unless the rule cuts its ends."""
    if not spec.resize.cuts_ends:
        return BoundingBox(0.0, 0.0, 1.0, 1.0)
    size = _shortest_side(_Size(radiograph.width, radiograph.height), spec.size_px)
    left, top = _crop_offset(size.width, spec), _crop_offset(size.height, spec)
    return BoundingBox(
        left / size.width,
        top / size.height,
        (left + spec.size_px) / size.width,
        (top + spec.size_px) / size.height,
    )


def _to_square(picture: Image.Image, spec: ImageSpec) -> Image.Image:
    side, resampling = spec.size_px, _RESAMPLING[spec.resampling]
    if spec.resize is ResizeRule.PAD:
        picture = _pad(picture)
    if not spec.resize.cuts_ends:
        return picture.resize((side, side), resampling)
    size = _shortest_side(_Size(*picture.size), side)
    left, top = _crop_offset(size.width, spec), _crop_offset(size.height, spec)
    return picture.resize(size, resampling).crop((left, top, left + side, top + side))


def _shortest_side(size: _Size, side: int) -> _Size:
    """The size with its shortest side equal to `side`; the long side is truncated, not rounded."""
    if size.width <= size.height:
        return _Size(side, int(side * size.height / size.width))
    return _Size(int(side * size.width / size.height), side)


def _crop_offset(length: int, spec: ImageSpec) -> int:
    excess = length - spec.size_px
    # Python's round is half to even: an excess of 3 starts at 2, where flooring starts at 1.
    return excess // 2 if spec.resize is ResizeRule.CROP_FLOOR else round(excess / 2.0)


def _pad(picture: Image.Image) -> Image.Image:
    side = max(picture.size)
    padded = Image.new(picture.mode, (side, side))
    padded.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return padded
