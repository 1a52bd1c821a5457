"""Mutated films: whatever a byte turns into, the answer is a film or one of the project's own refusals.

`python benchmarks/fuzz.py --walks 1000000 --films 20000 --seed 7 --out benchmarks/results/fuzz.json` mutates
the valid films of a folder and prints one JSON line: how often each code was answered, and what was neither a
film nor a refusal. A case is named by seed and number, so that it can be made again. The tests run the small
version of the same.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cxr_assistant.errors import StudyError
from cxr_assistant.imaging.codestreams import walk_jpeg, walk_jpeg2000
from cxr_assistant.imaging.elements import inflate, walk_data_set, walk_file_meta
from cxr_assistant.imaging.header import Header
from cxr_assistant.imaging.png import walk_png
from cxr_assistant.imaging.read import read_radiograph
from cxr_assistant.imaging.refusals import refusal

__all__ = ["Tally", "fuzz_reading", "fuzz_walks", "mutated", "read_seeds"]

SEEDS = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "bad_inputs" / "files"
TRANSFER_SYNTAX = 0x00020010
# What lies in the top level of a film, in sequences, and the picture itself.
WANTED = frozenset({0x00080060, 0x00280010, 0x00280011, 0x00283000, 0x00283010, 0x00283002, 0x7FE00010})
INTERESTING = (
    b"\xff",
    b"\0",
    b"\xff\xff\xff\xff",
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\x0d\xe0",
    b"\xfe\xff\xdd\xe0",
    b"\x00\x00\x00\x80",
    b"SQ",
    b"UN",
    b"OW",
    b"\xff\xd8",
    b"\xff\xd9",
    b"\xff\xda",
    b"\xff\x90",
    b"IDAT",
)


@dataclass
class Tally:
    """How often each code was answered ("film": it was read), and every case that had another end."""

    codes: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.codes += other.codes
        self.unexpected += other.unexpected


def read_seeds(folder: Path = SEEDS) -> dict[str, bytes]:
    """The valid films of `folder`, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("ok_*"))}


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` with a few bytes changed, cut, doubled or inserted, mostly where headers are."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not changed:
            return b"\0"
        position = rng.randrange(min(len(changed), rng.choice((300, 900, len(changed)))))
        length = rng.randint(1, 40)
        match rng.randrange(12):
            case 0 | 1 | 2:
                changed[position] ^= 1 << rng.randrange(8)
            case 3 | 4:
                found = rng.choice(INTERESTING)
                changed[position : position + len(found)] = found
            case 5 | 6:
                del changed[position : position + length]
            case 7 | 8:
                changed[position:position] = changed[position : position + length]
            case 9 | 10:
                changed[position:position] = rng.choice(INTERESTING)
            case _:
                del changed[rng.randrange(len(changed)) :]
    return bytes(changed)


def walk(name: str, data: bytes) -> None:
    """Walk `data` as the container that its seed was, down to the codestream. Raises StudyErrors."""
    file = memoryview(data)
    if name.endswith(".png"):
        walk_png(file)
    elif name.endswith(".jpg"):
        walk_jpeg(file)
    else:
        _walk_dicom(file)


def _walk_dicom(file: memoryview) -> None:
    from cxr_assistant.imaging.codecs import transfer_syntax

    meta, start = walk_file_meta(file, frozenset({TRANSFER_SYNTAX}))
    uid = Header(meta).uid(TRANSFER_SYNTAX)
    if not uid:
        raise refusal("bad_header")
    syntax = transfer_syntax(uid)
    body = inflate(file[start:]) if syntax.is_deflated else file[start:]
    data_set = walk_data_set(body, WANTED, syntax.encoding)
    if data_set.fragments is not None:
        frame = memoryview(b"".join(data_set.fragments))
        (walk_jpeg2000 if uid.endswith(("90", "91")) else walk_jpeg)(frame)


def fuzz_walks(seeds: dict[str, bytes], count: int, seed: int, jobs: int = 1) -> Tally:
    """`count` mutations against the container walks, in `jobs` processes."""
    if jobs == 1:
        return _walk_range(seeds, range(count), seed)
    total = Tally()
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        parts = [range(number, count, jobs) for number in range(jobs)]
        for tally in pool.map(_walk_range, [seeds] * jobs, parts, [seed] * jobs):
            total.add(tally)
    return total


def _walk_range(seeds: dict[str, bytes], numbers: range, seed: int) -> Tally:
    names, tally = list(seeds), Tally()
    for number in numbers:
        name = names[number % len(names)]
        data = mutated(seeds[name], random.Random(f"{seed}:{number}"))
        try:
            walk(name, data)
            tally.codes["walked"] += 1
        except StudyError as error:
            tally.codes[error.code] += 1
        except Exception as error:  # that is what is looked for
            tally.unexpected.append(f"{name} {seed}:{number} {type(error).__name__}")
    return tally


def fuzz_reading(seeds: dict[str, bytes], count: int, seed: int, threads: int = 2) -> Tally:
    """`count` mutations through the decoding child, as uploads are; `internal` is a child that died."""
    names = list(seeds)

    def read(number: int) -> Tally:
        name, tally = names[number % len(names)], Tally()
        try:
            read_radiograph(
                mutated(seeds[name], random.Random(f"film {seed}:{number}")), session_key=b"k" * 32
            )
            tally.codes["film"] += 1
        except StudyError as error:
            tally.codes[error.code] += 1
            if len(error.message) > 120 or not error.message.isprintable():
                tally.unexpected.append(f"{name} film {seed}:{number} has a line of its own")
        except Exception as error:
            tally.unexpected.append(f"{name} film {seed}:{number} {type(error).__name__}")
        return tally

    total = Tally()
    with ThreadPoolExecutor(threads) as pool:
        for tally in pool.map(read, range(count)):
            total.add(tally)
    return total


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--walks", type=int, default=100_000)
    parser.add_argument("--films", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seeds", type=Path, default=SEEDS, help="a folder with ok_* films")
    parser.add_argument("--out", type=Path, help="write the figures to this file, too")
    given = parser.parse_args(argv)
    seeds, start = read_seeds(given.seeds), time.monotonic()
    walks = fuzz_walks(seeds, given.walks, given.seed, given.jobs)
    walked = time.monotonic()
    films = fuzz_reading(seeds, given.films, given.seed, given.jobs)
    result = {
        "date": date.today().isoformat(),
        "seed": given.seed,
        "walks": {"count": given.walks, "seconds": round(walked - start, 1), "codes": dict(walks.codes)},
        "films": {
            "count": given.films,
            "seconds": round(time.monotonic() - walked, 1),
            "codes": dict(films.codes),
        },
        "unexpected": walks.unexpected + films.unexpected,
    }
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 1 if result["unexpected"] else 0


if __name__ == "__main__":
    sys.exit(main())
