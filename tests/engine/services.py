"""Services that do as the question says; importable by a spawned process, and without torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from cxr_assistant.errors import CxrAssistantError, MissingWeights, PromptTooLong
from cxr_assistant.generation import (
    Completed,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    IsCancelled,
    Prefilled,
    Queued,
    TextDelta,
    Usage,
)
from cxr_assistant.models.precision import Device


class ObedientService:
    """Questions: "count N", "prefill N" (N slow steps before any event), "hang S" (deaf for S seconds),
    "queue N" (say N times that two are in front, then one, then none; of 1: wait for a cancel),
    "refuse", "die", "crash", "others" (how many other answers are in the making), "forgotten" (how many
    sessions were forgotten)."""

    def __init__(self) -> None:
        self._resident: tuple[str, ...] = ()
        self._num_active = 0
        self.forgotten: list[str] = []

    @property
    def resident(self) -> tuple[str, ...]:
        return self._resident

    @property
    def device(self) -> Device:
        return Device("cpu", "CPU", free_bytes=3 * 10**9, total_bytes=8 * 10**9)

    def load(self, checkpoint: str) -> None:
        if checkpoint == "absent":
            raise MissingWeights("absent is not on this computer yet.", hint="Fetch it.")
        if checkpoint.startswith("until "):  # that file is there
            wait_for(Path(checkpoint.removeprefix("until ")))
            return
        self._resident = (*self._resident, checkpoint)

    def forget(self, session: str) -> None:
        self.forgotten.append(session)

    def generate(self, request: GenerationRequest, is_cancelled: IsCancelled) -> Iterator[GenerationEvent]:
        self._num_active += 1
        try:
            yield from self._obey(request, is_cancelled)
        finally:
            self._num_active -= 1

    def _obey(self, request: GenerationRequest, is_cancelled: IsCancelled) -> Iterator[GenerationEvent]:
        verb, _, number = request.conversation.last_question.partition(" ")
        if verb == "refuse":
            raise _refusal()
        if verb == "die":
            os.kill(os.getpid(), 9)
        if verb == "crash":
            raise ZeroDivisionError("a bug")
        if verb == "hang":
            time.sleep(float(number))
        for _ in range(int(number) if verb == "queue" else 0):
            yield Queued(2)
        if verb == "queue":
            yield Queued(1)
            yield Queued(0)
            while not is_cancelled() and number == "1":
                yield Queued(3)
        for _ in range(int(number) if verb == "prefill" else 0):
            time.sleep(0.02)
            if is_cancelled():
                yield Completed(FinishReason.CANCELLED, Usage(prompt_tokens=1))
                return
        yield Prefilled(7)
        for step in range(int(number) if verb == "count" else 1):
            if is_cancelled():
                yield Completed(FinishReason.CANCELLED, Usage(completion_tokens=step))
                return
            time.sleep(0.002)
            told = {"others": self._num_active - 1, "forgotten": len(self.forgotten)}.get(verb, step)
            yield TextDelta(f"{told} ", (-0.5,))
        yield Completed(FinishReason.STOP, Usage(completion_tokens=1), request.checkpoint, "r")


def _refusal() -> CxrAssistantError:
    return PromptTooLong("Too long by far.", hint="Shorten it.")


def make_obedient() -> ObedientService:
    return ObedientService()


def make_broken() -> ObedientService:
    raise ImportError("no torch here")


def make_slowly(flag: str) -> ObedientService:
    """Waits until a file appears, as an import of torch does."""
    wait_for(Path(flag))
    return ObedientService()


def wait_for(flag: Path) -> None:
    while not flag.exists():
        time.sleep(0.01)
