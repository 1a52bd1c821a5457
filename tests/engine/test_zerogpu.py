"""ZeroGPU with a stand-in for `spaces`: it pickles what crosses, as the real one does, and can refuse."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from cxr_assistant.conversation import Conversation
from cxr_assistant.engine.zerogpu import MAX_S, ZeroGpuWorker, bounded, seconds_for
from cxr_assistant.errors import CxrAssistantError, OutOfMemory, SettingsError, WorkerUnavailable
from cxr_assistant.generation import (
    Completed,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TextDelta,
    Usage,
    collect,
)
from cxr_assistant.study import Study
from cxr_assistant.tasks import Task
from tests.doubles import make_film


class Refusal(Exception):
    """What `spaces` raises: Gradio's error with a title."""

    def __init__(self, title: str) -> None:
        super().__init__("markup with links")
        self.title = title


@dataclass
class FakeSpaces:
    refusal: Exception | None = None
    declared: list[int] = field(default_factory=list)
    closed: int = 0

    def GPU(self, *, duration: Callable[..., int]) -> Callable[..., Any]:  # its name
        def decorate(task: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
            def lent(*args: Any) -> Iterator[Any]:
                self.declared.append(duration(*args))
                if self.refusal:
                    raise self.refusal
                try:
                    for value in task(*pickle.loads(pickle.dumps(args))):
                        yield pickle.loads(pickle.dumps(value))
                finally:
                    self.closed += 1

            return lent

        return decorate


@dataclass
class FakeService:
    name: str
    error: CxrAssistantError | None = None
    resident: tuple[str, ...] = ()
    device: None = None

    def generate(self, request: GenerationRequest, is_cancelled: Any) -> Iterator[Any]:
        if self.error:
            raise self.error
        for word in ("The ", "lungs ", "are ", "clear."):
            yield TextDelta(word)
        yield Completed(FinishReason.STOP, Usage(), request.checkpoint, self.name)

    def load(self, checkpoint: str) -> None:
        self.resident = (*self.resident, checkpoint)

    def forget(self, session: str) -> None: ...


def make_worker(spaces: FakeSpaces, error: CxrAssistantError | None = None) -> ZeroGpuWorker:
    return ZeroGpuWorker(
        partial(FakeService, "cpu"),
        partial(FakeService, "gpu", error),
        needs_gpu=lambda name: name != "embedded",
        spaces=spaces,  # type: ignore[arg-type]
    )


REQUEST = GenerationRequest(
    checkpoint="llava-rad",
    task=Task.FINDINGS,
    study=Study((make_film(),)),
    conversation=Conversation().ask("Describe the findings."),
)


def test_a_large_model_answers_on_a_lent_gpu() -> None:
    spaces = FakeSpaces()
    answer = collect(make_worker(spaces).submit(REQUEST))
    assert (answer.text, answer.revision) == ("The lungs are clear.", "gpu")
    assert len(spaces.declared) == 1


def test_the_embedded_model_never_asks_for_a_gpu() -> None:
    spaces = FakeSpaces(Refusal("ZeroGPU quota exceeded"))
    answer = collect(make_worker(spaces).submit(replace(REQUEST, checkpoint="embedded")))
    assert (answer.revision, spaces.declared) == ("cpu", [])


@pytest.mark.parametrize(
    ("task", "tokens", "seconds"),
    [(Task.VIEW, 256, 7), (Task.QUESTION, 256, 14), (Task.FINDINGS, 256, 19), (Task.REPORT, 4096, MAX_S)],
    ids=str,
)
def test_the_declared_time_is_what_the_answer_may_take(task: Task, tokens: int, seconds: int) -> None:
    request = replace(REQUEST, task=task, params=SamplingParams(max_new_tokens=tokens))
    assert seconds_for(request) == seconds
    assert bounded(request).params.max_new_tokens <= tokens


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("ZeroGPU quota exceeded", "used up for now"),
        ("ZeroGPU pending credits exceeded", "already wait"),
        ("ZeroGPU illegal duration", "longer than one is lent"),
        ("ZeroGPU queue timeout", "No GPU became free"),
        ("ZeroGPU worker error", "taken back"),
        ("ZeroGPU client error", "did not take the request"),
        ("ZeroGPU something new", "did not take the request"),
    ],
)
def test_a_refusal_is_said_in_plain_words(title: str, words: str) -> None:
    with pytest.raises(WorkerUnavailable, match=words) as refusal:
        collect(make_worker(FakeSpaces(Refusal(title))).submit(REQUEST))
    assert "examples" in refusal.value.hint
    assert "markup" not in str(refusal.value)


def test_an_error_of_the_project_crosses_the_fork_whole() -> None:
    error = OutOfMemory("No memory is left.", hint="Ask less.")
    with pytest.raises(OutOfMemory, match=r"No memory is left\. Ask less\."):
        collect(make_worker(FakeSpaces(), error).submit(REQUEST))


def test_any_other_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="broken"):
        collect(make_worker(FakeSpaces(RuntimeError("broken"))).submit(REQUEST))


def test_stop_gives_the_gpu_back_at_the_next_word() -> None:
    spaces = FakeSpaces()
    seen: list[Any] = []
    for event in make_worker(spaces).submit(REQUEST, lambda: len(seen) >= 1):
        seen.append(event)
    assert (len(seen), spaces.closed) == (2, 1)
    assert seen[-1].finish_reason is FinishReason.CANCELLED


def test_a_request_that_was_stopped_before_it_began_asks_for_no_gpu() -> None:
    spaces = FakeSpaces()
    answer = collect(make_worker(spaces).submit(REQUEST, lambda: True))
    assert (answer.finish_reason, spaces.declared) == (FinishReason.CANCELLED, [])


def test_both_services_are_seen_from_outside() -> None:
    worker = make_worker(FakeSpaces())
    worker.load("embedded")
    worker.load("llava-rad")
    assert worker.health().resident == ("embedded", "llava-rad")


def test_without_the_package_the_setting_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spaces", None)
    with pytest.raises(SettingsError, match="'spaces' is not installed"):
        ZeroGpuWorker(partial(FakeService, "cpu"), partial(FakeService, "gpu"), needs_gpu=bool)
