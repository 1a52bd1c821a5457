"""Speed against what the hardware allows, and against the usual ways: python benchmarks/speed.py --check

States the ceiling of every row before it measures, then lets three ways to an answer take turns on the same
weights: `generate()` with a streamer as demos do, the library's best, and this engine. The CPU's rows are the
default; `--device cuda` takes those of a GPU, with random weights in `--work` where there are no real ones.
Writes benchmarks/results/speed-cpu.json or speed-cuda.json, from which README.md's tables are made; with
--json the last line of the output is the same object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.stopwatch import measure  # noqa: E402
from benchmarks.subjects import SUBJECTS, Subject  # noqa: E402
from benchmarks.verdicts import judge_speed  # noqa: E402
from cxr_assistant.errors import CxrAssistantError  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parse(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    results = joined([json.loads(path.read_text("utf-8")) for path in given.join or ()] or [_measured(given)])
    _write(results, given)
    if given.check:
        _show_targets(results)
    if given.json:
        print(json.dumps(results))
    return 0


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One result of several runs on one machine, judged anew; a row that was measured twice counts last.

    Raises ValueError when hardware or versions differ.
    """
    first = parts[0]
    for part in parts[1:]:
        for what in ("hardware", "versions"):
            if part[what] != first[what]:
                raise ValueError(f"Runs differ in {what}: {part[what]} and {first[what]}.")
    rows = {row["name"]: {"date": part["date"], **row} for part in parts for row in part["rows"]}
    device = first["device"]
    return {
        **first,
        "date": max(part["date"] for part in parts),
        "seconds": sum(part["seconds"] for part in parts),
        "rows": [rows[name] for name in SUBJECTS if name in rows],
        "targets": [asdict(v) for v in judge_speed(rows.values()) if v.device == device],
    }


def _measured(given: argparse.Namespace) -> dict[str, Any]:
    subjects = _choose(given)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no CUDA device here, so the rows of a GPU are skipped.")
        subjects = []
    started = time.monotonic()
    rows = [row for subject in subjects if (row := _row(subject, given.work)) is not None]
    return {
        "benchmark": "speed",
        "device": given.device,
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": describe_hardware(given.device),
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy")},
        "seconds": round(time.monotonic() - started),
        "rows": rows,
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rows", nargs="+", choices=SUBJECTS, help="instead of all rows of the device")
    parser.add_argument("--join", nargs="+", type=Path, help="measure nothing; join these result files")
    parser.add_argument("--repetitions", type=int, help="instead of each row's own number")
    parser.add_argument("--quick", action="store_true", help="a model of one megabyte, in seconds")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--threads", type=int, help="torch's, on the CPU")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "speed", help="for random weights")
    parser.add_argument("--out", type=Path, help="the result file; nothing is written by --quick without it")
    parser.add_argument("--check", action="store_true", help="print each target as met or missed")
    parser.add_argument("--json", action="store_true", help="the last line is the result as one object")
    return parser.parse_args(arguments)


def _choose(given: argparse.Namespace) -> list[Subject]:
    names = given.rows or [s.name for s in SUBJECTS.values() if s.device == given.device and s.name != "tiny"]
    if given.quick:
        names = ["tiny"]
    chosen = [SUBJECTS[name] for name in names]
    if given.repetitions:
        chosen = [replace(subject, num_repetitions=given.repetitions) for subject in chosen]
    return [replace(s, compiles=False) for s in chosen] if given.no_compile else chosen


def _row(subject: Subject, work: Path) -> dict[str, Any] | None:
    """One row, or None and a sentence where its weights or its memory are missing."""

    def say(sentence: str) -> None:
        print(f"{subject.name}: {sentence}", flush=True)

    try:
        return measure(subject, work, say)
    except CxrAssistantError as error:
        say(f"skipped. {error} {error.hint or ''}")
        return None
    finally:
        torch._dynamo.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def describe_hardware(device: str) -> dict[str, Any]:
    """What a reader needs to compare, and nothing that names the machine."""
    info = _cpuinfo()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    cpu = f"{info.get('model name', platform.machine())}, {os.cpu_count()} cores, {memory:.0f} GiB"
    found: dict[str, Any] = {
        "title": cpu,
        "instructions": [name for name in INSTRUCTIONS if name in info.get("flags", "").split()],
        "threads": torch.get_num_threads(),
    }
    if device == "cuda" and torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        found["title"] = f"{gpu.name}, {gpu.total_memory / 1024**3:.0f} GiB; {cpu}"
    return found


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return {}  # not Linux
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _write(results: dict[str, Any], given: argparse.Namespace) -> None:
    out = given.out or (
        None if given.quick or not results["rows"] else RESULTS / f"speed-{results['device']}.json"
    )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def _show_targets(results: dict[str, Any]) -> None:
    words = {True: "met", False: "MISSED", None: "not measured"}
    for target in results["targets"]:
        value = "" if target["value"] is None else f"{target['value']:.3f}"
        print(f"{target['name']:<52} {value:>9}  {target['bound']:<7} {words[target['is_met']]}")


if __name__ == "__main__":
    sys.exit(main())
