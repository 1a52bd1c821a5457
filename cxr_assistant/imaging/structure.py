"""Where a picture has long thin upright lines and bright blobs: maps of structure beside the film itself.

Curvature is the second derivative at one scale (Frangi et al., MICCAI 1998; Sato et al., 1998): across a
line it is strong, in a blob it is strong in every direction, at a rib or a border it is weak in one. Tubes
and catheters run with the body's long axis and go on for centimetres, where vessels and ribs do not: what
bends across is averaged along. A small tower finds lines, tubes and nodules in these maps, which it would
need far more pictures to find in the film.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["structure_maps"]

Picture = NDArray[np.float32]

# Lengths for a film of 336 pixels: 1.2 mm each.
LINE_SIGMA_PX, LINE_REACH_PX, LINE_GAIN = 1.0, 8, 22.0  # a catheter is 2 pixels wide, averaged over 17
LINE_TILTS_DEG = (-48, -24, 0, 24, 48)  # from upright
BLOB_SIGMA_PX, BLOB_GAIN = 5.0, 500.0  # nodules are 12 to 22 pixels wide


def structure_maps(film: Picture) -> NDArray[np.float32]:
    """(3, H, W) in [0, 1] from (H, W) in [0, 1]: the film, upright thin bright lines, bright blobs."""
    lines = np.clip(-LINE_GAIN * _upright(film), 0, 1)
    xx, yy, xy = _second_derivatives(film, BLOB_SIGMA_PX)
    weaker = (xx + yy) / 2 + np.hypot((xx - yy) / 2, xy)
    return np.stack([film, lines, np.clip(-BLOB_GAIN * weaker, 0, 1)])


def _upright(film: Picture) -> Picture:
    """(H, W) the most negative curvature across any nearly upright line, averaged along that line."""
    xx, yy, xy = _second_derivatives(film, LINE_SIGMA_PX)
    lowest = np.zeros_like(film)
    for tilt in np.radians(LINE_TILTS_DEG):
        cos, sin = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
        across = cos * cos * xx + sin * sin * yy + 2 * sin * cos * xy
        np.minimum(lowest, _averaged_along(across, float(tilt)), out=lowest)
    return lowest


def _averaged_along(values: Picture, tilt: float) -> Picture:
    """The mean over a straight segment through each pixel; `tilt` is its angle from upright in radians."""
    reach = LINE_REACH_PX
    padded = np.pad(values, reach)
    height, width = values.shape
    total = np.zeros_like(values)
    for step in range(-reach, reach + 1):
        row, column = reach + round(step * np.cos(tilt)), reach - round(step * np.sin(tilt))
        total += padded[row : row + height, column : column + width]
    return total / np.float32(2 * reach + 1)


def _gaussian(sigma_px: float) -> NDArray[np.float32]:
    """A Gaussian of unit sum, cut off at three standard deviations."""
    reach = np.arange(-round(3 * sigma_px), round(3 * sigma_px) + 1)
    kernel = np.exp(-(reach**2) / (2 * sigma_px**2))
    return np.asarray(kernel / kernel.sum(), np.float32)


def _second_derivatives(film: Picture, sigma_px: float) -> tuple[Picture, Picture, Picture]:
    """d2/dx2, d2/dy2 and d2/dxdy of the film smoothed with a Gaussian, zero at the border."""
    smooth = _blurred(film, _gaussian(sigma_px))
    xx, yy, xy = (np.zeros_like(smooth) for _ in range(3))
    xx[:, 1:-1] = smooth[:, 2:] - 2 * smooth[:, 1:-1] + smooth[:, :-2]
    yy[1:-1] = smooth[2:] - 2 * smooth[1:-1] + smooth[:-2]
    xy[1:-1, 1:-1] = (smooth[2:, 2:] - smooth[2:, :-2] - smooth[:-2, 2:] + smooth[:-2, :-2]) / 4
    return xx, yy, xy


def _blurred(film: Picture, kernel: NDArray[np.float32]) -> Picture:
    reach = len(kernel) // 2
    for axis in (0, 1):
        padded = np.pad(film, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        length = film.shape[axis]
        film = np.zeros_like(film)
        for start, weight in enumerate(kernel):
            film += weight * (
                padded[start : start + length] if axis == 0 else padded[:, start : start + length]
            )
    return film
