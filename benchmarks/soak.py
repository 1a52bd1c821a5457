"""Many visitors for a long time: nothing but "busy" may go wrong, and nothing may grow or stay behind.

`python benchmarks/soak.py --sessions 20 --minutes 30 --out benchmarks/results/soak.json` starts the app with
a scripted engine, lets each session add films (hostile ones too), ask, stop, reload and leave, has one more
visitor ask faster than anybody may, watches the app's memory, threads and descriptors from outside, and
prints one JSON line. Exit status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fuzz import SEEDS
from benchmarks.scripted_app import LAST_WORDS
from benchmarks.served import Load, Served
from benchmarks.visitor import Refused, Visitor
from cxr_assistant.settings import Limits

__all__ = ["Outcome", "Plan", "judge", "main", "soak"]

BUSY = frozenset({429, 503})
_BUSY_SENTENCES = (
    "Too many questions were asked",
    "answers are waited for already",
    "Your last question is still being answered",
    "Too many answers are waited for",
)
# The address is one for all sessions; what one browser may ask in a minute stays as it is served.
LIMITS = {
    "CXR_ANSWERS_PER_MINUTE_PER_ADDRESS": "10000",
    "CXR_MAX_ANSWERS_PER_ADDRESS": "1000",
    "CXR_REQUESTS_PER_MINUTE": "100000",
    "CXR_MAX_PAGES_PER_ADDRESS": "1000",
    "CXR_MAX_PAGES": "1000",
}
HASTE_S = 0.2  # from a refusal to the next question; what is allowed is one in three seconds
MAX_ANSWERS = Limits().max_turns
FILMS = ("ok_dcm_explicit.dcm", "ok_png_gray16.png", "ok_jpeg_progressive.jpg", "ok_dcm_rle.dcm")
HOSTILE = ("png_bomb_88mp_rgba.png", "dcm_seq_depth_2500.dcm", "dcm_jpeg_truncated.dcm", "oth_svg.svg")


@dataclass(frozen=True)
class Plan:
    num_sessions: int
    seconds: float
    num_words: int = 30
    delay_ms: int = 3
    think_s: float = 1.0
    seed: int = 0
    leave_s: float = 62.0  # how long after the last session the disk is looked at


@dataclass
class Outcome:
    """What the sessions met. Times in seconds."""

    answers: Counter[int] = field(default_factory=Counter)  # by session
    num_requests: int = 0
    num_stopped: int = 0
    refusals_s: list[float] = field(default_factory=list)
    answers_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    loads: list[tuple[float, int, Load]] = field(default_factory=list)  # when, after how many requests, what
    num_files_left: int = -1
    num_files_after_stop: int = -1


class _Session(threading.Thread):
    """One person: comes, looks at films, asks, changes their mind, leaves, comes again."""

    def __init__(self, number: int, served: Served, plan: Plan, outcome: Outcome, until: float) -> None:
        super().__init__(name=f"session-{number}", daemon=True)
        self.number, self.served, self.plan, self.outcome, self.until = number, served, plan, outcome, until
        self.rng = random.Random(f"{plan.seed}:{number}")

    def run(self) -> None:
        while time.monotonic() < self.until:
            try:
                with Visitor(self.served.address) as visitor, visitor.heartbeat():
                    self._visit(visitor)
            except Refused as refused:
                self._note(refused, 0.0)
            except Exception as error:  # whatever it is, it is what a soak looks for
                self.outcome.errors.append(f"{type(error).__name__}: {str(error)[:200]}")
            time.sleep(0.2)

    def _visit(self, visitor: Visitor) -> None:
        self._do(visitor.add, _film(self.rng.choice(FILMS)), "film")
        for _ in range(self.rng.randint(3, 12)):
            if time.monotonic() > self.until:
                return
            match self.rng.choices(("ask", "stop", "film", "hostile"), (10, 2, 2, 1))[0]:
                case "ask":
                    self._ask(visitor)
                case "stop":
                    self._interrupt(visitor)
                case "film":
                    self._do(visitor.clear)
                    self._do(visitor.add, _film(self.rng.choice(FILMS)), "film")
                case _:
                    self._do(visitor.add, _film(self.rng.choice(HOSTILE)), "film")
            time.sleep(self.rng.expovariate(1 / self.plan.think_s))

    def _ask(self, visitor: Visitor) -> None:
        start = time.monotonic()
        question = f"What about region {self.rng.randrange(10**6)}?"
        text = self._do(visitor.ask, question)
        if text is None:
            return
        text = _after(question, text)
        if LAST_WORDS in text:
            self.outcome.answers[self.number] += 1
            self.outcome.answers_s.append(time.monotonic() - start)
        elif _is_busy(text):
            self.outcome.refusals_s.append(time.monotonic() - start)
        else:
            self.outcome.errors.append(f"no answer: {text[-300:]}")

    def _interrupt(self, visitor: Visitor) -> None:
        """Ask, and press Stop from the same tab while the answer is written."""
        timer = threading.Timer(0.15, self._do, [visitor.press, "chat", "stop"])
        timer.start()
        question = f"Tell me everything about region {self.rng.randrange(10**6)}."
        text = self._do(visitor.ask, question)
        timer.join()
        self.outcome.num_stopped += text is not None and not _is_busy(_after(question, text))

    def _do(self, deed: Any, *arguments: Any) -> str | None:
        start = time.monotonic()
        self.outcome.num_requests += 1
        try:
            return str(deed(*arguments))
        except Refused as refused:
            self._note(refused, time.monotonic() - start)
            return None

    def _note(self, refused: Refused, seconds: float) -> None:
        if refused.status in BUSY or _is_busy(refused.text):
            self.outcome.refusals_s.append(seconds)
        else:
            self.outcome.errors.append(str(refused))


def _ask_in_haste(address: str, until: float, teller: Connection) -> None:
    """Ask faster than is allowed, and tell how long each refusal took and what went wrong.

    Runs in a process of its own: what the sessions' threads wait for each other is not the app's doing.
    """
    refusals_s: list[float] = []
    errors: list[str] = []
    try:
        with Visitor(address) as visitor, visitor.heartbeat():
            while time.monotonic() < until:
                visitor.clear()
                visitor.add(_film(FILMS[0]), "film")
                _ask_until(until, visitor, refusals_s)
    except Exception as error:
        errors.append(f"in haste: {type(error).__name__}: {str(error)[:200]}")
    teller.send((refusals_s, errors))


def _ask_until(until: float, visitor: Visitor, refusals_s: list[float]) -> None:
    """Ask until the conversation is as long as it may be."""
    num_asked = num_answers = 0
    while num_answers < MAX_ANSWERS and (start := time.monotonic()) < until:
        num_asked += 1
        question = f"And now, for the {num_asked}th time?"
        if _is_busy(_after(question, visitor.ask(question))):
            refusals_s.append(time.monotonic() - start)
            time.sleep(HASTE_S)
        else:
            num_answers += 1


def _after(question: str, text: str) -> str:
    """What was drawn behind a question at last: the chat before it holds earlier answers and refusals."""
    return text.rpartition(f"{question}</p>")[2]


def _is_busy(text: str) -> bool:
    return any(sentence in text for sentence in _BUSY_SENTENCES)


def _film(name: str) -> bytes:
    return (SEEDS / name).read_bytes()


def soak(plan: Plan, folder: Path) -> Outcome:
    """Run `plan` against an app that lives in `folder`."""
    script = {"CXR_SCRIPT_WORDS": str(plan.num_words), "CXR_SCRIPT_DELAY_MS": str(plan.delay_ms)}
    served, outcome = Served.start(folder, LIMITS | script), Outcome()
    try:
        until = time.monotonic() + plan.seconds
        told, teller = multiprocessing.Pipe(duplex=False)
        spawned = multiprocessing.get_context("spawn")
        hasty = spawned.Process(target=_ask_in_haste, args=(served.address, until, teller), daemon=True)
        hasty.start()
        teller.close()  # so that a process that died is noticed
        sessions = [_Session(n, served, plan, outcome, until) for n in range(plan.num_sessions)]
        for session in sessions:
            session.start()
        pause = max(0.5, min(5.0, plan.seconds / 40))
        while any(session.is_alive() for session in sessions) and time.monotonic() < until + 60:
            outcome.loads.append((time.monotonic(), outcome.num_requests, served.load()))
            time.sleep(pause)
        for session in sessions:
            if session.is_alive():
                outcome.errors.append(f"{session.name} hangs")
        try:
            refusals_s, errors = told.recv()
        except EOFError:
            refusals_s, errors = [], ["the visitor in haste is gone"]
        outcome.refusals_s += refusals_s
        outcome.errors += errors
        time.sleep(plan.leave_s)
        outcome.num_files_left = sum(p.is_file() for p in served.files())
    finally:
        served.stop()
    outcome.num_files_after_stop = len(served.files())
    return outcome


def judge(plan: Plan, outcome: Outcome, *, least_answers: int = 10) -> dict[str, Any]:
    """Figures and targets: each a value, its limit and whether it was reached."""
    targets = {
        "errors": (len(outcome.errors), 0),
        "sessions_below_answers": (
            sum(outcome.answers[n] < least_answers for n in range(plan.num_sessions)),
            0,
        ),
        "refusal_p99_s": (_percentile(outcome.refusals_s, 0.99) if outcome.refusals_s else math.inf, 0.2),
        "rss_mb_per_1000_requests": (_slope(outcome), 30.0),
        "threads_grown": (_grown(outcome, "num_threads"), 5),
        "descriptors_grown": (_grown(outcome, "num_descriptors"), 10),
        "files_left": (outcome.num_files_left, 0),
        "files_after_stop": (outcome.num_files_after_stop, 0),
    }
    return {
        "date": date.today().isoformat(),
        "sessions": plan.num_sessions,
        "seconds": plan.seconds,
        "cores": os.cpu_count(),
        "requests": outcome.num_requests,
        "answers": outcome.answers.total(),
        "fewest_answers": min((outcome.answers[n] for n in range(plan.num_sessions)), default=0),
        "stopped": outcome.num_stopped,
        "refusals": len(outcome.refusals_s),
        "answer_p50_s": _percentile(outcome.answers_s, 0.5),
        "first_errors": outcome.errors[:5],
        "targets": {
            name: {
                "value": round(value, 3) if math.isfinite(value) else None,
                "limit": limit,
                "is_reached": value <= limit,
            }
            for name, (value, limit) in targets.items()
        },
    }


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def _quarters(outcome: Outcome) -> list[list[tuple[float, int, Load]]]:
    """The second and the last quarter of what was seen: the first is warm-up."""
    quarter = max(1, len(outcome.loads) // 4)
    return [outcome.loads[quarter : 2 * quarter] or outcome.loads, outcome.loads[-quarter:]]


def _slope(outcome: Outcome) -> float:
    """MB of memory that 1,000 requests leave behind, from medians of the second and the last quarter."""
    early, late = _quarters(outcome)
    grown = statistics.median(x.rss_bytes for *_, x in late) - statistics.median(
        x.rss_bytes for *_, x in early
    )
    num_requests = statistics.median(n for _, n, _ in late) - statistics.median(n for _, n, _ in early)
    return grown / 1e6 / max(num_requests, 1) * 1000


def _grown(outcome: Outcome, name: str) -> float:
    early, late = ([getattr(load, name) for *_, load in part] for part in _quarters(outcome))
    return float(statistics.median(late) - statistics.median(early))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--words", type=int, default=30)
    parser.add_argument("--delay-ms", type=int, default=Plan.delay_ms)
    parser.add_argument("--out", type=Path, help="write the figures to this file, too")
    given = parser.parse_args(argv)
    plan = Plan(given.sessions, given.minutes * 60, given.words, given.delay_ms)
    with tempfile.TemporaryDirectory() as folder:
        figures = judge(plan, soak(plan, Path(folder)))
    print(json.dumps(figures))
    if given.out:
        given.out.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(target["is_reached"] for target in figures["targets"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
