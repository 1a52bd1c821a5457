"""PNG and JPEG come out gray, upright, and with the range they have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from cxr_assistant.imaging import notices
from cxr_assistant.imaging.read import decode_radiograph, read_radiograph
from cxr_assistant.imaging.rendering import Rendering, render_for_model, render_for_people
from tests.imaging.builders import picture, thorax

SIXTEEN = thorax(300, 280, bits=16)
EIGHT = (SIXTEEN >> 8).astype(np.uint8)


@pytest.mark.parametrize("picture_format", ["PNG", "JPEG"])
def test_8_bit_gray_is_shown_as_it_is(picture_format: str) -> None:
    radiograph = read_radiograph(picture(EIGHT, picture_format))
    assert (radiograph.source, radiograph.bits_stored, radiograph.notices) == (picture_format, 8, ())
    tolerance = 0 if picture_format == "PNG" else 20
    assert np.abs(radiograph.stored.astype(int) - EIGHT).max() <= tolerance
    np.testing.assert_array_equal(render_for_model(radiograph, Rendering.MIMIC_CXR_JPG), radiograph.stored)


@pytest.mark.requirement("U6")
def test_16_bit_gray_keeps_its_range() -> None:
    radiograph = read_radiograph(picture(SIXTEEN))
    np.testing.assert_array_equal(radiograph.stored, SIXTEEN)
    shown = render_for_people(radiograph)
    assert (shown.min(), shown.max()) == (0, 1)


def test_a_film_with_one_pixel_that_differs_is_not_blank() -> None:
    film = np.full((300, 280), 9, np.uint16)
    film[101, 77] = 10
    np.testing.assert_array_equal(decode_radiograph(picture(film), None).stored, film)


def test_a_pillow_that_takes_memory_of_its_own_changes_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    def takes_its_own(opened: ImageFile.ImageFile) -> None:
        opened.im = Image.new(opened.mode, opened.size).im

    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", takes_its_own)
    np.testing.assert_array_equal(decode_radiograph(picture(SIXTEEN), None).stored, SIXTEEN)
    np.testing.assert_array_equal(decode_radiograph(picture(EIGHT), None).stored, EIGHT)


def test_a_progressive_jpeg_is_read() -> None:
    np.testing.assert_array_equal(
        read_radiograph(picture(EIGHT, "JPEG", progressive=True)).stored,
        read_radiograph(picture(EIGHT, "JPEG")).stored,
    )


def palette() -> Image.Image:
    return Image.fromarray(EIGHT).convert("P")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(Image.fromarray(np.dstack([EIGHT] * 3)), EIGHT, id="rgb"),
        pytest.param(Image.fromarray(np.dstack([EIGHT] * 3 + [np.full_like(EIGHT, 255)])), EIGHT, id="rgba"),
        pytest.param(Image.fromarray(np.dstack([EIGHT] * 3 + [np.zeros_like(EIGHT) + (EIGHT > 99) * 255])
                     .astype(np.uint8)), np.where(EIGHT > 99, EIGHT, 0), id="transparent-is-black"),
        pytest.param(palette(), EIGHT, id="palette"),
        pytest.param(Image.fromarray(EIGHT > 99), (EIGHT > 99) * 255, id="one-bit"),
    ],
)  # fmt: skip
def test_every_png_mode_becomes_gray(image: Image.Image, expected: Any) -> None:
    np.testing.assert_array_equal(read_radiograph(picture(image)).stored, expected)


def test_an_interlaced_or_odd_png_with_a_tail_is_read() -> None:
    np.testing.assert_array_equal(read_radiograph(picture(EIGHT) + b"<html>tail").stored, EIGHT)


UPRIGHT_OF = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.mark.requirement("U6")
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("picture_format", ["PNG", "JPEG"])
def test_exif_orientation_is_applied(orientation: int, picture_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(EIGHT)
    upright = image.transpose(UPRIGHT_OF[orientation]) if orientation > 1 else image
    stored = read_radiograph(picture(EIGHT, picture_format, exif=exif)).stored
    assert np.abs(stored.astype(int) - np.asarray(upright)).max() <= (0 if picture_format == "PNG" else 20)


@pytest.mark.parametrize("exif", [b"II*\0\xff\xff\xff\xff\0\0", b"MM\0*\0\0\0\x08\xff\xff", b"II", b"XX" * 9])
def test_a_broken_exif_block_is_ignored(exif: bytes) -> None:
    stored = read_radiograph(picture(EIGHT, "JPEG", exif=b"Exif\0\0" + exif)).stored
    np.testing.assert_array_equal(stored, read_radiograph(picture(EIGHT, "JPEG")).stored)


@pytest.mark.parametrize(
    ("software", "is_phantom"), [("CXR Assistant phantom generator", True), ("X", False)]
)
def test_phantoms_of_this_project_are_recognised(software: str, is_phantom: bool) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", software)
    assert read_radiograph(picture(EIGHT, pnginfo=info)).is_marked_phantom is is_phantom


def test_a_colour_photo_and_a_small_picture_are_said() -> None:
    tinted = np.dstack([EIGHT, EIGHT // 2, EIGHT // 3])
    assert notices.COLOUR in read_radiograph(picture(tinted)).notices
    assert notices.SMALL in read_radiograph(picture(EIGHT[:200])).notices
