"""All that a machine with a GPU can tell, by one command: python benchmarks/gpu.py --work DIR

Runs the tests marked `gpu`, then every GPU row of speed.py in a process of its own, so that one that fails
costs no other; joins the rows in benchmarks/results/speed-cuda.json, where rows of earlier commands on the
same machine stay, and prints the targets. Needs torch, transformers, accelerate, bitsandbytes, safetensors,
tokenizers, numpy, Pillow, pytest and pytest-timeout; neither gradio nor pydicom. `--dry-run` goes the same
way on a CPU with a model of one megabyte.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.subjects import SUBJECTS  # noqa: E402

MARK = "mark.gpu"
RESULT = ROOT / "benchmarks" / "results" / "speed-cuda.json"


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parse(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    failed = [] if given.no_tests else _run("tests", _tests(dry_run=given.dry_run))
    parts = []
    for row in given.rows:
        part = given.work / f"speed-{row}.json"
        part.unlink(missing_ok=True)
        failed += _run(row, _measure(row, given.work, part))
        parts += [part] if part.is_file() else []
    out = given.work / "speed-dry.json" if given.dry_run else RESULT
    if parts:
        known = [out] if _is_of_this_machine(out, parts[0]) else []
        joined = [str(part) for part in (*known, *parts)]
        failed += _run("join", ["benchmarks/speed.py", "--join", *joined, "--out", str(out), "--check"])
    print(f"failed: {', '.join(failed)}" if failed else f"everything ran; results in {out.name}")
    return 1 if failed else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rows = [subject.name for subject in SUBJECTS.values() if subject.device == "cuda"]
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "speed", help="for random weights")
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows, help="instead of all rows")
    parser.add_argument("--no-tests", action="store_true", help="rows alone")
    parser.add_argument("--dry-run", action="store_true", help="the same way, on a CPU, in a minute")
    given = parser.parse_args(arguments)
    if given.dry_run:
        given.rows = ["tiny"]
    return given


def _tests(*, dry_run: bool) -> list[str]:
    """pytest over the files that hold such tests: to collect the others would need gradio and pydicom."""
    files = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if MARK in path.read_text("utf-8"))
    names = [str(path.relative_to(ROOT)) for path in files]
    # Other versions than the tested set deprecate other things; here that is no failure.
    return [
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-W",
        "default",
        *(["--collect-only", "-q"] if dry_run else []),
        *names,
    ]


def _measure(row: str, work: Path, out: Path) -> list[str]:
    device = SUBJECTS[row].device
    return [
        "benchmarks/speed.py",
        *("--device", device, "--rows", row, "--work", str(work), "--out", str(out)),
    ]


def _is_of_this_machine(result: Path, part: Path) -> bool:
    """Rows of a command before this one, which took others of them, may stand beside those of `part`."""
    if not result.is_file():
        return False
    before, now = (json.loads(path.read_text("utf-8")) for path in (result, part))
    return all(before[what] == now[what] for what in ("hardware", "versions"))


def _run(name: str, command: Sequence[str]) -> list[str]:
    """The name of what failed, if it did; output goes to the terminal as it comes."""
    print(f"== {name}", flush=True)
    is_done = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode == 0
    return [] if is_done else [name]


if __name__ == "__main__":
    sys.exit(main())
