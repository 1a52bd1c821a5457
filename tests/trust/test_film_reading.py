"""What the disposable child costs: no more than the issue allows, in every encoding."""

from __future__ import annotations

import json
import os

import pytest

from benchmarks.film_reading import PICTURES, RESULT, judged, make_films, measure
from cxr_assistant.imaging.codecs import _SYNTAXES
from tests.figures import Figure


@pytest.mark.requirement("U2", "U11")
def test_every_encoding_is_measured_and_read() -> None:
    from cxr_assistant.imaging.read import read_radiograph

    films = make_films(64, 48)
    assert {read_radiograph(film).stored.shape for film in films.values()} == {(64, 48)}
    # Deflated is native after inflating, extended is baseline or lossless to the decoder: not timed apart.
    assert len([name for name in films if name not in PICTURES]) == (len(_SYNTAXES) - 2)


@pytest.mark.requirement("U2")
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_reading_in_the_child_costs_what_is_allowed(figure: Figure) -> None:
    rows = measure(make_films(), rounds=5)
    crowd = max(1.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1))
    beyond = {n: row for n, row in rows.items() if row["child_ms"] > row["allowed_ms"] * crowd}
    assert beyond == {}
    grown = {n: row["in_grown_heap"] for n, row in rows.items()}
    assert {n for n, row in grown.items() if row["child_ms"] > row["allowed_ms"] * crowd} == set()
    for name, row in rows.items():
        figure(f"{name}: child over naive", row["extra_ms"], "ms")


def test_an_uncompressed_film_is_judged_by_a_difference_and_a_compressed_one_by_a_ratio() -> None:
    assert judged("explicit", 4, 84)["is_within"] and not judged("explicit", 4, 85)["is_within"]
    assert judged("RLE", 1000, 1300)["is_within"] and not judged("RLE", 1000, 1301)["is_within"]
    assert not judged("JPEG", 10, 14)["is_within"] and judged("JPEG", 10, 90)["ratio"] == 9


@pytest.mark.skipif(not RESULT.exists(), reason="film_reading.py was not run yet")
def test_the_recorded_run_is_of_every_encoding() -> None:
    recorded = json.loads(RESULT.read_text())["rows"]
    assert set(recorded) == set(make_films(64, 48))
