"""Several answers at once, and one that nobody wants any more.

Knows when each stream was asked, began and ended; must not know how the engine takes turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import mean, median
from time import perf_counter
from typing import Any
from zlib import crc32

import torch

from benchmarks.ceiling import synchronize
from benchmarks.contenders import Ours, Question, Stream
from benchmarks.subjects import Subject, make_prompt
from cxr_assistant.generation import GenerationEvent
from cxr_assistant.models.vlm import Prompt

__all__ = ["measure_cancel", "measure_streams"]

CANCEL_AFTER = 4  # events


def measure_streams(
    subject: Subject, model: Any, ours: Ours, say: Callable[[str], None], *, own_films: bool = False
) -> list[dict[str, Any]]:
    """Everybody asks at the same moment; whole answers are timed, from the question to the last token.

    Every round goes through all numbers of streams, so that their ratios are of one moment.
    """
    rounds: list[list[dict[str, float]]] = []
    for number in range(subject.stream_rounds):
        if not own_films:
            ours.answer(_stream_question(model, "the first", own_films), 1)  # the film has been read
        rounds.append([])
        for num_streams in subject.streams:
            labels = [f"{number}.{num_streams}.{i}" for i in range(num_streams)]
            questions = [_stream_question(model, label, own_films) for label in labels]
            rounds[-1].append(_run_streams(ours, questions, subject.stream_tokens))
            say(f"{num_streams} streams: {rounds[-1][-1]['tokens_per_s']:.1f} tokens/s in all")
    return [
        _streams_figures(num, found)
        for num, found in zip(subject.streams, zip(*rounds, strict=True), strict=True)
    ]


def _streams_figures(num: int, rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {"num": num} | {name: [found[name] for found in rounds] for name in rounds[0]}


def _stream_question(model: Any, label: str, has_own_film: bool) -> Question:
    words = f"Question {label} of the list: is there anything at place {label}?"
    if has_own_film:
        film = crc32(label.encode())
        return Question(make_prompt(model, film, words), f"visitor {label}")
    return Question(make_prompt(model, 1000, words), "one visitor")


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


def measure_cancel(model: Any, ours: Ours, device: torch.device) -> float:
    """Seconds from closing a running answer to a device that has nothing left to do."""
    events = ours.open(Question(Prompt(tuple(range(5, 15)))), 64)
    for _ in range(CANCEL_AFTER):
        next(events)
    started = perf_counter()
    events.close()  # type: ignore[attr-defined]  # a generator
    synchronize(device)
    return perf_counter() - started
