"""The hint on burned-in text: names fire it, side markers and anatomy do not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cxr_assistant.imaging import notices
from cxr_assistant.imaging.burned_in import seems_to_contain_text
from cxr_assistant.imaging.read import read_radiograph
from tests.imaging.builders import dicom, picture, thorax


def labelled(text: str, size: int, height: int = 512, width: int = 480) -> NDArray[np.uint8]:
    film = Image.fromarray(thorax(height, width, 8).astype(np.uint8))
    ImageDraw.Draw(film).text((width // 20, height // 20), text, fill=255, font=ImageFont.load_default(size))
    return np.asarray(film)


@pytest.mark.requirement("P3")
@pytest.mark.parametrize("text", ["DOE^JANE 1970-02-03", "R AP PORTABLE"])
@pytest.mark.parametrize(
    ("size", "height", "width"), [(12, 512, 480), (18, 512, 480), (28, 2500, 2048), (80, 2500, 2048)]
)
def test_a_name_is_noticed(text: str, size: int, height: int, width: int) -> None:
    assert seems_to_contain_text(labelled(text, size, height, width))


def test_dark_letters_and_16_bits_are_noticed_too() -> None:
    dark = 255 - labelled("DOE^JANE 1970-02-03", 18)
    assert seems_to_contain_text(dark)
    assert seems_to_contain_text(dark.astype(np.uint16) * 257)
    assert seems_to_contain_text(dark.astype(np.uint16) + 32_700)


@pytest.mark.parametrize("text", ["", "L", "R", "L JW"], ids=["clean", "left", "right", "initials"])
@pytest.mark.parametrize(("size", "height", "width"), [(18, 512, 480), (60, 2500, 2048)])
def test_a_clean_film_and_a_side_marker_are_not(text: str, size: int, height: int, width: int) -> None:
    assert not seems_to_contain_text(labelled(text, size, height, width))


@pytest.mark.parametrize("top", range(4))
def test_a_line_of_three_rows_is_noticed_wherever_it_stands_in_a_band(top: int) -> None:
    """Few rows are asked whether anything is in them: of three side by side, one always is."""
    film = np.full((300, 480), 100, np.uint8)
    film[::2] = 101
    film[60 + top : 63 + top, 80:240:8] = 255
    assert seems_to_contain_text(film)


def test_the_reader_says_it_for_every_format() -> None:
    film = labelled("DOE^JANE 1970-02-03", 18)
    for data in (picture(film), picture(film, "JPEG", quality=90), dicom(film, 8)):
        assert notices.MAYBE_BURNED_IN in read_radiograph(data).notices
