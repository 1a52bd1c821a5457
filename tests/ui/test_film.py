from __future__ import annotations

import base64
import zlib
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from cxr_assistant.imaging.rendering import modality_values, render_for_people
from cxr_assistant.study import LinearRescale, LookupTable, Radiograph, VoiFunction, Window
from cxr_assistant.ui.viewer.film import describe, orientation_marks, pack_pixels, presets, thumbnail
from tests.ui.doubles import make_radiograph


def unpack(radiograph: Radiograph) -> NDArray[np.int64]:
    """What the browser makes of the packed pixels: the stored values."""
    facts = describe(radiograph)
    planes = np.frombuffer(zlib.decompress(pack_pixels(radiograph)), np.uint8).astype(np.int64)
    planes = planes.reshape(facts["planes"], radiograph.height, radiograph.width)
    return sum(plane << (8 * n) for n, plane in enumerate(planes)) + facts["offset"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        pytest.param(np.uint8, 0, 255, id="8-bit"),
        pytest.param(np.uint16, 0, 4095, id="12-bit"),
        pytest.param(np.uint16, 0, 65535, id="16-bit"),
        pytest.param(np.int16, -32768, 32767, id="signed"),
        pytest.param(np.int16, -5, 90, id="signed-narrow"),
    ],
)
def test_every_stored_value_reaches_the_browser(dtype: type, low: int, high: int) -> None:
    pixels = np.random.default_rng(1).integers(low, high, (37, 53), dtype=dtype, endpoint=True)
    film = Radiograph(stored=pixels, bits_stored=16)
    assert (unpack(film) == pixels).all()


def test_presets_are_the_files_windows_first_and_never_ct_numbers() -> None:
    names = [preset.name for preset in presets(make_radiograph())]
    assert names == ["Standard", "Auto", "Lung", "Mediastinum and bone", "Full range"]


def test_an_eight_bit_picture_is_shown_as_it_is_stored() -> None:
    film = Radiograph(stored=np.arange(256, dtype=np.uint8).reshape(16, 16), bits_stored=8)
    first = presets(film)[0]
    shown = np.clip((film.stored - (first.center - 0.5)) / (first.width - 1) + 0.5, 0, 1)
    assert np.abs(shown - render_for_people(film)).max() < 1e-6


def test_the_full_range_preset_spans_the_films_values() -> None:
    film = replace(make_radiograph(), windows=(), modality=LinearRescale(-2.0, 10.0))
    full = presets(film)[-1]
    values = modality_values(film)
    black = full.center - 0.5 - (full.width - 1) / 2
    assert black == pytest.approx(float(np.percentile(values, 0)), abs=30)


def test_presets_of_monochrome1_show_what_its_monochrome2_twin_shows() -> None:
    twin = replace(make_radiograph(), windows=())
    mono1 = replace(twin, stored=(4095 - twin.stored.astype(np.int32)).astype(np.uint16), is_inverted=True)
    for ours, theirs in zip(presets(twin), presets(mono1), strict=True):
        window = Window(ours.center, ours.width), Window(theirs.center, theirs.width)
        difference = np.abs(render_for_people(twin, window[0]) - render_for_people(mono1, window[1]))
        assert difference.max() < 0.002, ours.name


def test_a_voi_table_is_sent_as_the_greys_that_people_see() -> None:
    table = LookupTable(0, np.linspace(0, 1023, 4096).astype(np.uint16) ** 1, bits=10, explanation="Chest")
    film = replace(make_radiograph(), windows=(), voi_luts=(table,))
    first = presets(film)[0]
    greys = np.frombuffer(base64.b64decode(first.table), np.uint8)
    seen = greys[film.stored.astype(int) - int(film.stored.min())]
    assert first.name == "Chest"
    assert np.abs(seen / 255 - render_for_people(film)).max() <= 0.5 / 255 + 1e-6


def test_every_voi_table_of_a_file_is_a_preset() -> None:
    soft, hard = (LookupTable(0, np.linspace(0, top, 4096).astype(np.uint16), bits=10) for top in (900, 1023))
    film = replace(make_radiograph(), windows=(), voi_luts=(soft, hard))
    names = [preset.name for preset in presets(film)]
    assert names[:2] == ["File table 1", "File table 2"]
    assert presets(film)[0].table != presets(film)[1].table


def test_a_drag_goes_on_from_where_a_voi_table_leaves_off() -> None:
    values = np.clip(np.arange(4096) - 1000, 0, 1023).astype(np.uint16)  # a ramp from 1000 to 2023
    table = LookupTable(0, values, bits=10)
    film = replace(make_radiograph(), windows=(), voi_luts=(table,), modality=LinearRescale(1.0, 0.0))
    first = presets(film)[0]
    assert first.center == pytest.approx(1512, abs=4) and first.width == pytest.approx(1003, abs=12)


def test_the_function_of_a_window_is_kept() -> None:
    film = replace(make_radiograph(), windows=(Window(1, 2, VoiFunction.SIGMOID),))
    assert presets(film)[0].function == "SIGMOID"


def test_the_patients_left_is_on_the_viewers_right_of_a_frontal_film() -> None:
    assert orientation_marks(make_radiograph()) == {"left": "R", "right": "L", "top": "H", "bottom": "F"}


def test_an_unknown_orientation_has_no_marks() -> None:
    assert orientation_marks(replace(make_radiograph(), orientation=None)) == {}


def test_a_thumbnail_is_a_small_png() -> None:
    picture = thumbnail(make_radiograph(size=(900, 1100)))
    assert picture.startswith(b"\x89PNG") and len(picture) < 60_000
