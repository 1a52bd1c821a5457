"""Mutated files: whatever a byte turns into, the answer is one of the project's own errors, or a film."""

from __future__ import annotations

import random

import numpy as np
import pytest

from cxr_assistant.errors import StudyError
from cxr_assistant.imaging.codestreams import walk_jpeg, walk_jpeg2000
from cxr_assistant.imaging.elements import DataSet, Encoding, walk_data_set, walk_file_meta
from cxr_assistant.imaging.png import walk_png
from cxr_assistant.imaging.read import decode_radiograph, read_radiograph
from tests.imaging import builders

SEEDS = {
    "dicom": builders.dicom(
        WindowCenter=1, WindowWidth=9, PatientOrientation=["L", "F"], StudyDate="20240101"
    ),
    "png": builders.picture(builders.thorax(64, 60, 8).astype(np.uint8)),
    "jpeg": builders.picture(builders.thorax(64, 60, 8).astype(np.uint8), "JPEG", progressive=True),
    "jpeg-dicom": builders.jpeg_dicom(),
    "jpeg-2000-dicom": builders.jpeg2000_dicom(),
}
INTERESTING = (
    b"\xff",
    b"\0",
    b"\xff\xff\xff\xff",
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\xdd\xe0",
    b"SQ",
    b"UN",
    b"\xff\xda",
)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` with a few bytes changed, cut, doubled or inserted, mostly where headers are."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        position = rng.randrange(min(len(changed), rng.choice((300, 900, len(changed)))))
        match rng.randrange(5):
            case 0:
                changed[position] ^= 1 << rng.randrange(8)
            case 1:
                changed[position : position + 1] = rng.choice(INTERESTING)
            case 2:
                del changed[position : position + rng.randint(1, 40)]
            case 3:
                changed[position:position] = changed[position : position + rng.randint(1, 40)]
            case _:
                changed[position:position] = rng.choice(INTERESTING)
        if not changed:
            return b"\0"
    return bytes(changed)


def walk(data: bytes) -> DataSet | None:
    """Every walk over `data`, as if it had been recognised as each of the formats."""
    view = memoryview(data)
    for walker in (walk_png, walk_jpeg, walk_jpeg2000):
        try:
            walker(view)
        except StudyError:
            pass
    try:
        _, start = walk_file_meta(view, frozenset({0x00020010}))
        walk_data_set(view[start:], frozenset({0x00280010, 0x00283010}), Encoding(is_implicit=True))
        return walk_data_set(view[start:], frozenset({0x00280010, 0x00283010}), Encoding())
    except StudyError:
        return None


@pytest.mark.parametrize("name", ["dicom", "png", "jpeg", "jpeg-2000-dicom"])
def test_the_walks_raise_nothing_but_refusals(name: str) -> None:
    rng = random.Random(name)
    for _ in range(1500):
        walk(mutated(SEEDS[name], rng))


@pytest.mark.parametrize("name", ["dicom", "png", "jpeg"])
def test_decoding_raises_nothing_but_refusals(name: str) -> None:
    rng = random.Random(name)
    for _ in range(400):
        try:
            decode_radiograph(mutated(SEEDS[name], rng), b"k" * 32)
        except StudyError as error:
            assert error.code != "internal"


@pytest.mark.parametrize("name", list(SEEDS))
def test_the_sandbox_answers_every_mutation(name: str) -> None:
    rng = random.Random(f"sandbox {name}")
    for _ in range(30):
        try:
            read_radiograph(mutated(SEEDS[name], rng))
        except StudyError as error:
            assert len(error.message) <= 120


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_mutations() -> None:
    rng = random.Random(6)
    for number in range(100_000):
        walk(mutated(SEEDS[sorted(SEEDS)[number % len(SEEDS)]], rng))
    for number in range(2_000):
        try:
            read_radiograph(mutated(SEEDS[sorted(SEEDS)[number % len(SEEDS)]], rng))
        except StudyError as error:
            assert error.code != "internal"
