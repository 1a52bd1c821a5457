"""The app as it is served, around an engine process that speaks from a script: for soaks and fault tests.

`python benchmarks/scripted_app.py` reads the same settings as `python app.py`. Everything but the model is
the product's own: web layer, decoding child, engine process. CXR_SCRIPT_WORDS and CXR_SCRIPT_DELAY_MS say
how long an answer is; with CXR_SCRIPT_PROMPTS, all that reaches the engine is written to that file, and with
CXR_SCRIPT_MARKS, when an answer began, when it was due to be noticed that its reader reads no more and when
nothing was done for it any more (time.monotonic).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cxr_assistant.errors import OutOfMemory
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
from cxr_assistant.study import Study
from cxr_assistant.ui.web.responses import Watched

LAST_WORDS = "That is all."


class ScriptedService:
    """Answers any question with numbered words, long ones for "shout". "die", "crash" and "memory" do what
    they say; "wait" is never its turn, and the prompt of "read" takes for ever to read."""

    def __init__(self) -> None:
        self._num_words = int(os.environ.get("CXR_SCRIPT_WORDS") or 30)
        self._delay_s = float(os.environ.get("CXR_SCRIPT_DELAY_MS") or 10) / 1000
        self._prompts = os.environ.get("CXR_SCRIPT_PROMPTS")

    resident = ("embedded",)
    device = None

    def load(self, checkpoint: str) -> None:
        """It is always there."""

    def forget(self, session: str) -> None:
        """It remembers nobody."""

    def generate(self, request: GenerationRequest, is_cancelled: IsCancelled) -> Iterator[GenerationEvent]:
        _mark("begun")
        try:
            yield from self._answer(request, is_cancelled)
        finally:
            _mark("idle")

    def _answer(self, request: GenerationRequest, is_cancelled: IsCancelled) -> Iterator[GenerationEvent]:
        if self._prompts:
            with open(self._prompts, "a", encoding="utf-8") as file:
                file.write(_everything_in(request) + "\n")
        question = request.conversation.last_question
        while question.startswith(("wait", "read")) and not is_cancelled():
            yield Queued(int(question.startswith("wait")))
            time.sleep(self._delay_s)
        yield Prefilled(600)
        for number in range(self._num_words):
            if is_cancelled():
                yield Completed(FinishReason.CANCELLED, Usage(completion_tokens=number))
                return
            time.sleep(self._delay_s)
            if number == 3:
                _misbehave(question)
            yield TextDelta(f"word {number}, " + "loud " * 2_000 * question.startswith("shout"), (-0.1,))
        yield TextDelta(LAST_WORDS, (-0.1,))
        yield Completed(FinishReason.STOP, Usage(600, self._num_words), request.checkpoint, "0" * 40)


def _misbehave(question: str) -> None:
    if question.startswith("die"):
        os.kill(os.getpid(), 9)
    if question.startswith("crash"):
        raise ZeroDivisionError(question)
    if question.startswith("memory"):
        raise OutOfMemory("The device has no memory left for this answer.", hint="Wait for other answers.")


def _everything_in(request: GenerationRequest) -> str:
    """All that the engine is told, pixels as the bytes that they are."""
    return f"{request.conversation} {request.task} {_study(request.study)}"


def _study(study: Study | None) -> str:
    if study is None:
        return ""
    films: list[dict[str, Any]] = [
        {f.name: getattr(film, f.name) for f in fields(film) if f.name != "stored"}
        for film in study.radiographs
    ]
    return f"{study.indication} {films} {_study(study.prior)}"


def _mark(what: str, when: float | None = None) -> None:
    if marks := os.environ.get("CXR_SCRIPT_MARKS"):
        with open(marks, "a", encoding="ascii") as file:
            file.write(f"{what} {time.monotonic() if when is None else when}\n")


def _mark_stalls() -> None:
    """Leave a mark for each reader who reads no more, with the moment at which that was due to be noticed."""
    noticed = Watched._stalled

    def marked(watched: Watched) -> None:
        assert watched._timer is not None
        _mark("stalled", watched._timer.when())  # on the clock of the event loop, time.monotonic
        noticed(watched)

    Watched._stalled = marked  # type: ignore[assignment]


def make_scripted() -> ScriptedService:
    return ScriptedService()


def main() -> int:
    from cxr_assistant.assistant import Assistant
    from cxr_assistant.cli.serve import end_in_order_when_told
    from cxr_assistant.engine.process_worker import ProcessWorker
    from cxr_assistant.settings import read_settings
    from cxr_assistant.ui.app import build_app, launch

    end_in_order_when_told()
    settings = read_settings()
    _mark_stalls()
    worker = ProcessWorker(make_scripted)
    worker.start()
    with Assistant(worker, checkpoint=settings.checkpoint) as assistant:
        launch(build_app(assistant, settings), settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
