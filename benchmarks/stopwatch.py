"""One row of the speed table: all that is measured of one model, contenders taking turns.

Knows what is asked and when the clock is read; must not know how a contender answers, or what is good enough.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event, Thread
from time import perf_counter
from typing import Any

import torch

from benchmarks.ceiling import (
    Rates,
    Work,
    measure_flops_per_s,
    measure_read_bytes_per_s,
    measure_work,
    synchronize,
)
from benchmarks.contenders import Answered, Contender, Demo, Library, Ours, Question
from benchmarks.crowd import measure_cancel, measure_streams
from benchmarks.pairing import middle, paired_ratio
from benchmarks.subjects import Subject, follow_up, make_prompt
from benchmarks.ties import find_parting
from cxr_assistant.models.vlm import Prompt

__all__ = ["measure"]

SECOND_QUESTION = "Is there a pleural effusion, and on which side?"


def measure(subject: Subject, work_dir: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything about `subject`; what is not measured for a contender is None."""
    started = perf_counter()
    model = subject.make(subject, work_dir)
    model.processor = replace(model.processor, stop_token_ids=frozenset())  # all write equally much
    _touch(model)
    load_s = perf_counter() - started
    work, device = measure_work(model), torch.device(subject.device)
    first = make_prompt(model, 0)
    positions = len(first) + subject.num_tokens
    rates = _rates(subject, model, work, positions)
    say(_stated(work, rates, len(first), positions))
    ours = Ours(model)
    room = len(first) + 2 * subject.num_tokens + 64
    contenders: list[Contender] = [Demo(model), Library(model, room, compiles=subject.compiles), ours]
    held_bytes = _warm_up(contenders, first, device)
    taken = _Taken(subject, model, contenders, device, say)
    for repetition in range(subject.num_repetitions):
        taken.repeat(repetition)
    row: dict[str, Any] = {
        "name": subject.name,
        "title": subject.title,
        "precision": subject.precision,
        "device": subject.device,
        "prompt_tokens": len(first),
        "num_tokens": subject.num_tokens,
        "num_repetitions": subject.num_repetitions,
        "load_s": load_s if subject.checkpoint else None,
        "ceiling": _ceiling(work, rates, len(first), positions),
        "contenders": {c.name: taken.figures(c, work, positions, held_bytes[c.name]) for c in contenders},
        "ratios": taken.ratios(),
        "is_equal": taken.equality,
        "partings": taken.partings,
    }
    row["streams"] = measure_streams(subject, model, ours, say)
    if subject.own_films:
        row["streams_own_films"] = measure_streams(subject, model, ours, say, "own_new")
        row["streams_own_films_read"] = measure_streams(subject, model, ours, say, "own_read")
    row["cancel_s"] = measure_cancel(model, ours, device)
    return row


# ------------------------------------------------------------------------------------------ the ceiling


def _rates(subject: Subject, model: Any, work: Work, positions: int) -> Rates:
    read = measure_read_bytes_per_s(subject.device, work.token_bytes(positions))
    return Rates(read, measure_flops_per_s(subject.device, model.dtype))


def _ceiling(work: Work, rates: Rates, prompt_tokens: int, positions: int) -> dict[str, Any]:
    return {
        **asdict(rates),
        "weight_bytes": work.weight_bytes,
        "token_bytes": work.token_bytes(positions),
        "tokens_per_s": rates.read_bytes_per_s / work.token_bytes(positions),
        "encode_flops": work.encode_flops,
        "prefill_flops": work.prefill_flops(prompt_tokens),
        "first_token_s": work.floor_s(rates, prompt_tokens),
    }


