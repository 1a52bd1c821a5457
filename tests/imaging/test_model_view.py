"""As the model sees it: the very pixels that are normalised for the tower, at their place on the film."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_assistant.imaging.model_view import frame_of, model_view
from cxr_assistant.imaging.rendering import Rendering
from cxr_assistant.imaging.transforms import ImageSpec, ResizeRule, prepare
from cxr_assistant.study import Radiograph

SIZES = [(300, 200), (200, 300), (257, 190), (64, 64)]


def spec(rule: ResizeRule, rendering: Rendering = Rendering.MIMIC_CXR_JPG, size_px: int = 56) -> ImageSpec:
    return ImageSpec(size_px, 1, (0.4,), (0.2,), rule, "bicubic", rendering)


def film(height: int, width: int) -> Radiograph:
    """A ramp from the upper left to the lower right, so that a place can be told from its value."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return Radiograph(stored=((3 * y + x) * 1000).astype(np.uint16), bits_stored=12, source="DICOM")


@pytest.mark.parametrize("rule", list(ResizeRule))
@pytest.mark.parametrize("rendering", [Rendering.MIMIC_CXR_JPG, Rendering.DISPLAY])
def test_the_picture_is_what_the_tower_is_given(rule: ResizeRule, rendering: Rendering) -> None:
    radiograph, wanted = film(257, 190), spec(rule, rendering)
    seen = model_view(radiograph, wanted).pixels.astype(np.float32) / np.float32(255)
    assert ((seen - np.float32(0.4)) / np.float32(0.2) == prepare(radiograph, wanted)[0]).all()


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("rule", list(ResizeRule))
def test_the_frame_is_where_the_pixels_come_from(rule: ResizeRule, height: int, width: int) -> None:
    radiograph, wanted = film(height, width), spec(rule, Rendering.DISPLAY)
    view = model_view(radiograph, wanted)
    frame, shown = view.frame, view.pixels / 255.0
    for row, column in ((20, 20), (28, 40), (40, 15)):
        y = frame.y_min + (row + 0.5) / 56 * (frame.y_max - frame.y_min)
        x = frame.x_min + (column + 0.5) / 56 * (frame.x_max - frame.x_min)
        assert shown[row, column] == pytest.approx((3 * y + x) / 4, abs=0.012)


def test_what_is_cut_off_is_a_share_of_the_film() -> None:
    assert frame_of(film(200, 100), spec(ResizeRule.CROP)).cut_off == pytest.approx(0.5, abs=0.01)
    assert frame_of(film(200, 100), spec(ResizeRule.PAD)).cut_off == 0
    assert frame_of(film(200, 100), spec(ResizeRule.SQUASH)).cut_off == 0
