"""The order of the transforms, and the two renderings."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cxr_assistant.errors import UnusableImage
from cxr_assistant.imaging.rendering import (
    Rendering,
    encode_png,
    modality_values,
    render_for_model,
    render_for_people,
)
from cxr_assistant.study import LinearRescale, LookupTable, Radiograph, VoiFunction, Window


@pytest.fixture
def ramp() -> Radiograph:
    """Every value of 12 bits once, as a DICOM film without any transform."""
    return Radiograph(np.arange(4096, dtype=np.uint16).reshape(64, 64), 12, source="DICOM")


def table(first: int, values: object, bits: int = 8) -> LookupTable:
    return LookupTable(first, np.asarray(values, dtype=np.uint16), bits)


def test_slope_and_intercept_give_modality_values(ramp: Radiograph) -> None:
    film = replace(ramp, modality=LinearRescale(0.5, -100.0))
    np.testing.assert_array_equal(modality_values(film), ramp.stored * np.float32(0.5) - 100)


def test_a_modality_lut_takes_its_nearest_end_outside_of_its_range(ramp: Radiograph) -> None:
    film = replace(ramp, modality=table(10, [7, 8, 9]))
    assert modality_values(film).ravel()[[0, 10, 11, 12, 4000]].tolist() == [7, 7, 8, 9, 9]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (VoiFunction.LINEAR, lambda x: np.clip((x - 1999.5) / 999 + 0.5, 0, 1)),
        (VoiFunction.LINEAR_EXACT, lambda x: np.clip((x - 2000) / 1000 + 0.5, 0, 1)),
        (VoiFunction.SIGMOID, lambda x: 1 / (1 + np.exp(-4 * (x - 2000) / 1000))),
    ],
)
def test_a_window_follows_its_function(ramp: Radiograph, function: VoiFunction, expected: object) -> None:
    film = replace(ramp, windows=(Window(2000, 1000, function),))
    x = ramp.stored.astype(np.float64)
    np.testing.assert_allclose(render_for_people(film), expected(x), atol=1e-7)  # type: ignore[operator]


def test_a_linear_window_of_width_one_is_a_step(ramp: Radiograph) -> None:
    shown = render_for_people(ramp, Window(100, 1)).ravel()
    assert shown[98:102].tolist() == [0, 0, 1, 1]


def test_the_first_window_is_the_default_and_another_can_be_chosen(ramp: Radiograph) -> None:
    narrow, wide = Window(1000, 200), Window(2048, 4096)
    film = replace(ramp, windows=(narrow, wide))
    np.testing.assert_array_equal(render_for_people(film), render_for_people(ramp, narrow))
    assert not np.array_equal(render_for_people(film, wide), render_for_people(film))


def test_a_voi_lut_wins_over_a_window(ramp: Radiograph) -> None:
    film = replace(ramp, windows=(Window(1, 2),), voi_luts=(table(0, np.arange(4096) // 16),))
    np.testing.assert_allclose(render_for_people(film), (ramp.stored // 16) / 255, atol=1e-7)


def test_the_voi_lut_reads_modality_values_not_stored_ones(ramp: Radiograph) -> None:
    film = replace(ramp, modality=LinearRescale(-1.0, 4095.0), voi_luts=(table(0, np.arange(4096) // 16),))
    np.testing.assert_allclose(render_for_people(film), ((4095 - ramp.stored) // 16) / 255, atol=1e-7)


@pytest.mark.parametrize(
    "film",
    [
        pytest.param({}, id="no-window"),
        pytest.param({"windows": (Window(1500, 700),)}, id="window"),
        pytest.param({"windows": (Window(1500, 700, VoiFunction.SIGMOID),)}, id="sigmoid"),
        pytest.param({"modality": LinearRescale(-2.0, 50.0), "windows": (Window(-3000, 900),)}, id="slope"),
        pytest.param({"voi_luts": (table(5, range(250)),)}, id="voi-lut"),
    ],
)
def test_polarity_is_applied_once_and_last(ramp: Radiograph, film: dict[str, object]) -> None:
    normal = replace(ramp, **film)  # type: ignore[arg-type]
    inverted = replace(normal, is_inverted=True)
    np.testing.assert_allclose(render_for_people(inverted), 1 - render_for_people(normal), atol=1e-6)


def test_signed_pixels_are_shown_like_their_shifted_twin(ramp: Radiograph) -> None:
    signed = replace(
        ramp,
        stored=(ramp.stored.astype(np.int32) - 2048).astype(np.int16),
        modality=LinearRescale(1.0, 2048.0),
    )
    np.testing.assert_array_equal(render_for_people(signed), render_for_people(ramp))


def test_wide_integers_are_shown_without_a_table(ramp: Radiograph) -> None:
    wide = replace(ramp, stored=ramp.stored.astype(np.int64) * 1000)
    np.testing.assert_allclose(render_for_people(wide), render_for_people(ramp), atol=1e-6)


def opencv_equalise(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """OpenCV's equalizeHist, written out slowly from its documentation."""
    counts = [int((gray == level).sum()) for level in range(256)]
    first = next(level for level in range(256) if counts[level])
    scale = np.float32(255.0 / (gray.size - counts[first]))
    levels, total = [0] * 256, 0
    for level in range(first + 1, 256):
        total += counts[level]
        levels[level] = int(np.clip(np.rint(np.float32(total) * scale), 0, 255))
    return np.array(levels, np.uint8)[gray]


