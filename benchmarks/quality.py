"""Quality of the embedded model on phantoms of unseen seeds: python benchmarks/quality.py --json

Asks the assistant as a person would, greedily. Writes benchmarks/results/quality.json, from which the
tables of README.md are made; with --json the last line of the output is the same object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.figures import TARGETS, figures, judge, swap_figures  # noqa: E402
from benchmarks.reading import PhantomReading, SwapReading, read_phantoms, read_swaps  # noqa: E402
from cxr_assistant.assistant import Assistant  # noqa: E402
from cxr_assistant.checkpoints.spec import get_checkpoint  # noqa: E402
from cxr_assistant.checkpoints.weights import locate  # noqa: E402
from cxr_assistant.conversation import Conversation  # noqa: E402
from cxr_assistant.errors import ForeignImage, StudyError  # noqa: E402
from cxr_assistant.generation import collect  # noqa: E402
from cxr_assistant.imaging.phantom import (  # noqa: E402
    TEST_SEEDS,
    UNSEEN_ANATOMY_SEEDS,
    VISIBILITY,
    FindingKind,
    Threshold,
)
from cxr_assistant.loading import load  # noqa: E402
from cxr_assistant.settings import read_settings  # noqa: E402
from cxr_assistant.study import Radiograph, Study  # noqa: E402
from cxr_assistant.tasks import Task  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "quality.json"
FRESH_RESULTS = RESULTS.with_name("quality-fresh.json")
FAINT_RESULTS = RESULTS.with_name("quality-faint.json")
USUAL_CONTRAST = VISIBILITY[FindingKind.NODULE].contrast
FRESH_AFTER = 2000  # seeds of the test range that plain runs have looked at, and room
CHUNK = 20
_assistant: Assistant | None = None  # one per process of the pool, made by _start


def main() -> int:
    given = _arguments(sys.argv[1:])
    started = time.monotonic()
    first = TEST_SEEDS.first + (FRESH_AFTER if given.fresh else 0)
    first_pair = first + TEST_SEEDS.size // 2
    nodule = VISIBILITY[FindingKind.NODULE]._replace(contrast=given.nodule_contrast)
    visibility = {FindingKind.NODULE: nodule}
    with ProcessPoolExecutor(
        given.jobs,
        mp_context=get_context("spawn"),
        initializer=_start,
        initargs=(given.checkpoint, given.weights),
    ) as pool:
        test = _gather(pool, "test", _read, _chunks(first, given.num), "training", visibility)
        chunks = _chunks(UNSEEN_ANATOMY_SEEDS.first, given.num_unseen)
        unseen = _gather(pool, "unseen anatomy", _read, chunks, "unseen", visibility)
        swaps = _gather(pool, "side-swapped pairs", _swap, _chunks(first_pair, given.num_pairs), visibility)
        films = list(pool.map(_refuses, _films(given.films)))
    refusals = [is_refused for is_refused in films if is_refused is not None]
    results: dict[str, Any] = {
        "benchmark": "quality",
        "checkpoint": given.checkpoint,
        "revision": _revision(given.checkpoint, given.weights),
        "test": figures(test),
        "unseen_anatomy": figures(unseen),
        "swap": swap_figures(swaps),
        "real_films": {"num": len(refusals), "num_refused": sum(refusals)},
        "targets": [],
        "nodule_contrast": given.nodule_contrast,
        "seeds": {
            "test": [first, first + given.num],
            "unseen_anatomy": [UNSEEN_ANATOMY_SEEDS.first, UNSEEN_ANATOMY_SEEDS.first + given.num_unseen],
            "swap": [first_pair, first_pair + given.num_pairs],
        },
        "seconds": round(time.monotonic() - started),
        "made_with": _made_with(),
    }
    results["targets"] = judge(results)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    _show(results)
    if given.json:
        print(json.dumps(results))
    return 0


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=1000, help="phantoms of unseen seeds")
    parser.add_argument("--num-unseen", type=int, default=500, help="phantoms of unseen anatomy ranges")
    parser.add_argument("--num-pairs", type=int, default=500, help="seeds for side-swapped pairs")
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="seeds behind those of a plain run, whose figures were not known when the training was chosen",
    )
    parser.add_argument(
        "--nodule-contrast",
        type=float,
        default=USUAL_CONTRAST,
        metavar="SHARE",
        help="count nodules in phantoms as shown from this share of the display range on (default: the "
        "generator's %(default)s)",
    )
    parser.add_argument("--films", type=Path, metavar="DIR", help="real films that the gate must refuse")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--weights", type=Path, metavar="DIR")
    parser.add_argument(
        "--out", type=Path, help="default: results/quality.json, quality-fresh.json or quality-faint.json"
    )
    parser.add_argument("--json", action="store_true", help="the last line is the result as one object")
    given = parser.parse_args(words)
    if not 0 < given.nodule_contrast <= 1:
        parser.error(f"--nodule-contrast is {given.nodule_contrast}; allowed: above 0, up to 1.")
    is_usual = given.nodule_contrast == USUAL_CONTRAST
    if given.fresh and not is_usual and not given.out:
        parser.error("--fresh with another --nodule-contrast has no file of its own; name one by --out.")
    given.out = given.out or (FRESH_RESULTS if given.fresh else RESULTS if is_usual else FAINT_RESULTS)
    return given


def _chunks(first: int, num: int) -> list[range]:
    """Seeds in groups that lend each other their images; no group has a single member, unless it is alone."""
    if num < 2:
        return [range(first, first + num)] * num
    starts = range(first, first + num - 1, CHUNK)
    ends = [*starts[1:], first + num]
    return [range(start, end) for start, end in zip(starts, ends, strict=True)]


def _gather(
    pool: ProcessPoolExecutor, what: str, work: Any, chunks: Sequence[range], *more: Any
) -> list[Any]:
    gathered: list[Any] = []
    for done, part in enumerate(pool.map(partial(work, *more), chunks), 1):
        gathered += part
        print(f"\r{what}: {done} of {len(chunks)} groups", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return gathered


def _start(checkpoint: str, weights: Path | None) -> None:
    global _assistant  # noqa: PLW0603 - a process of the pool has no other place for what it keeps
    settings = replace(read_settings(), threads=1)
    _assistant = load(checkpoint=checkpoint, weights=weights, worker="inline", settings=settings)


def _say(radiograph: Radiograph, task: Task, question: str) -> str | None:
    """What the assistant says, or None where it declines a film that is no phantom."""
    assert _assistant is not None
    conversation = Conversation().ask(question) if question else Conversation()
    name = _assistant.checkpoint
    try:
        return collect(_assistant.respond(Study((radiograph,)), conversation, task, checkpoint=name)).text
    except ForeignImage:
        return None


def _read(ranges: str, visibility: Mapping[FindingKind, Threshold], seeds: range) -> list[PhantomReading]:
    return read_phantoms(_say, seeds, ranges, visibility)


def _swap(visibility: Mapping[FindingKind, Threshold], seeds: range) -> list[SwapReading]:
    return read_swaps(_say, seeds, visibility)


def _films(directory: Path | None) -> Iterator[Path]:
    if directory is not None:
        yield from sorted(path for path in directory.rglob("*") if path.is_file())


def _refuses(path: Path) -> bool | None:
    """Whether the gate refuses a film; None for a file that is no radiograph."""
    assert _assistant is not None
    try:
        radiograph = _assistant.read(path.read_bytes())
    except StudyError:
        return None
    return _say(radiograph, Task.FINDINGS, "") is None


def _revision(name: str, weights: Path | None) -> str:
    """Which weights were measured: those that a checkpoint pins, or the hash of the embedded model's file."""
    checkpoint = get_checkpoint(name)
    if not checkpoint.is_embedded:
        return checkpoint.revision
    content = (locate(checkpoint, weights) / "model.safetensors").read_bytes()
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _made_with() -> dict[str, Any]:
    packages = ("torch", "transformers", "numpy")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        **{name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _show(results: dict[str, Any]) -> None:
    for target in results["targets"]:
        value = "unscored" if target["value"] is None else f"{target['value']:.3f}"
        mark = "reached" if target["is_reached"] else "NOT REACHED"
        print(f"{target['name']:<46} {value:>8}  {target['bound']:<8} {mark}")
    assert len(results["targets"]) == len(TARGETS)


if __name__ == "__main__":
    sys.exit(main())
