"""Where a picture has thin bright ridges and bright blobs: curvature maps beside the film itself.

Eigenvalues of the Hessian at two scales (Frangi et al., MICCAI 1998; Sato et al., 1998): a line bends
strongly in one direction, a blob in both, a rib or a border hardly. A small tower finds lines, tubes and
nodules in these maps, which it would need far more pictures to find in the film.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["structure_maps"]

Picture = NDArray[np.float32]

RIDGE_SIGMA_PX, RIDGE_GAIN = 1.0, 14.0  # a catheter is one to two pixels wide at 224
BLOB_SIGMA_PX, BLOB_GAIN = 3.5, 300.0  # nodules are 8 to 15 pixels wide


def structure_maps(film: Picture) -> NDArray[np.float32]:
    """(3, H, W) in [0, 1] from (H, W) in [0, 1]: the film, thin bright ridges, bright blobs."""
    _, across = _curvatures(film, RIDGE_SIGMA_PX)
    along, _ = _curvatures(film, BLOB_SIGMA_PX)
    ridges, blobs = np.clip(-RIDGE_GAIN * across, 0, 1), np.clip(-BLOB_GAIN * along, 0, 1)
    return np.stack([film, ridges, blobs])


def _gaussian(sigma_px: float) -> NDArray[np.float32]:
    """A Gaussian of unit sum, cut off at three standard deviations."""
    reach = np.arange(-round(3 * sigma_px), round(3 * sigma_px) + 1)
    kernel = np.exp(-(reach**2) / (2 * sigma_px**2))
    return np.asarray(kernel / kernel.sum(), np.float32)


def _curvatures(film: Picture, sigma_px: float) -> tuple[Picture, Picture]:
    """The larger and the smaller second derivative over all directions, at one scale, zero at the border."""
    smooth = _blurred(film, _gaussian(sigma_px))
    xx, yy, xy = (np.zeros_like(smooth) for _ in range(3))
    xx[:, 1:-1] = smooth[:, 2:] - 2 * smooth[:, 1:-1] + smooth[:, :-2]
    yy[1:-1] = smooth[2:] - 2 * smooth[1:-1] + smooth[:-2]
    xy[1:-1, 1:-1] = (smooth[2:, 2:] - smooth[2:, :-2] - smooth[:-2, 2:] + smooth[:-2, :-2]) / 4
    middle, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    return (middle + spread).astype(np.float32), (middle - spread).astype(np.float32)


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
