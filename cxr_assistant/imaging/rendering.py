"""Radiograph -> pictures: one rendering for people, and one for each way in which models were trained.

Knows the order of DICOM's transforms (PS3.4 N.2: Modality LUT, VOI LUT, polarity) and how
MIMIC-CXR-JPG was made. Must not know files, checkpoints or anything about a patient.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr_assistant.errors import UnusableImage
from cxr_assistant.study import LinearRescale, LookupTable, Radiograph, VoiFunction, Window

__all__ = ["Rendering", "encode_png", "modality_values", "render_for_model", "render_for_people"]

_PICTURE_SOURCES = frozenset({"PNG", "JPEG"})
_Transform = Callable[[NDArray[np.float64]], NDArray[np.float64]]
_WIDEST_TABLE = 1 << 17  # stored values of up to 16 bits, signed or not


class Rendering(StrEnum):
    """How a model's training pictures were made from DICOM."""

    DISPLAY = "display"  # the display pipeline, as a person sees the film
    STRUCTURE = "structure"  # the same, with maps of thin upright lines and of blobs as further channels
    MIMIC_CXR_JPG = "mimic-cxr-jpg"  # min-max, inverted for MONOCHROME1, histogram-equalised


def modality_values(radiograph: Radiograph) -> NDArray[np.float32]:
    """The pixels after the Modality LUT: (H, W), in the units that windows refer to."""
    return _apply(radiograph, lambda stored: _modality(radiograph, stored))


def render_for_people(radiograph: Radiograph, window: Window | None = None) -> NDArray[np.float32]:
    """The film as a viewing station shows it; `window` replaces the file's own VOI transform.

    Without any, the file's first VOI LUT is used, else its first window, else the range of its values
    (an 8-bit picture is shown as it is).

    Returns: (H, W) in [0, 1]; 0 is black (air), 1 is white (bone, metal).
    """

    def display(stored: NDArray[np.float64]) -> NDArray[np.float64]:
        shown = _voi(radiograph, _modality(radiograph, stored), window)
        # Once, and last: Window Center refers to values before inversion (PS3.3 C.11.2.1.2).
        return 1.0 - shown if radiograph.is_inverted else shown

    return _apply(radiograph, display)


def render_for_model(radiograph: Radiograph, rendering: Rendering) -> NDArray[np.uint8]:
    """The 8-bit picture that a model trained on `rendering` expects: (H, W), air dark.

    PNG and JPEG already are display pictures: 8 bits pass unchanged, 16 bits are min-max scaled.
    """
    if _is_picture(radiograph) or rendering is not Rendering.MIMIC_CXR_JPG:
        levels = np.rint(render_for_people(radiograph) * np.float32(255))
        return cast(NDArray[np.uint8], levels.astype(np.uint8))
    # MIMIC-CXR-JPG (Johnson et al., arXiv 1901.07042): shift to zero, divide by the largest value,
    # truncate to 8 bits, invert MONOCHROME1, then OpenCV's equalizeHist.
    # TODO(limit): the paper was not re-read for this. The conversion that QTIM-Lab/PXS-score credits to
    # CheXpert's first author takes the same steps in the same order.
    film = _in_whole_numbers(radiograph)
    low, high = _range_of(film)

    def scaled(stored: NDArray[np.float64]) -> NDArray[np.float64]:
        gray = np.floor((_modality(film, stored) - low) / ((high - low) or 1.0) * 255.0)
        return 255.0 - gray if film.is_inverted else gray

    return _equalise(_apply(film, scaled).astype(np.uint8))


def encode_png(pixels: NDArray[Any]) -> bytes:
    """PNG bytes of (H, W) or (H, W, 3) uint8, (H, W) uint16, or floats in [0, 1]; nothing but pixels."""
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)
    if pixels.dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise UnusableImage(
            f"A PNG holds 8 or 16 bits without sign; these pixels are {pixels.dtype}.",
            hint="Render the radiograph first.",
        )
    with io.BytesIO() as file:
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=1)
        return file.getvalue()


