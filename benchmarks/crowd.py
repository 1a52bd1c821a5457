"""Several answers at once, and one that nobody wants any more.

Knows when each stream was asked, began and ended; must not know how the engine takes turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import mean, median
from threading import Event, Timer
from time import perf_counter
from typing import Any, Literal
from zlib import crc32

import torch

from benchmarks.ceiling import synchronize
from benchmarks.contenders import Ours, Question, Stream
from benchmarks.subjects import Subject, make_prompt
from cxr_assistant.generation import GenerationEvent, SamplingParams
from cxr_assistant.models.vlm import Prompt

__all__ = ["Films", "measure_cancel", "measure_streams", "questions_of"]

CANCEL_AFTER = 4  # events
CANCEL_READING_S = 1e-3  # no film is read in that time

Films = Literal["one", "own_new", "own_read"]
"""What the streams are about: one film that was read before; of each visitor one that nobody has seen; or one
that they have asked about before."""


def measure_streams(
    subject: Subject, model: Any, ours: Ours, say: Callable[[str], None], films: Films = "one"
) -> list[dict[str, Any]]:
    """Everybody asks at the same moment; whole answers are timed, from the question to the last token.

    Every round goes through all numbers of streams, so that their ratios are of one moment.
    """
    rounds: list[list[dict[str, float]]] = []
    for number in range(subject.stream_rounds):
        rounds.append([])
        for num_streams in subject.streams:
            labels = [f"{number}.{num_streams}.{i}" for i in range(num_streams)]
            questions = questions_of(model, ours, labels, films)
            rounds[-1].append(_run_streams(ours, questions, subject.stream_tokens))
            say(f"{num_streams} streams, {films}: {rounds[-1][-1]['tokens_per_s']:.1f} tokens/s in all")
    return [
        _streams_figures(num, found)
        for num, found in zip(subject.streams, zip(*rounds, strict=True), strict=True)
    ]


def _streams_figures(num: int, rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {"num": num} | {name: [found[name] for found in rounds] for name in rounds[0]}


def questions_of(model: Any, ours: Ours, labels: Sequence[str], films: Films) -> list[Question]:
    """One question per stream; what is to have been read before is read now.

    Visitors of one kind of films are not those of another, of whose questions the engine still holds all.
    """
    labels = [f"{films}.{label}" for label in labels]
    if films == "one":
        ours.answer(_one_visitors(model, "the first"), 1)
        return [_one_visitors(model, label) for label in labels]
    if films == "own_read":
        for label in labels:
            ours.answer(_own_visitors(model, label, "the first"), 1)
    return [_own_visitors(model, label) for label in labels]


def _one_visitors(model: Any, label: str) -> Question:
    return Question(make_prompt(model, 1000, _words(label)), "one visitor")


def _own_visitors(model: Any, visitor: str, label: str = "") -> Question:
    """A question of somebody with a film of their own; `label` tells their questions apart."""
    return Question(
        make_prompt(model, crc32(visitor.encode()), _words(label or visitor)), f"visitor {visitor}"
    )


def _words(label: str) -> str:
    return f"Question {label} of the list: is there anything at place {label}?"


def _run_streams(ours: Ours, questions: Sequence[Question], num_tokens: int) -> dict[str, float]:
    started = perf_counter()
    streams = [Stream(started) for _ in questions]
    waiting = [
        (stream, ours.open(question, num_tokens)) for stream, question in zip(streams, questions, strict=True)
    ]
    while waiting:
        waiting = [(stream, events) for stream, events in waiting if _advance(stream, events)]
    firsts = [stream.answered.first_s for stream in streams]
    ends = [stream.last - started for stream in streams]
    return {
        "tokens_per_s": sum(stream.num_tokens for stream in streams) / max(ends),
        "slowest_over_mean": max(ends) / mean(ends),
        "first_token_s": median(firsts),
        "last_first_token_s": max(firsts),
    }


def _advance(stream: Stream, events: Iterator[GenerationEvent]) -> bool:
    event = next(events, None)
    if event is not None:
        stream.take(event)
    return event is not None


def measure_cancel(model: Any, ours: Ours, device: torch.device) -> dict[str, float]:
    """Seconds from the wish to end an answer to a device that has nothing left to do, by when it comes.

    "writing": between two tokens. "reading": a moment after the engine has begun to look at a new film and to
    read its prompt, which it goes on with to the end of the piece.
    """
    return {
        "writing": _cancel_between_tokens(ours, device),
        "reading": _cancel_while_reading(model, ours, device),
    }


def _cancel_between_tokens(ours: Ours, device: torch.device) -> float:
    events = ours.open(Question(Prompt(tuple(range(5, 15)))), 64)
    for _ in range(CANCEL_AFTER):
        next(events)
    started = perf_counter()
    events.close()  # type: ignore[attr-defined]  # a generator
    synchronize(device)
    return perf_counter() - started


def _cancel_while_reading(model: Any, ours: Ours, device: torch.device) -> float:
    is_wanted, wished = Event(), perf_counter()

    def wish() -> None:
        nonlocal wished
        wished = perf_counter()
        is_wanted.set()

    params = SamplingParams(max_new_tokens=64)
    events = ours.engine.pulses(model, make_prompt(model, 2000), params, is_wanted.is_set)
    next(events)  # it is asked; nothing is read yet
    timer = Timer(CANCEL_READING_S, wish)
    timer.start()
    for _ in events:
        pass
    synchronize(device)
    ended = perf_counter()
    timer.join()
    return ended - wished
