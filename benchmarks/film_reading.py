"""What reading a film in a disposable child costs against reading it naively, for every encoding.

`python benchmarks/film_reading.py --json` makes one film of 2048 x 2500 pixels in each encoding, reads it in
turn with pydicom or Pillow in the same process and with `read_radiograph`, and writes
results/film_reading.json. The naive reader is what a script would do: dcmread and pixel_array with whatever
decoder pydicom picks, or Image.open; it checks nothing and can be ended by a file. Allowed is naive + 80 ms
for uncompressed films and 1.3 times naive for compressed ones, pictures among them.

Each encoding has a process of its own. In one for all, whoever reads later finds the heap that larger films
grew, and a read that faults no page in is quicker, most of all the naive one. So it is in an app that has
shown a film; what both take then is judged apart, as `in_grown_heap`.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cxr_assistant.imaging.read import read_radiograph
from tests.imaging import builders

__all__ = ["main", "make_films", "measure"]

RESULT = Path(__file__).resolve().parent / "results" / "film_reading.json"
HEIGHT, WIDTH, BITS = 2500, 2048, 12
EXTRA_MS = 80.0
REST_S = 0.2  # before each reading: the next child makes itself ready then, beside neither reader
RATIO = 1.3
UID = "1.2.840.10008.1.2"
PICTURES = ("PNG 8", "PNG 16", "JPEG", "JPEG progressive")
GROWN_HEAP_BYTES = 31 << 20  # glibc keeps freed blocks of up to 32 MiB in the heap, once it has seen one
UNCOMPRESSED = ("implicit", "explicit", "big endian")


def make_films(height: int = HEIGHT, width: int = WIDTH) -> dict[str, bytes]:
    """The film in every encoding that is read, with the grain of a detector, which is what costs time."""
    from pydicom.uid import (
        JPEG2000,
        ExplicitVRBigEndian,
        ImplicitVRLittleEndian,
        JPEGBaseline8Bit,
        JPEGLSLossless,
        JPEGLSNearLossless,
        RLELossless,
    )

    rng = np.random.default_rng(0)
    smooth = builders.thorax(height, width, BITS).astype(np.int32)
    film = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 4095).astype(np.uint16)
    film8, film16 = (film >> 4).astype(np.uint8), (film << 4).astype(np.uint16)
    plain = builders.dicom(film, BITS)

    def data_set() -> Any:
        return builders.data_set(film, BITS)

    lossy = builders.jpeg2000_frame(film16, irreversible=True, quality_mode="rates", quality_layers=[10])
    films = {
        "implicit": builders.file_bytes(data_set(), ImplicitVRLittleEndian),
        "explicit": plain,
        "big endian": builders.file_bytes(data_set(), ExplicitVRBigEndian),
        "RLE": builders.compressed(data_set(), RLELossless),
        "JPEG baseline": builders.encapsulated(builders.jpeg_frame(film8), film8, 8, JPEGBaseline8Bit),
        "JPEG-LS": builders.compressed(data_set(), JPEGLSLossless),
        "JPEG-LS near": builders.compressed(data_set(), JPEGLSNearLossless),
        "JPEG 2000 lossy": builders.encapsulated(lossy, film16, 16, JPEG2000),
        "PNG 8": builders.picture(film8),
        "PNG 16": builders.picture(film16),
        "JPEG": builders.picture(film8, "JPEG", quality=95),
        "JPEG progressive": builders.picture(film8, "JPEG", quality=95, progressive=True),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, uid in (
            ("JPEG lossless", f"{UID}.4.57"),
            ("JPEG lossless SV1", f"{UID}.4.70"),
            ("JPEG 2000 lossless", f"{UID}.4.90"),
        ):
            films[name] = builders.transcoded(plain, uid, Path(folder))
    return films


def read_naively(data: bytes) -> Any:
    import pydicom
    from PIL import Image

    if data[128:132] == b"DICM":
        return pydicom.dcmread(io.BytesIO(data)).pixel_array
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


def measure(films: dict[str, bytes], rounds: int = 7) -> dict[str, dict[str, Any]]:
    """Milliseconds of both readers per encoding: the fastest of `rounds`, taken in turn in one process."""
    rows = {}
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film"
        for name, film in films.items():
            path.write_bytes(film)  # what is sent to a process is in its heap before it reads anything
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                rows[name] = process.submit(measure_here, name, path, rounds).result()
    return rows


def measure_here(name: str, path: Path, rounds: int) -> dict[str, Any]:
    """The row of one encoding: both readers in turn, and what films in a row cost, one right after the other,
    as those of a study come."""
    film = path.read_bytes()
    read_radiograph(film)  # the warm process is there when an app has read its first film
    naive_ms, child_ms = _fastest_in_turn(film, rounds)
    in_a_row = [_timed_ms(read_radiograph, film) for _ in range(rounds)]
    bytearray(GROWN_HEAP_BYTES)
    grown = _fastest_in_turn(film, rounds)
    return judged(name, naive_ms, child_ms) | {
        "in_a_row_ms": round(median(in_a_row), 1),
        "in_grown_heap": judged(name, *grown),
        "megabytes": round(len(film) / 1e6, 2),
    }


def _fastest_in_turn(film: bytes, rounds: int) -> tuple[float, float]:
    naive: list[float] = []
    child: list[float] = []
    for _ in range(rounds):
        for times, read in ((naive, read_naively), (child, read_radiograph)):
            time.sleep(REST_S)
            times.append(_timed_ms(read, film))
    return min(naive), min(child)


def judged(name: str, naive_ms: float, child_ms: float) -> dict[str, Any]:
    allowed = naive_ms + EXTRA_MS if name in UNCOMPRESSED else RATIO * naive_ms
    return {
        "naive_ms": round(naive_ms, 1),
        "child_ms": round(child_ms, 1),
        "extra_ms": round(child_ms - naive_ms, 1),
        "ratio": round(child_ms / naive_ms, 2),
        "allowed_ms": round(allowed, 1),
        "is_within": child_ms <= allowed,
    }


def _beyond(rows: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, row in rows.items() if not row["is_within"]]


def _verdict(row: dict[str, Any]) -> str:
    return "" if row["is_within"] else "beyond"


def _timed_ms(read: Callable[[bytes], Any], film: bytes) -> float:
    start = time.perf_counter()
    read(film)
    return (time.perf_counter() - start) * 1000


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="write results/film_reading.json")
    given = parser.parse_args(argv)
    rows = measure(make_films(), given.rounds)
    for name, row in rows.items():
        times = f"naive {row['naive_ms']:7.1f} ms  child {row['child_ms']:7.1f} ms"
        cost = f"+{row['extra_ms']:6.1f} ms  x{row['ratio']:.2f}  {_verdict(row)}"
        grown = row["in_grown_heap"]
        then = f"in a grown heap {grown['naive_ms']:6.1f} and {grown['child_ms']:6.1f} ms {_verdict(grown)}"
        print(f"{name:20} {row['megabytes']:6.2f} MB  {times}  {cost:28}  {then}")
    result = {
        "date": date.today().isoformat(),
        "film": f"{WIDTH} x {HEIGHT}, {BITS} bits",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "load": round(os.getloadavg()[0], 2),
        "rows": rows,
    }
    if given.json:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    grown_rows = {name: row["in_grown_heap"] for name, row in rows.items()}
    print(json.dumps({"beyond": _beyond(rows), "beyond_in_grown_heap": _beyond(grown_rows)}))
    return 1 if _beyond(rows) or _beyond(grown_rows) else 0


if __name__ == "__main__":
    sys.exit(main())
