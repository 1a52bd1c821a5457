"""The same promises inline and across a process; and what only a process can do: die and come back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cxr_assistant.conversation import Conversation
from cxr_assistant.engine.worker import InlineWorker, ProcessWorker, Worker, WorkerState
from cxr_assistant.errors import MissingWeights, PromptTooLong, WorkerUnavailable
from cxr_assistant.generation import (
    Completed,
    FinishReason,
    GenerationRequest,
    Prefilled,
    Queued,
    TextDelta,
    collect,
)
from cxr_assistant.study import Study
from cxr_assistant.tasks import Task
from tests.engine.conftest import random_film
from tests.engine.services import make_broken, make_obedient, make_slowly

PATIENCE_S = 20.0


def request(question: str) -> GenerationRequest:
    return GenerationRequest(
        checkpoint="embedded",
        task=Task.QUESTION,
        study=Study(radiographs=(random_film(0),)),
        conversation=Conversation().ask(question),
    )


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def process_worker() -> Iterator[ProcessWorker]:
    worker = ProcessWorker(make_obedient)
    yield worker
    worker.close()


@pytest.fixture(params=["inline", "process"])
def any_worker(request: pytest.FixtureRequest, process_worker: ProcessWorker) -> Worker:
    return process_worker if request.param == "process" else InlineWorker(make_obedient)


# ------------------------------------------------------------------------------------------ both of them


def test_events_arrive_in_order(any_worker: Worker) -> None:
    first, *deltas, last = any_worker.submit(request("count 5"))
    assert first == Prefilled(7)
    assert "".join(event.text for event in deltas if isinstance(event, TextDelta)) == "0 1 2 3 4 "
    assert last == Completed(FinishReason.STOP, last.usage, "embedded", "r")


def test_an_error_arrives_as_it_was_raised(any_worker: Worker) -> None:
    with pytest.raises(PromptTooLong) as caught:
        collect(any_worker.submit(request("refuse")))
    assert (caught.value.message, caught.value.hint) == ("Too long by far.", "Shorten it.")


def test_an_error_leaves_the_worker_able(any_worker: Worker) -> None:
    with pytest.raises(PromptTooLong):
        collect(any_worker.submit(request("refuse")))
    assert collect(any_worker.submit(request("count 2"))).text == "0 1 "


@pytest.mark.requirement("D3")
def test_a_cancel_while_decoding_stops_the_answer(any_worker: Worker) -> None:
    pulled: list[Any] = []
    for event in any_worker.submit(request("count 3000"), lambda: len(pulled) >= 5):
        pulled.append(event)
    assert pulled[-1].finish_reason is FinishReason.CANCELLED
    assert len(pulled) < 1000


@pytest.mark.requirement("D3")
def test_a_cancel_during_prefill_stops_the_answer(any_worker: Worker) -> None:
    started = time.monotonic()
    (only,) = any_worker.submit(request("prefill 500"), lambda: time.monotonic() - started > 0.1)
    assert only.finish_reason is FinishReason.CANCELLED
    assert time.monotonic() - started < 5


def test_a_place_in_the_queue_is_told_once(any_worker: Worker) -> None:
    places = [event for event in any_worker.submit(request("queue 5")) if isinstance(event, Queued)]
    assert places == [Queued(2), Queued(1), Queued(0)]


def test_a_cancel_while_others_are_in_front_ends_at_once(any_worker: Worker) -> None:
    heard: list[Any] = []
    for event in any_worker.submit(request("queue 1"), lambda: Queued(3) in heard):
        heard.append(event)
    assert isinstance(heard[-1], Completed)
    assert heard.count(Queued(3)) == 1, "it is said without pause until the cancel is seen"


def test_answers_do_not_mix(any_worker: Worker) -> None:
    questions = [f"count {number}" for number in (3, 11, 7)]
    with ThreadPoolExecutor(3) as people:
        answers = list(people.map(lambda q: collect(any_worker.submit(request(q))).text, questions))
    assert [len(answer.split()) for answer in answers] == [3, 11, 7]


def test_a_load_that_fails_says_why(any_worker: Worker) -> None:
    with pytest.raises(MissingWeights, match="not on this computer"):
        any_worker.load("absent")


def test_others_are_answered_while_a_model_is_loaded(process_worker: ProcessWorker, tmp_path: Path) -> None:
    flag = tmp_path / "loaded"
    with ThreadPoolExecutor(1) as person:
        loading = person.submit(process_worker.load, f"until {flag}")
        try:
            assert len(collect(process_worker.submit(request("count 5"))).text.split()) == 5
            assert not loading.done()
        finally:
            flag.touch()
        loading.result(PATIENCE_S)


def test_a_forgotten_session_reaches_the_service(any_worker: Worker) -> None:
    before = int(collect(any_worker.submit(request("forgotten"))).text)
    any_worker.forget("a visitor")
    assert int(collect(any_worker.submit(request("forgotten"))).text) == before + 1


def test_health_names_what_is_in_memory(any_worker: Worker) -> None:
    any_worker.load("embedded")
    wait_until(lambda: any_worker.health().resident[:1] == ("embedded",))
    assert any_worker.health().state is WorkerState.READY


def test_health_says_what_the_engine_computes_on(any_worker: Worker) -> None:
    any_worker.load("embedded")
    wait_until(lambda: any_worker.health().device is not None)
    device = any_worker.health().device
    assert device is not None and (device.name, device.free_bytes) == ("cpu", 3 * 10**9)


def test_a_closed_stream_is_no_longer_active(any_worker: Worker) -> None:
    events = any_worker.submit(request("count 3000"))
    next(events)
    assert any_worker.health().num_active == 1
    events.close()  # type: ignore[attr-defined]
    assert any_worker.health().num_active == 0


# ------------------------------------------------------------------------------------------- the process


def test_short_answers_do_not_wait_for_long_ones(process_worker: ProcessWorker) -> None:
    long = process_worker.submit(request("count 2000"))
    next(long)
    assert collect(process_worker.submit(request("count 2"))).text == "0 1 "
    assert next(long)
    long.close()  # type: ignore[attr-defined]


@pytest.mark.requirement("D6")
def test_a_stream_cancelled_while_the_engine_is_deaf_ends_by_itself(process_worker: ProcessWorker) -> None:
    started = time.monotonic()
    (only,) = process_worker.submit(request("hang 2"), lambda: True)
    ended_s = time.monotonic() - started
    assert only.finish_reason is FinishReason.CANCELLED
    collect(process_worker.submit(request("count 1")))  # which waits until the engine hears again
    assert ended_s < 0.75 * (time.monotonic() - started)


def test_a_closed_stream_frees_the_engine(process_worker: ProcessWorker) -> None:
    events = process_worker.submit(request("count 100000"))
    next(events)
    events.close()  # type: ignore[attr-defined]
    wait_until(lambda: collect(process_worker.submit(request("others"))).text == "0 ")


@pytest.mark.requirement("D6", "D8")
def test_a_killed_process_is_said_and_replaced() -> None:
    worker = ProcessWorker(make_obedient)
    try:
        events = worker.submit(request("count 3000"))
        next(events)
        pid = worker.health().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerUnavailable, match="stopped while it was working"):
            collect(events)
        wait_until(lambda: worker.health().state is WorkerState.STOPPED)
        assert collect(worker.submit(request("count 2"))).text == "0 1 "
        assert worker.health().pid != pid
    finally:
        worker.close()


@pytest.mark.parametrize("question", ["die", "crash"])
def test_a_service_that_breaks_ends_in_a_sentence(question: str) -> None:
    worker = ProcessWorker(make_obedient)
    try:
        with pytest.raises(WorkerUnavailable):
            collect(worker.submit(request(question)))
        assert collect(worker.submit(request("count 2"))).text == "0 1 "
    finally:
        worker.close()


def test_a_service_that_cannot_be_made_ends_in_a_sentence() -> None:
    worker = ProcessWorker(make_broken)
    with pytest.raises(WorkerUnavailable):
        collect(worker.submit(request("count 2")))
    worker.close()


def test_start_returns_before_the_service_is_there(tmp_path: Path) -> None:
    flag = tmp_path / "now"
    worker = ProcessWorker(partial(make_slowly, str(flag)))
    try:
        worker.start()
        assert worker.health().state is WorkerState.STARTING
        flag.touch()
        wait_until(lambda: worker.health().state is WorkerState.READY)
        assert collect(worker.submit(request("count 2"))).text == "0 1 "
    finally:
        worker.close()


def test_close_ends_the_process(tmp_path: Path) -> None:
    worker = ProcessWorker(make_obedient)
    worker.start()
    pid = worker.health().pid
    assert pid is not None
    worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert worker.health().state is WorkerState.STOPPED