def _stated(work: Work, rates: Rates, prompt_tokens: int, positions: int) -> str:
    found = _ceiling(work, rates, prompt_tokens, positions)
    return (
        f"a token moves {found['token_bytes'] / 1e6:.0f} MB, memory is read at "
        f"{rates.read_bytes_per_s / 1e9:.1f} GB/s: at most {found['tokens_per_s']:.1f} tokens/s; image and "
        f"prompt take {(work.encode_flops + found['prefill_flops']) / 1e9:.0f} GFLOP at "
        f"{rates.flops_per_s / 1e9:.0f} GFLOP/s: at least {found['first_token_s']:.3f} s to the first token"
    )


# ------------------------------------------------------------------------------------------ one at a time


class _Taken:
    """All timings of one row; repetition i of every contender stands at place i of its lists."""

    def __init__(
        self,
        subject: Subject,
        model: Any,
        contenders: Sequence[Contender],
        device: torch.device,
        say: Callable[[str], None],
    ) -> None:
        self.subject, self.model, self.contenders, self.device = subject, model, contenders, device
        self.say = say
        self.ours = next(c for c in contenders if isinstance(c, Ours))
        self.encode_s: list[float] = []
        self.read_rates: list[float] = []
        self.times: dict[str, dict[str, list[float]]] = {c.name: {} for c in contenders}
        self.extra_bytes: dict[str, int] = {c.name: 0 for c in contenders}
        self.equality = {"contenders": True, "follow_up": True}
        self.partings: list[dict[str, Any]] = []

    def repeat(self, repetition: int) -> None:
        """Everybody once on a new film, in an order that changes; then what only some can do."""
        prompt = make_prompt(self.model, 1 + repetition)
        positions = len(prompt) + self.subject.num_tokens
        read_rate = self._read_rate(positions)
        self._encode(prompt)
        turn = repetition % len(self.contenders)
        asked = Question(prompt, f"session {repetition}", is_public=True)
        said: dict[str, Answered] = {}
        for contender in (*self.contenders[turn:], *self.contenders[:turn]):
            answered = self._ask(contender, asked, "new_image_s")
            self._note(contender, "token_s", answered.token_s)
            said[contender.name] = answered
        # A machine that others share may give more a moment later: the higher of two counts.
        self.read_rates.append(max(read_rate, self._read_rate(positions)))
        if len({answered.text for answered in said.values()}) > 1:
            self._note_partings(repetition, prompt)
        stranger = Question(prompt, f"another session {repetition}", is_public=True)
        self._ask(self.ours, stranger, "same_image_s", 1)
        self._follow_up(repetition, follow_up(self.model, prompt, said["ours"].text, SECOND_QUESTION))

    def _note_partings(self, repetition: int, prompt: Prompt) -> None:
        """Others may choose otherwise where the model is all but undecided, and nowhere else."""
        num = self.subject.num_tokens
        ours = self.ours.token_ids(prompt, num)
        for contender in self.contenders:
            parting = find_parting(self.model, prompt, ours, contender.token_ids(prompt, num))
            if parting is not None:
                self.say(f"{contender.name} goes another way at token {parting.token}: {parting.margin:.2g}")
                self.partings.append({"way": contender.name, "repetition": repetition} | parting._asdict())
                self.equality["contenders"] &= parting.is_tie

    def _follow_up(self, repetition: int, prompt: Prompt) -> None:
        """With what the session left behind, and as a stranger would ask it; the ids must be the same."""
        num = min(8, self.subject.num_tokens)
        reused = self._ask(self.ours, Question(prompt, f"session {repetition}"), "follow_up_s", num)
        naive = self._ask(self.ours, Question(prompt), "follow_up_without_reuse_s", num)
        self.equality["follow_up"] &= reused.text == naive.text
        if repetition == 0:  # the others read all of it again: one look is enough
            for contender in self.contenders:
                if contender is not self.ours:
                    self._ask(contender, Question(prompt), "follow_up_s", 2)

    def _ask(
        self, contender: Contender, question: Question, column: str, num_tokens: int | None = None
    ) -> Answered:
        with _watched_memory(self.device) as memory:
            answered = contender.answer(question, num_tokens or self.subject.num_tokens)
        self.extra_bytes[contender.name] = max(self.extra_bytes[contender.name], memory.extra_bytes)
        self._note(contender, column, answered.first_s)
        self.say(f"{contender.name}: {column} {answered.first_s:.3f}")
        return answered

    def _note(self, contender: Contender, column: str, value: float) -> None:
        self.times[contender.name].setdefault(column, []).append(value)

    def _encode(self, prompt: Prompt) -> None:
        synchronize(self.device)
        started = perf_counter()
        self.model.encode(prompt.pixel_values)
        synchronize(self.device)
        self.encode_s.append(perf_counter() - started)

    def _read_rate(self, positions: int) -> float:
        return measure_read_bytes_per_s(self.subject.device, measure_work(self.model).token_bytes(positions))

    def figures(self, contender: Contender, work: Work, positions: int, held_bytes: int) -> dict[str, Any]:
        times = self.times[contender.name]
        token_s = times["token_s"]
        share = paired_ratio([work.token_bytes(positions) / s for s in token_s], self.read_rates)
        return {
            "remark": contender.remark,
            "encode_s": middle(self.encode_s) if contender is self.ours else None,
            **{column: middle(found) for column, found in times.items()},
            "tokens_per_s": 1.0 / (middle(token_s) or float("nan")),
            "share_of_ceiling": share._asdict() if share else None,
            "held_bytes": held_bytes,
            "memory_bytes": work.weight_bytes + held_bytes + self.extra_bytes[contender.name],
        }

    def ratios(self) -> dict[str, Any]:
        """Above 1 this engine is faster; each pair was measured in one repetition."""
        ours = self.times["ours"]
        found = {
            f"tokens_per_s_over_{name}": paired_ratio(self.times[name]["token_s"], ours["token_s"])
            for name in ("demo", "library")
        }
        found |= {
            f"new_image_sooner_than_{name}": paired_ratio(
                self.times[name]["new_image_s"], ours["new_image_s"]
            )
            for name in ("demo", "library")
        }
        found["follow_up_sooner"] = paired_ratio(ours["follow_up_without_reuse_s"], ours["follow_up_s"])
        return {name: ratio._asdict() if ratio else None for name, ratio in found.items()}


