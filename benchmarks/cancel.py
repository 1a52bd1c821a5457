"""From a person's Stop, or the end of a tab or of its reading, until nothing runs for that person any more.

`python benchmarks/cancel.py --rounds 100 --json` serves the app around an engine process that speaks from a
script and ends its answers while they wait, while the prompt is read and while words come. The clock starts
before the request of the button is sent, before the tab's connection is closed, or when the time runs out
that a reader is given who takes nothing in (where that is noticed while a question waits or is read, the same
tab was deaf to an answer before), and stops where the engine's own process is done with the answer. The
engine is scripted, so the rows measure the way from the page to its process; what a real queue and a real
prefill make of a cancel is held by tests/engine. With --json it writes results/cancel.json. Exit status 1
when a 99th percentile is above its limit; a cancel that is lost ends the run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fuzz import SEEDS
from benchmarks.served import GENEROUS, Served
from benchmarks.visitor import Visitor

__all__ = ["main", "measure", "percentile"]

RESULT = Path(__file__).resolve().parent / "results" / "cancel.json"
PROMPTS = {"waiting": "wait", "prefill": "read", "decode": "tell"}
WAYS = ("stop", "close", "stall")
LIMITS_MS = {"waiting": 100.0, "prefill": 250.0, "decode": 250.0}
ROWS = tuple(f"{way}, {moment}" for moment in PROMPTS for way in WAYS)
PATIENCE_S = 30.0
STALL_S = 1


class Marks:
    """What the engine's process wrote about the beginning and the end of answers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    def count(self, what: str) -> int:
        return len(self._times(what))

    def wait_for(self, what: str, number: int) -> float:
        """When that mark was made the `number`th time (time.monotonic); raises TimeoutError."""
        until = time.monotonic() + PATIENCE_S
        while len(times := self._times(what)) < number:
            if time.monotonic() > until:
                raise TimeoutError(f"{number} times {what!r} was waited for, {len(times)} were seen")
            time.sleep(0.002)
        return times[number - 1]

    def last_before(self, what: str, when: float) -> float:
        return max(marked for marked in self._times(what) if marked <= when)

    def _times(self, what: str) -> list[float]:
        lines = self._path.read_text("ascii").splitlines()
        return [float(line.split()[1]) for line in lines if line.startswith(what)]


def measure(rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round, by way and moment."""
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        marks = Marks(Path(folder) / "marks")
        script = {"CXR_SCRIPT_MARKS": str(Path(folder) / "marks"), "CXR_SCRIPT_WORDS": "5000"}
        script |= {"CXR_MAX_TURNS": "1000", "CXR_STALL_S": str(STALL_S)}
        served = Served.start(Path(folder) / "app", GENEROUS | script)
        try:
            for row in ROWS:
                way, moment = row.split(", ")
                with Visitor(served.address, timeout_s=PATIENCE_S) as visitor:
                    visitor.add((SEEDS / "ok_dcm_explicit.dcm").read_bytes())
                    one = _stalled if way == "stall" else partial(_one, way=way)
                    rows[row] = [one(visitor, marks, moment) for _ in range(rounds)]
        finally:
            served.stop()
    return rows


def _one(visitor: Visitor, marks: Marks, moment: str, way: str) -> float:
    number = marks.count("begun") + 1
    messages = _asked(visitor, PROMPTS[moment])
    next(messages)  # only now is the tab connected, and can be closed
    marks.wait_for("begun", number)
    while moment == "decode" and "word 1," not in next(messages)[1]:
        pass
    began = time.monotonic()
    if way == "stop":
        visitor.press("chat", "stop")
    else:
        messages.close()
    took_ms = (marks.wait_for("idle", number) - began) * 1000
    for message, _ in messages:  # none where the connection is closed
        if message["msg"] == "close_stream":
            break
    visitor.pieces.clear()
    return took_ms


def _stalled(visitor: Visitor, marks: Marks, moment: str) -> float:
    """A reader stops in the middle of an answer; its socket stays open and fills up. What it asks for after
    that is ended when the next time runs out."""
    number = marks.count("idle") + 1
    _ask(visitor, "shout")
    with visitor.deaf_stream(until=b"word 1,"):
        idle_at = marks.wait_for("idle", number)
        if moment != "decode":
            _ask(visitor, PROMPTS[moment])
            idle_at = marks.wait_for("idle", number + 1)
        return (idle_at - marks.last_before("stalled", idle_at)) * 1000


def _asked(visitor: Visitor, prompt: str) -> Any:
    """Send a question and open the tab's stream, as the page does."""
    _ask(visitor, prompt)
    return visitor.stream()


def _ask(visitor: Visitor, prompt: str) -> None:
    function_id = visitor.function_id("chat", "send")
    inputs = [None] * len(visitor.function(function_id)["inputs"])
    visitor.join(function_id, inputs, {"task": "question", "prompt": prompt, "indication": ""})


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def judged(rows: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    told = {}
    for name, values in rows.items():
        p99, limit = percentile(values, 0.99), LIMITS_MS[name.split(", ")[1]]
        told[name] = {
            "rounds": len(values),
            "p50_ms": round(percentile(values, 0.5), 1),
            "p99_ms": round(p99, 1),
            "slowest_ms": round(max(values), 1),
            "limit_ms": limit,
            "is_within": p99 <= limit,
        }
    return told


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="write results/cancel.json")
    given = parser.parse_args(argv)
    rows = judged(measure(given.rounds))
    for name, row in rows.items():
        told = f"{name:16} p50 {row['p50_ms']:6.1f} ms  p99 {row['p99_ms']:6.1f} ms of {row['limit_ms']:.0f}"
        print(told if row["is_within"] else f"{told}  beyond")
    result = {"date": date.today().isoformat(), "cores": os.cpu_count(), "rows": rows}
    if given.json:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0 if all(row["is_within"] for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