@pytest.mark.parametrize("is_inverted", [False, True], ids=["monochrome2", "monochrome1"])
def test_a_model_gets_dicom_as_mimic_cxr_jpg_was_made(is_inverted: bool) -> None:
    stored = np.random.default_rng(0).normal(1800, 400, (90, 70)).clip(0, 4095).astype(np.uint16)
    film = Radiograph(stored, 12, is_inverted=is_inverted, source="DICOM", windows=(Window(9, 9),))
    shifted = stored.astype(np.float64) - stored.min()
    gray = (shifted / shifted.max() * 255).astype(np.uint8)
    expected = opencv_equalise(255 - gray if is_inverted else gray)
    np.testing.assert_array_equal(render_for_model(film, Rendering.MIMIC_CXR_JPG), expected)


@pytest.mark.parametrize("slope", [0.1, 2.1212954, 1e-4])
def test_a_rescaled_dicom_reaches_the_model_as_if_it_were_not(slope: float) -> None:
    stored = np.random.default_rng(2).integers(0, 4096, (60, 50)).astype(np.uint16)
    plain = Radiograph(stored, 12, source="DICOM")
    rescaled = replace(plain, modality=LinearRescale(slope, 1803.2224))
    mirrored = replace(plain, modality=LinearRescale(-slope, 1803.2224), stored=4095 - stored)
    expected = render_for_model(plain, Rendering.MIMIC_CXR_JPG)
    for film in (rescaled, mirrored):
        np.testing.assert_array_equal(render_for_model(film, Rendering.MIMIC_CXR_JPG), expected)


def test_the_display_rendering_for_models_is_what_people_see(ramp: Radiograph) -> None:
    film = replace(ramp, windows=(Window(2000, 1000),))
    expected = np.rint(render_for_people(film) * 255)
    np.testing.assert_array_equal(render_for_model(film, Rendering.DISPLAY), expected)


@pytest.mark.parametrize("rendering", list(Rendering))
def test_an_8_bit_picture_reaches_the_model_unchanged(rendering: Rendering) -> None:
    stored = np.random.default_rng(1).integers(40, 200, (40, 50), dtype=np.uint8)
    np.testing.assert_array_equal(render_for_model(Radiograph(stored, 8, source="JPEG"), rendering), stored)


def test_a_16_bit_picture_is_scaled_to_its_own_range() -> None:
    stored = np.linspace(3000, 9000, 4096).astype(np.uint16).reshape(64, 64)
    shown = render_for_model(Radiograph(stored, 16, source="PNG"), Rendering.MIMIC_CXR_JPG)
    assert (shown.min(), shown.max(), len(np.unique(shown))) == (0, 255, 256)


@pytest.mark.parametrize("rendering", list(Rendering))
def test_constant_pixels_give_numbers_not_nan(rendering: Rendering) -> None:
    flat = Radiograph(np.full((40, 40), 7, np.uint16), 12, source="DICOM")
    assert len(np.unique(render_for_model(flat, rendering))) == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_keeps_every_value(dtype: type) -> None:
    pixels = np.arange(64 * 64, dtype=dtype).reshape(64, 64)
    with Image.open(io.BytesIO(encode_png(pixels)), formats=["PNG"]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), pixels)


def test_png_of_a_rendering_has_8_bits() -> None:
    with Image.open(io.BytesIO(encode_png(np.array([[0.0, 0.5], [1.0, 2.0]]))), formats=["PNG"]) as picture:
        assert np.asarray(picture).tolist() == [[0, 128], [255, 255]]


def test_png_refuses_signed_pixels() -> None:
    with pytest.raises(UnusableImage, match="int16"):
        encode_png(np.zeros((4, 4), np.int16))