def _warm_up(contenders: Sequence[Contender], prompt: Prompt, device: torch.device) -> dict[str, int]:
    """A few words without a film and with one: what a first call makes is not the first film's fault.

    Returns the bytes that each keeps from it.
    """
    held = {}
    for contender in contenders:
        before = _taken_bytes(device)
        for warming in (Prompt(tuple(range(5, 15))), prompt):
            contender.answer(Question(warming), 3)
        held[contender.name] = max(0, _taken_bytes(device) - before)
    return held


# ------------------------------------------------------------------------------------------ memory


@dataclass
class _Memory:
    extra_bytes: int = 0


@contextmanager
def _watched_memory(device: torch.device) -> Iterator[_Memory]:
    """The most memory that was taken beyond what was there before."""
    memory = _Memory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield memory
        memory.extra_bytes = torch.cuda.max_memory_allocated(device) - before
        return
    done, before = Event(), _anonymous_bytes()

    def look() -> None:
        while not done.wait(0.02):
            memory.extra_bytes = max(memory.extra_bytes, _anonymous_bytes() - before)

    watcher = Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield memory
    finally:
        done.set()
        watcher.join()


def _taken_bytes(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _anonymous_bytes()


def _anonymous_bytes() -> int:
    """RssAnon of this process (Linux; elsewhere 0): memory that no file backs."""
    try:
        lines = Path(f"/proc/{os.getpid()}/status").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def _touch(model: Any) -> None:
    """Read every weight once: a mapped file is loaded when it is read."""
    for part in (model.language_model, model.head, model.tower, model.projector):
        for parameter in part.parameters():
            parameter.detach().view(-1)[:: max(1, 4096 // parameter.element_size())].float().sum()
