"""A radiograph on its way to the browser: every stored bit, and the ways in which to look at it.

Pure functions of a `Radiograph`; knows no Gradio and no visitor. The browser applies the same order as
imaging.rendering does (Modality LUT, VOI, polarity; PS3.4 N.2), so what is seen there can be tested here.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_assistant.imaging.rendering import encode_png, modality_values, render_for_people
from cxr_assistant.study import LinearRescale, LookupTable, Radiograph, VoiFunction

__all__ = ["Preset", "describe", "orientation_marks", "pack_pixels", "presets", "thumbnail"]

_SAMPLES = 400_000  # pixels that percentiles are taken from: enough for a stable thousandth
_THUMBNAIL_PX = 160


@dataclass(frozen=True)
class Preset:
    """One way to look at a film, in modality values: a window, or a table over all stored values."""

    name: str
    center: float
    width: float
    function: str = VoiFunction.LINEAR.value
    table: str = ""  # base64 of one display byte per stored value, from the smallest that occurs

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "center": self.center,
            "width": self.width,
            "function": self.function,
            "table": self.table,
        }


def pack_pixels(radiograph: Radiograph) -> bytes:
    """The stored values minus their minimum, zlib-compressed: the low bytes, then the high bytes if any.

    Two planes compress better than interleaved bytes, and a byte stream cannot be changed by a browser's
    colour management, as a PNG could.
    """
    shifted = (radiograph.stored.astype(np.int64) - int(radiograph.stored.min())).astype(np.uint32)
    low = (shifted & 0xFF).astype(np.uint8).tobytes()
    high = (shifted >> 8).astype(np.uint8).tobytes() if int(shifted.max()) > 0xFF else b""
    return zlib.compress(low + high, level=1)


def presets(radiograph: Radiograph) -> tuple[Preset, ...]:
    """The file's own windows by their explanations, then windows made from the film's own values.

    Never CT numbers: a radiograph's values mean nothing outside of its own file.
    """
    values = _sample(modality_values(radiograph))
    own = [*_own_tables(radiograph), *_own_windows(radiograph)]
    if radiograph.is_inverted:
        values = -values  # percentiles count from air to bone, whichever way the file stores them
    full = _between("Full range", float(values.min()), float(values.max()))
    made = [
        _percentiles("Auto", values, 1, 99),
        _percentiles("Lung", values, 1, 70),
        _percentiles("Mediastinum and bone", values, 40, 99.8),
        full,
    ]
    if radiograph.is_inverted:
        made = [Preset(p.name, 1.0 - p.center, p.width, p.function) for p in made]
    if not own and radiograph.bits_stored <= 8:
        own = [Preset("As stored", 128.0, 256.0)]  # an 8-bit picture already is a display picture
    return (*own, *made)


def describe(radiograph: Radiograph) -> dict[str, Any]:
    """What the viewer's script needs besides the pixels: size, transforms, presets, marks, spacing."""
    modality = radiograph.modality
    low, high = int(radiograph.stored.min()), int(radiograph.stored.max())
    return {
        "width": radiograph.width,
        "height": radiograph.height,
        "offset": low,
        "top": high,
        "planes": 2 if high - low > 0xFF else 1,
        "slope": modality.slope if isinstance(modality, LinearRescale) else 1.0,
        "intercept": modality.intercept if isinstance(modality, LinearRescale) else 0.0,
        "modality": _modality_table(modality, low, high) if isinstance(modality, LookupTable) else None,
        "inverted": radiograph.is_inverted,
        "spacing": list(radiograph.pixel_spacing_mm) if radiograph.pixel_spacing_mm else None,
        "marks": orientation_marks(radiograph),
        "presets": [preset.as_dict() for preset in presets(radiograph)],
    }


