"""Upright lines light up in the line map, spots in the blob map, borders and ramps in neither."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_assistant.imaging.rendering import Rendering
from cxr_assistant.imaging.structure import structure_maps
from cxr_assistant.imaging.transforms import ImageSpec, ResizeRule, prepare_pixels

SIZE = 64
ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


def thin_line(tilt: int) -> np.ndarray:
    """A bright line through the middle, `tilt` degrees from upright."""
    across = (COLUMNS - 32) * np.cos(np.radians(tilt)) + (ROWS - 32) * np.sin(np.radians(tilt))
    return (0.3 + 0.2 * np.exp(-(across**2) / 2)).astype(np.float32)


@pytest.mark.parametrize("tilt", [-48, -24, 0, 24, 48, 35])
def test_a_thin_upright_line_is_a_line_and_no_blob(tilt: int) -> None:
    _, lines, blobs = structure_maps(thin_line(tilt))
    assert lines[32, 32] > 0.5
    assert blobs[20:44, 20:44].max() < 0.1


def test_a_line_across_the_body_is_none() -> None:
    """Ribs, borders of the diaphragm and clavicles run across; tubes and catheters do not."""
    _, lines, _ = structure_maps(thin_line(90))
    assert lines[20:44, 20:44].max() < 0.3


def test_a_long_line_stands_out_against_a_short_one() -> None:
    short = np.where(np.abs(ROWS - 32) < 3, thin_line(0), np.float32(0.3))
    assert structure_maps(short)[1][32, 32] < 0.5 * structure_maps(thin_line(0))[1][32, 32]


def test_a_spot_is_a_blob() -> None:
    distance = np.hypot(ROWS - 30, COLUMNS - 34)
    _, _, blobs = structure_maps((0.3 + 0.1 * np.exp(-(distance**2) / 80)).astype(np.float32))
    assert np.unravel_index(blobs.argmax(), blobs.shape) == (30, 34)
    assert blobs[30, 34] > 0.3


def test_what_is_dark_or_even_is_neither() -> None:
    line = np.exp(-((COLUMNS - 32) ** 2) / 2)
    for film in (0.6 - 0.2 * line, ROWS / SIZE, np.full((SIZE, SIZE), 0.5)):
        _, lines, blobs = structure_maps(film.astype(np.float32))
        assert lines[8:56, 32].max() < 0.05
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
