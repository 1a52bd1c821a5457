"""A hint that text may be drawn into a picture, from its pixels alone.

Knows what a line of letters looks like: many thin strokes, side by side, in a low band. It reads no
letter, misses large, faint or handwritten text, and is a hint: neither "yes" nor "no" is a guarantee.
"""

# H, W height and width; h, w height and width of a cell

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_assistant.imaging import notices
from cxr_assistant.study import Radiograph

__all__ = ["seems_to_contain_text", "with_text_hint"]

_SCALES_PX = (1, 2, 3, 4)  # a stroke is at most twice as wide
_LARGE_FILM_PX = 1500  # letters with strokes of one pixel are for small pictures
_CONTRAST = 0.35  # of the picture's own range; anatomy changes more slowly
_CELL = (6, 40)  # height and width of a cell in units of the scale: some four letters
_MIN_STROKES = 4
_MIN_ROWS = 3  # of a cell, whose height is a multiple of it
_MIN_NEIGHBOURS = 2  # cells side by side: a side marker with initials fills one cell, a name two or more
_SLAB_ROWS = 128  # half a megabyte of a film, which a core's own cache holds
_FEWEST_PIXELS = _MIN_STROKES * _MIN_ROWS * _MIN_NEIGHBOURS  # with less there is nothing to look for


def with_text_hint(radiograph: Radiograph) -> Radiograph:
    """`radiograph` with a notice when there may be text in it and the file itself does not say so."""
    if notices.BURNED_IN in radiograph.notices or not seems_to_contain_text(radiograph.stored):
        return radiograph
    return replace(radiograph, notices=(*radiograph.notices, notices.MAYBE_BURNED_IN))


def seems_to_contain_text(pixels: NDArray[np.integer[Any]]) -> bool:
    """Whether two neighbouring cells of (H, W) `pixels` are full of strokes, bright or dark."""
    every = 16 if min(pixels.shape) > _LARGE_FILM_PX else 4
    low, high = (float(value) for value in np.percentile(pixels[::every, ::every], [1, 99]))
    threshold = int(_CONTRAST * max(high - low, 1.0))
    first = 1 if min(pixels.shape) > _LARGE_FILM_PX else 0
    for scale in _SCALES_PX[first:]:
        # Letters are taller than their strokes are wide, so every scale-th row is enough.
        rows_HW = _lively_bands(pixels[::scale], threshold, 2 * scale)
        if rows_HW.size and any(_has_line(s, scale) for s in _strokes(rows_HW, threshold, 2 * scale)):
            return True
    return False


def _lively_bands(rows_HW: NDArray[np.integer[Any]], threshold: int, reach: int) -> NDArray[np.int32]:
    """The bands of rows in which a cell could be full. A stroke needs a step up and a step down, and most
    rows of most films have none: the look at strokes is for the few that are left. One row in `_MIN_ROWS` is
    asked, so that of as many rows side by side one always is; text in every other row alone may be missed."""
    height, columns = _CELL[0], rows_HW.shape[1]
    num_bands = len(rows_HW) // height
    if num_bands == 0:
        return np.zeros((0, columns), np.int32)
    asked = rows_HW[: num_bands * height : _MIN_ROWS]
    is_row = np.concatenate([  # slab by slab, so that what is compared stays in the cache
        _count_steps(asked[top : top + _SLAB_ROWS], threshold, reach) >= 2 * _MIN_STROKES
        for top in range(0, len(asked), _SLAB_ROWS)
    ])  # fmt: skip
    is_kept = is_row.reshape(num_bands, height // _MIN_ROWS).any(axis=1)
    bands = rows_HW[: num_bands * height].reshape(num_bands, height, columns)
    kept: NDArray[np.int32] = bands[is_kept].reshape(-1, columns).astype(np.int32)
    return kept


def _count_steps(rows_HW: NDArray[np.integer[Any]], threshold: int, reach: int) -> NDArray[np.intp]:
    """In each row, the pixels that differ from the one `reach` beside them by more than `threshold`."""
    left, right = rows_HW[:, :-reach], rows_HW[:, reach:]
    step = np.maximum(left, right) - np.minimum(left, right)
    # Of signed values the step may be too large for the type, never for as many bits without a sign.
    is_steep = step.view(np.dtype(f"u{step.itemsize}")) > threshold
    return np.bincount(np.flatnonzero(is_steep) // is_steep.shape[1], minlength=len(rows_HW))


def _strokes(
    rows_HW: NDArray[Any], threshold: int, reach: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where a pixel is brighter, and where darker, than both pixels `reach` beside it."""
    step = rows_HW[:, reach:] - rows_HW[:, :-reach]
    is_up, is_down = step > threshold, step < -threshold
    return is_up[:, :-reach] & is_down[:, reach:], is_down[:, :-reach] & is_up[:, reach:]


def _has_line(is_stroke_HW: NDArray[np.bool_], scale: int) -> bool:
    height, width = _CELL[0], _CELL[1] * scale
    rows, columns = is_stroke_HW.shape[0] // height, is_stroke_HW.shape[1] // width
    if rows == 0 or columns < _MIN_NEIGHBOURS or np.count_nonzero(is_stroke_HW) < _FEWEST_PIXELS:
        return False
    cells = is_stroke_HW[: rows * height, : columns * width].reshape(rows, height, columns, width)
    num_strokes = (cells[..., 1:] & ~cells[..., :-1]).sum(-1)
    is_full = (num_strokes >= _MIN_STROKES).sum(1) >= _MIN_ROWS
    return bool((is_full[:, 1:] & is_full[:, :-1]).any())