def orientation_marks(radiograph: Radiograph) -> dict[str, str]:
    """Which side of the patient lies at each edge: the coded orientation, or nothing where it is unknown.

    Patient Orientation (0020,0020) names the directions in which rows and columns run; on a standard
    frontal film rows run to the patient's left, so the patient's left is on the viewer's right.
    """
    if radiograph.orientation is None:
        return {}
    right, bottom = radiograph.orientation
    return {"left": _opposite(right), "right": right, "top": _opposite(bottom), "bottom": bottom}


def thumbnail(radiograph: Radiograph) -> bytes:
    """A small PNG of the film as people see it."""
    shown = render_for_people(radiograph)
    step = max(1, max(radiograph.height, radiograph.width) // _THUMBNAIL_PX)
    height, width = radiograph.height // step, radiograph.width // step
    # Means, not every n-th pixel: noise and grids would turn into patterns.
    blocks = shown[: height * step, : width * step].reshape(height, step, width, step)
    return encode_png(blocks.mean(axis=(1, 3)))


def _own_windows(radiograph: Radiograph) -> list[Preset]:
    return [
        Preset(
            w.explanation or ("File window" if len(radiograph.windows) == 1 else f"File window {n}"),
            w.center,
            w.width,
            w.function.value,
        )
        for n, w in enumerate(radiograph.windows, start=1)
    ]


def _own_tables(radiograph: Radiograph) -> list[Preset]:
    """The file's VOI LUTs as the display bytes that each gives to every stored value that can occur."""
    low, high = int(radiograph.stored.min()), int(radiograph.stored.max())
    ramp = np.arange(low, high + 1, dtype=np.int32).reshape(1, -1)
    return [
        _own_table(table, radiograph, ramp, "" if len(radiograph.voi_luts) == 1 else f" {n}")
        for n, table in enumerate(radiograph.voi_luts, start=1)
    ]


def _own_table(table: LookupTable, radiograph: Radiograph, ramp: NDArray[np.int32], number: str) -> Preset:
    all_values = _with_pixels(replace(radiograph, voi_luts=(table,)), ramp)
    shown = render_for_people(all_values)[0]
    shown = 1.0 - shown if radiograph.is_inverted else shown  # the browser inverts, once and last
    greys = base64.b64encode(np.rint(shown * 255).astype(np.uint8).tobytes()).decode("ascii")
    # Where a drag goes on from: the window over the values between nearly black and nearly white.
    values = modality_values(all_values)[0][(shown > 0.01) & (shown < 0.99)]
    ends = (
        (float(values.min()), float(values.max())) if values.size else (float(ramp[0, 0]), float(ramp[0, -1]))
    )
    window = _between("", *ends)
    return Preset(table.explanation or f"File table{number}", window.center, window.width, table=greys)


def _modality_table(table: LookupTable, low: int, high: int) -> list[int]:
    index = np.clip(np.arange(low, high + 1) - table.first_mapped, 0, len(table.values) - 1)
    return [int(value) for value in table.values[index]]


def _with_pixels(radiograph: Radiograph, stored: NDArray[np.int32]) -> Radiograph:
    return replace(radiograph, stored=stored)


def _sample(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Some of the film's values, borders left out: collimation and side markers are no anatomy."""
    height, width = values.shape
    inner = values[height // 20 : height - height // 20, width // 20 : width - width // 20]
    flat = (inner if inner.size else values).ravel()
    return flat[:: max(1, flat.size // _SAMPLES)]


def _percentiles(name: str, values: NDArray[np.float32], low: float, high: float) -> Preset:
    return _between(name, float(np.percentile(values, low)), float(np.percentile(values, high)))


def _between(name: str, low: float, high: float) -> Preset:
    """The window that shows `low` as black and `high` as white (LINEAR, PS3.3 C.11.2.1.2)."""
    width = max(high - low, 1.0) + 1.0
    return Preset(name, round((low + high) / 2 + 0.5, 3), round(width, 3))


def _opposite(direction: str) -> str:
    pairs = {"L": "R", "R": "L", "A": "P", "P": "A", "H": "F", "F": "H"}
    return "".join(pairs.get(letter, "") for letter in direction)
