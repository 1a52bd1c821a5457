"""Lines light up in the ridge map, spots in the blob map, borders and ramps in neither."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_assistant.imaging.rendering import Rendering
from cxr_assistant.imaging.structure import structure_maps
from cxr_assistant.imaging.transforms import ImageSpec, ResizeRule, prepare_pixels

SIZE = 64
ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


@pytest.mark.parametrize("angle", [0, 30, 45, 90, 135])
def test_a_thin_line_of_any_direction_is_a_ridge_and_no_blob(angle: int) -> None:
    across = (COLUMNS - 32) * np.cos(np.radians(angle)) + (ROWS - 32) * np.sin(np.radians(angle))
    _, ridges, blobs = structure_maps((0.3 + 0.2 * np.exp(-(across**2) / 2)).astype(np.float32))
    assert ridges[32, 32] > 0.5
    assert blobs[20:44, 20:44].max() < 0.1


def test_a_spot_is_a_blob() -> None:
    distance = np.hypot(ROWS - 30, COLUMNS - 34)
    _, _, blobs = structure_maps((0.3 + 0.1 * np.exp(-(distance**2) / 40)).astype(np.float32))
    assert np.unravel_index(blobs.argmax(), blobs.shape) == (30, 34)
    assert blobs[30, 34] > 0.3


def test_what_is_dark_or_even_is_neither() -> None:
    line = np.exp(-((COLUMNS - 32) ** 2) / 2)
    for film in (0.6 - 0.2 * line, ROWS / SIZE, np.full((SIZE, SIZE), 0.5)):
        _, ridges, blobs = structure_maps(film.astype(np.float32))
        assert ridges[8:56, 32].max() < 0.05
        assert blobs[20:44, 32].max() < 0.05


def test_the_maps_are_made_of_the_picture_that_the_tower_sees() -> None:
    spec = ImageSpec(32, 3, (0.5, 0.1, 0.1), (0.25, 0.2, 0.2), ResizeRule.PAD, "bicubic", Rendering.STRUCTURE)
    film = ImageSpec(32, 1, (0.0,), (1.0,), ResizeRule.PAD, "bicubic", Rendering.DISPLAY)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40)).astype(np.uint8)
    expected = structure_maps(prepare_pixels(pixels, film)[0])
    seen = (
        prepare_pixels(pixels, spec) * np.array(spec.std)[:, None, None] + np.array(spec.mean)[:, None, None]
    )
    np.testing.assert_allclose(seen, expected, atol=1e-6)
