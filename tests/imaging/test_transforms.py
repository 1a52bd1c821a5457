"""Preprocessing is equal to the authors' own code, pixel for pixel."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from cxr_assistant.imaging.rendering import Rendering
from cxr_assistant.imaging.transforms import ImageSpec, ResizeRule, crop_box, prepare, prepare_pixels
from cxr_assistant.settings import PROJECT_ROOT
from cxr_assistant.study import Radiograph

# The copies alone: sizes and cases below are theirs. tests/checkpoints takes those of CXR_GOLDEN_DIR.
GOLDEN = PROJECT_ROOT / "tests" / "fixtures" / "golden"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CXR_LLAVA = dict(
    channels=1,
    mean=(0.5518136078431373,),
    std=(0.3821719215686275,),
    resize=ResizeRule.CROP_FLOOR,
    resampling="lanczos",
    rendering=Rendering.DISPLAY,
)


def pixels_of(path: Path) -> NDArray[np.uint8]:
    with Image.open(path, formats=["PNG"]) as picture:
        return np.asarray(picture)


def crop_spec(size_px: int) -> ImageSpec:
    return ImageSpec(size_px, 3, CLIP_MEAN, CLIP_STD, ResizeRule.CROP, "bicubic", Rendering.MIMIC_CXR_JPG)


@pytest.mark.parametrize("case", [0, 1, 2], ids=["square", "landscape", "portrait-smaller-than-target"])
def test_llava_rad_pixels_are_exact(case: int) -> None:
    folder = GOLDEN / "llava_rad_tiny"
    expected = load_file(folder / "golden.safetensors")[f"case{case}.pixel_values"]
    prepared = prepare_pixels(pixels_of(folder / "images" / f"case{case}.png"), crop_spec(56))
    np.testing.assert_array_equal(prepared, expected)


@pytest.mark.parametrize("number", [1, 2])
def test_chexagent_pixels_are_equal(number: int) -> None:
    folder = GOLDEN / "chexagent_tiny"
    half = (0.5, 0.5, 0.5)
    spec = ImageSpec(64, 3, half, half, ResizeRule.SQUASH, "bicubic", Rendering.DISPLAY)
    expected = np.load(folder / "goldens.npz")[f"pixel_values_{number}"]
    prepared = prepare_pixels(pixels_of(folder / f"image_{number}.png"), spec)
    np.testing.assert_allclose(prepared, expected, atol=1e-6)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_cxr_llava_pixels_are_equal(number: int) -> None:
    folder = GOLDEN / "cxr_llava_tiny"
    expected = load_file(folder / "golden_fp32.safetensors")[f"img{number}.pixel_values"][0]
    prepared = prepare_pixels(pixels_of(folder / "images" / f"img{number}.png"), ImageSpec(64, **CXR_LLAVA))
    np.testing.assert_allclose(prepared, expected, atol=1e-6)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_cxr_llava_pixels_at_the_published_size_are_exact(number: int) -> None:
    folder = GOLDEN / "cxr_llava_tiny"
    expected = json.loads((folder / "golden.json").read_text())["preprocess_512"][number]
    prepared = prepare_pixels(pixels_of(folder / "images" / f"img{number}.png"), ImageSpec(512, **CXR_LLAVA))
    assert hashlib.sha256(prepared.tobytes()).hexdigest() == expected["sha256_f32"]


def film(height: int, width: int) -> Radiograph:
    return Radiograph(np.random.default_rng(3).integers(0, 256, (height, width), dtype=np.uint8), 8)


@pytest.mark.parametrize(("height", "width"), [(80, 61), (64, 97), (56, 59), (64, 64), (40, 90)])
def test_the_crop_box_is_what_the_model_sees(height: int, width: int) -> None:
    """Painting everything outside of the box changes nothing that lies well inside of it."""
    spec = crop_spec(56)
    radiograph = film(height, width)
    box = crop_box(radiograph, spec)
    size = box.x_max - box.x_min, box.y_max - box.y_min
    short, long = sorted((height, width))
    assert sorted(size) == pytest.approx([56 / int(56 * long / short), 1.0])
    rows = slice(round(box.y_min * height), round(box.y_max * height))
    columns = slice(round(box.x_min * width), round(box.x_max * width))
    painted = np.zeros_like(radiograph.stored)
    painted[rows, columns] = radiograph.stored[rows, columns]
    seen = prepare(radiograph, spec)[:, 4:-4, 4:-4]
    np.testing.assert_array_equal(prepare(Radiograph(painted, 8), spec)[:, 4:-4, 4:-4], seen)


def test_an_excess_of_three_is_rounded_half_to_even_or_floored() -> None:
    even, floored = crop_spec(56), ImageSpec(56, **CXR_LLAVA)
    assert crop_box(film(56, 59), even).x_min == 2 / 59
    assert crop_box(film(56, 59), floored).x_min == 1 / 59


@pytest.mark.parametrize("rule", [ResizeRule.SQUASH, ResizeRule.PAD])
def test_squash_and_pad_show_the_whole_film(rule: ResizeRule) -> None:
    spec = ImageSpec(32, 1, (0.0,), (1.0,), rule, "bilinear", Rendering.DISPLAY)
    box = crop_box(film(50, 80), spec)
    assert (box.x_min, box.y_min, box.x_max, box.y_max) == (0, 0, 1, 1)
    assert prepare(film(50, 80), spec).shape == (1, 32, 32)


def test_pad_keeps_the_proportions_and_fills_with_black() -> None:
    spec = ImageSpec(40, 1, (0.0,), (1.0,), ResizeRule.PAD, "bilinear", Rendering.DISPLAY)
    prepared = prepare_pixels(np.full((20, 40), 255, np.uint8), spec)
    assert prepared[0, :10].max() == 0.0
    assert prepared[0, 10:30].min() == 1.0
    assert prepared[0, 30:].max() == 0.0


def test_a_gray_picture_equals_its_rgb_copy() -> None:
    gray = film(70, 90).stored
    np.testing.assert_array_equal(
        prepare_pixels(gray, crop_spec(56)), prepare_pixels(np.dstack([gray] * 3), crop_spec(56))
    )


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"channels": 2, "mean": (0.5,) * 2, "std": (0.5,) * 2}, "channels"),
        ({"mean": (0.5,) * 3}, "mean"),
        ({"resampling": "nearest"}, "resampling"),
    ],
)
def test_a_contradictory_spec_cannot_be_built(change: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ImageSpec(32, **{**CXR_LLAVA, **change})
