"""An engine that is stuck is ended and another started, while whoever asks is told in a sentence."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from cxr_assistant.conversation import Conversation
from cxr_assistant.engine.process_worker import ProcessWorker
from cxr_assistant.engine.service import WorkerState
from cxr_assistant.engine.watchdog import Vitals
from cxr_assistant.errors import WorkerUnavailable
from cxr_assistant.generation import Completed, GenerationRequest
from cxr_assistant.study import Study
from cxr_assistant.tasks import Task
from tests.engine.services import make_obedient


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vitals(clock: Clock) -> Vitals:
    return Vitals(clock)


def test_an_engine_that_owes_nothing_is_never_stuck(vitals: Vitals, clock: Clock) -> None:
    clock.now += 10_000
    assert not vitals.is_stuck(30, ())


def test_silence_while_an_answer_is_owed_is_being_stuck(vitals: Vitals, clock: Clock) -> None:
    vitals.asked(1, "embedded")
    clock.now += 29
    vitals.heard()
    clock.now += 29
    assert not vitals.is_stuck(30, ("embedded",))
    clock.now += 2
    assert vitals.is_stuck(30, ("embedded",))
    vitals.ended(1)
    assert not vitals.is_stuck(30, ("embedded",))


def test_loading_may_be_silent_for_longer(vitals: Vitals, clock: Clock) -> None:
    vitals.asked(1, "llava-rad")
    clock.now += 299
    assert not vitals.is_stuck(30, ("embedded",))
    clock.now += 2
    assert vitals.is_stuck(30, ("embedded",))


def test_three_times_out_of_memory_within_five_minutes_wears_an_engine_out(
    vitals: Vitals, clock: Clock
) -> None:
    for key in range(3):
        vitals.asked(key, "embedded")
    for key in range(3):
        assert not vitals.is_worn_out
        vitals.ended(key, out_of_memory=True)
        clock.now += 60
    assert vitals.is_worn_out
    clock.now += 200
    assert not vitals.is_worn_out


def _request(question: str) -> GenerationRequest:
    return GenerationRequest(
        checkpoint="embedded", task=Task.QUESTION, study=Study(), conversation=Conversation().ask(question)
    )


def _until(is_so: Callable[[], bool], patience_s: float = 240.0) -> None:
    deadline = time.monotonic() + patience_s
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_so()


@pytest.mark.requirement("D6")
def test_a_stuck_engine_is_replaced_by_itself_and_answers_again() -> None:
    worker = ProcessWorker(make_obedient, stuck_s=1.0)
    try:
        worker.load("embedded")
        first = worker.health().pid
        with pytest.raises(WorkerUnavailable):
            list(worker.submit(_request("hang 600")))
        _until(lambda: worker.health().state is WorkerState.READY)
        assert worker.health().pid != first
        assert isinstance(list(worker.submit(_request("count 3")))[-1], Completed)
    finally:
        worker.close()


@pytest.mark.requirement("D6", "D8")
def test_a_killed_engine_is_replaced_before_anybody_asks() -> None:
    import os
    import signal

    worker = ProcessWorker(make_obedient, stuck_s=5.0)
    try:
        worker.load("embedded")
        first = worker.health().pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        _until(lambda: worker.health().pid != first and worker.health().state is WorkerState.READY)
    finally:
        worker.close()
