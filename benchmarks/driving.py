"""Who should take the engine's steps: python benchmarks/driving.py --json

Three ways to serve several readers from one engine, on the embedded model, where a step is short and the way
weighs most: one loop that pulls every answer in turn (as the worker process does), a thread per reader that
takes a step whenever it finds nothing new, and one thread that drives while readers wait at queues. The ways
take turns within a round; a ratio is the median over rounds. Writes benchmarks/results/driving.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.contenders import Ours, Question  # noqa: E402
from benchmarks.pairing import paired_ratio  # noqa: E402
from benchmarks.speed import describe_hardware  # noqa: E402
from benchmarks.subjects import SUBJECTS, make_prompt  # noqa: E402
from cxr_assistant.generation import GenerationEvent  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "driving.json"
Answers = Sequence[Iterator[GenerationEvent]]


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parse(arguments)
    subject = SUBJECTS["tiny" if given.quick else "embedded"]
    model = subject.make(subject, given.work)
    model.processor = replace(model.processor, stop_token_ids=frozenset())
    ours = Ours(model)
    ours.answer(_question(model, 0), 4)
    rows = [_row(ours, num, given.tokens, given.rounds) for num in given.readers]
    results = {
        "benchmark": "driving",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": describe_hardware("cpu"),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "num_tokens": given.tokens,
        "rows": rows,
    }
    if given.out:
        given.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    if given.json:
        print(json.dumps(results))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--readers", nargs="+", type=int, default=[1, 2, 8])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a model of one megabyte; nothing is written")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "speed")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--json", action="store_true", help="the last line is the result as one object")
    given = parser.parse_args(arguments)
    if given.quick:
        given.out = None
    return given


def _row(ours: Ours, num_readers: int, num_tokens: int, num_rounds: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    names = list(WAYS)
    for number in range(num_rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            # A film that everybody may see and was seen: steps are compared, not towers.
            questions = [_question(ours.model, i) for i in range(num_readers)]
            started = perf_counter()
            counts = WAYS[name]([ours.open(question, num_tokens) for question in questions])
            times[name].append(perf_counter() - started)
            assert min(counts) > 1
        print(
            f"{num_readers} readers: " + ", ".join(f"{n} {t[-1]:.3f} s" for n, t in times.items()), flush=True
        )
    ratios = {
        name: ratio._asdict()
        for name in names[1:]
        if (ratio := paired_ratio(times[name], times[names[0]])) is not None
    }
    return {"readers": num_readers, "seconds": times, "slower_than_one_loop": ratios}


def _question(model: Any, number: int) -> Question:
    words = f"Question {number} of the list: is there anything at place {number}?"
    return Question(make_prompt(model, 0, words), is_public=True)


# -------------------------------------------------------------------------------------------- the three ways


def _one_loop(answers: Answers) -> list[int]:
    """Whoever is first in a round takes the step, the others find what it brought them."""
    counts = [0] * len(answers)
    waiting = dict(enumerate(answers))
    while waiting:
        for i, answer in list(waiting.items()):
            if next(answer, None) is None:
                del waiting[i]
            else:
                counts[i] += 1
    return counts


def _whoever_pulls(answers: Answers) -> list[int]:
    """A thread per reader; one of them steps at a time."""
    with ThreadPoolExecutor(len(answers)) as readers:
        return list(readers.map(lambda answer: sum(1 for _ in answer), answers))


def _thread_and_queues(answers: Answers) -> list[int]:
    """One thread drives, a queue for each reader."""
    queues: list[SimpleQueue[GenerationEvent | None]] = [SimpleQueue() for _ in answers]

    def drive() -> None:
        waiting = dict(enumerate(answers))
        while waiting:
            for i, answer in list(waiting.items()):
                event = next(answer, None)
                queues[i].put(event)
                if event is None:
                    del waiting[i]

    def read(queue: SimpleQueue[GenerationEvent | None]) -> int:
        return sum(1 for _ in iter(queue.get, None))

    with ThreadPoolExecutor(len(answers) + 1) as threads:
        driving = threads.submit(drive)
        counts = list(threads.map(read, queues))
        driving.result()
    return counts


WAYS: dict[str, Callable[[Answers], list[int]]] = {
    "one loop": _one_loop,
    "whoever pulls": _whoever_pulls,
    "thread and queues": _thread_and_queues,
}


if __name__ == "__main__":
    sys.exit(main())
