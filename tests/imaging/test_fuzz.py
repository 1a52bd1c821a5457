"""Mutated files: whatever a byte turns into, the answer is one of the project's own errors, or a film."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fuzz import fuzz_reading, fuzz_walks, main, mutated, read_seeds
from cxr_assistant.errors import StudyError
from cxr_assistant.imaging.read import decode_radiograph
from tests.figures import Figure
from tests.imaging import builders

NUM_WALKS = 100_000
NUM_FILMS = 2_000


@pytest.fixture(scope="module")
def seeds() -> dict[str, bytes]:
    """The valid films of the corpus, and encodings that it does not hold."""
    small = builders.thorax(64, 60, 12)
    more = {
        "windows.dcm": builders.dicom(
            small, WindowCenter=1, WindowWidth=9, PatientOrientation=["L", "F"], StudyDate="20240101"
        ),
        "jpeg-ls.dcm": builders.compressed(builders.data_set(small), builders.JPEGLSLossless),
        "jpeg-2000.dcm": builders.jpeg2000_dicom(),
    }
    return read_seeds() | more


@pytest.mark.requirement("U10")
@pytest.mark.timeout(1500)
def test_a_hundred_thousand_mutations_raise_nothing_but_refusals(
    seeds: dict[str, bytes], figure: Figure
) -> None:
    tally = fuzz_walks(seeds, NUM_WALKS, seed=6, jobs=2)
    assert tally.unexpected == []
    assert tally.codes.total() == NUM_WALKS
    # Mutations that all end in the first bytes would prove little.
    assert tally.codes["walked"] > NUM_WALKS / 20
    assert len(tally.codes) >= 5
    figure("mutated inputs", NUM_WALKS, "")
    figure("unexpected exceptions", len(tally.unexpected), "")


@pytest.mark.requirement("U10", "U7")
@pytest.mark.timeout(1500)
def test_the_sandbox_answers_two_thousand_mutations(seeds: dict[str, bytes], figure: Figure) -> None:
    tally = fuzz_reading(seeds, NUM_FILMS, seed=6)
    assert tally.unexpected == []
    assert tally.codes.total() == NUM_FILMS
    assert tally.codes["film"] > NUM_FILMS / 20
    figure("mutated films through the child", NUM_FILMS, "")
    figure("children that died", tally.codes["internal"], "")


@pytest.mark.requirement("U10")
@pytest.mark.parametrize("name", ["ok_dcm_explicit.dcm", "ok_png_gray16.png", "ok_jpeg_progressive.jpg"])
def test_decoding_raises_nothing_but_refusals(seeds: dict[str, bytes], name: str) -> None:
    rng = random.Random(name)
    for _ in range(300):
        try:
            decode_radiograph(mutated(seeds[name], rng), b"k" * 32)
        except StudyError as error:
            assert error.code != "internal"


def test_a_run_is_one_line_that_can_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    for _ in range(2):
        assert main(["--walks", "50", "--films", "3", "--seed", "1", "--jobs", "1"]) == 0
        lines.append(json.loads(capsys.readouterr().out))
    assert lines[0]["walks"]["codes"] == lines[1]["walks"]["codes"]
    assert lines[0]["films"]["codes"] == lines[1]["films"]["codes"]


def test_something_unexpected_is_named_with_its_case(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: memoryview) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("benchmarks.fuzz.walk_png", broken)
    (tmp_path / "ok_a.png").write_bytes(builders.picture(np.eye(40, dtype=np.uint8)))
    assert main(["--walks", "2", "--films", "0", "--jobs", "1", "--seeds", str(tmp_path)]) == 1
    assert json.loads(capsys.readouterr().out)["unexpected"] == [
        "ok_a.png 0:0 ZeroDivisionError",
        "ok_a.png 0:1 ZeroDivisionError",
    ]