def _apply(radiograph: Radiograph, transform: _Transform) -> NDArray[np.float32]:
    """`transform` of every pixel, through a table of the stored values that occur.

    One film has millions of pixels and at most 65,536 values: the table keeps double precision and
    costs one look-up per pixel.
    """
    stored = radiograph.stored
    low, high = int(stored.min()), int(stored.max())
    if high - low >= _WIDEST_TABLE:
        return np.asarray(transform(stored.astype(np.float64)), dtype=np.float32)
    table = transform(np.arange(low, high + 1, dtype=np.float64)).astype(np.float32)
    index = stored if low == 0 else stored.astype(np.int32) - low
    return cast(NDArray[np.float32], table[index])


def _modality(radiograph: Radiograph, stored: NDArray[np.float64]) -> NDArray[np.float64]:
    if isinstance(radiograph.modality, LinearRescale):
        return stored * radiograph.modality.slope + radiograph.modality.intercept
    return _look_up(radiograph.modality, stored)


def _voi(r: Radiograph, values: NDArray[np.float64], window: Window | None) -> NDArray[np.float64]:
    # A file with both is shown through its table: the more specific description of what was meant.
    if window is None and r.voi_luts:
        table = r.voi_luts[0]
        top = max(2**table.bits - 1, int(table.values.max()))
        shown: NDArray[np.float64] = _look_up(table, values) / top
        return shown
    if window is None and r.windows:
        window = r.windows[0]
    if window is not None:
        return _through_window(window, values)
    if _is_picture(r) and r.bits_stored <= 8:
        return values / 255.0
    low, high = _range_of(r)
    return np.clip((values - low) / ((high - low) or 1.0), 0.0, 1.0)


def _through_window(window: Window, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, with the output range [0, 1]."""
    if window.function is VoiFunction.SIGMOID:
        exponent = np.clip(-4.0 * (values - window.center) / window.width, -700.0, 700.0)
        return np.asarray(1.0 / (1.0 + np.exp(exponent)))
    if window.function is VoiFunction.LINEAR_EXACT:
        return np.clip((values - window.center) / window.width + 0.5, 0.0, 1.0)
    if window.width <= 1.0:  # a step: the formula's slope would be infinite
        return np.where(values > window.center - 0.5, 1.0, 0.0)
    return np.clip((values - (window.center - 0.5)) / (window.width - 1.0) + 0.5, 0.0, 1.0)


def _in_whole_numbers(radiograph: Radiograph) -> Radiograph:
    """The film with a slope of 1 or -1: min-max cancels the rest, and a rounded minimum would be truncated to
    -1, which 8 bits hold as white."""
    if not isinstance(radiograph.modality, LinearRescale):
        return radiograph
    return replace(radiograph, modality=LinearRescale(math.copysign(1.0, radiograph.modality.slope)))


def _look_up(table: LookupTable, values: NDArray[np.float64]) -> NDArray[np.float64]:
    index = np.clip(np.rint(values) - table.first_mapped, 0, len(table.values) - 1).astype(np.intp)
    return cast(NDArray[np.float64], table.values[index].astype(np.float64))


def _range_of(radiograph: Radiograph) -> tuple[float, float]:
    """The smallest and largest modality value that occurs in the film."""
    values = modality_values(radiograph)
    return float(values.min()), float(values.max())


def _equalise(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """OpenCV's `equalizeHist`: the lowest gray level that occurs becomes 0, the highest 255."""
    counts = np.bincount(gray.ravel(), minlength=256)
    first = int(np.flatnonzero(counts)[0])
    others = int(counts.sum() - counts[first])
    if others == 0:
        return gray
    cumulative = np.cumsum(counts) - counts[: first + 1].sum()
    table = np.clip(np.rint(np.float32(cumulative) * np.float32(255.0 / others)), 0, 255)
    return cast(NDArray[np.uint8], table.astype(np.uint8)[gray])


def _is_picture(radiograph: Radiograph) -> bool:
    return radiograph.source in _PICTURE_SOURCES
