"""From request to events with a real, tiny model: inline, and in a process while this one stays light."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cxr_assistant import residents, serving
from cxr_assistant.checkpoints import embedded
from cxr_assistant.conversation import Conversation
from cxr_assistant.engine.worker import InlineWorker, ProcessWorker, Worker, WorkerState
from cxr_assistant.errors import ForeignImage, MissingWeights, OutOfMemory, UnknownCheckpoint
from cxr_assistant.generation import (
    Answer,
    Completed,
    FinishReason,
    GenerationRequest,
    Grounding,
    Queued,
    SamplingParams,
    TextDelta,
    collect,
)
from cxr_assistant.models.gate import PhantomGate, picture_features
from cxr_assistant.models.precision import GIB, Device
from cxr_assistant.report import BoundingBox
from cxr_assistant.residents import Resident
from cxr_assistant.serving import CheckpointService, make_service
from cxr_assistant.settings import PROJECT_ROOT, Settings, read_settings
from cxr_assistant.study import Radiograph, Study
from cxr_assistant.tasks import Task


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    weights_dir = tmp_path_factory.mktemp("weights")
    embedded.make_random(weights_dir / "embedded")
    environment = {"CXR_WEIGHTS_DIR": str(weights_dir), "CXR_DEVICE": "cpu", "CXR_THREADS": "1"}
    return read_settings(environment)


@pytest.fixture(scope="module")
def service(settings: Settings) -> CheckpointService:
    return make_service(settings)


@pytest.fixture(params=["inline", "process"], scope="module")
def worker(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Worker]:
    kind = InlineWorker if request.param == "inline" else ProcessWorker
    made: Worker = kind(partial(make_service, settings))
    yield made
    made.close()


def request_for(question: str = "Is there a nodule?", checkpoint: str = "embedded") -> GenerationRequest:
    pixels = np.random.default_rng(5).integers(0, 256, (64, 48), dtype=np.uint8)
    return GenerationRequest(
        checkpoint=checkpoint,
        task=Task.QUESTION,
        study=Study(radiographs=(Radiograph(stored=pixels, bits_stored=8),)),
        conversation=Conversation().ask(question),
        params=SamplingParams(max_new_tokens=8),
    )


def test_a_request_becomes_a_signed_answer(worker: Worker) -> None:
    answer = collect(worker.submit(request_for()))
    assert answer.text
    assert (answer.checkpoint, answer.revision) == ("embedded", embedded.CHECKPOINT.revision)


def test_an_answer_says_in_which_precision_and_from_which_input_it_was_computed(worker: Worker) -> None:
    *_, last = worker.submit(request_for())
    *_, again = worker.submit(request_for("Which view is this?"))
    assert isinstance(last, Completed) and isinstance(again, Completed)
    assert last.precision == "fp32" and len(last.inputs) == 1
    assert last.inputs == again.inputs  # the same film, prepared in the same way


def test_both_workers_give_the_same_answer(settings: Settings, service: CheckpointService) -> None:
    inline = collect(service.generate(request_for(), lambda: False)).text
    process = ProcessWorker(partial(make_service, settings))
    try:
        assert collect(process.submit(request_for())).text == inline
    finally:
        process.close()


def test_an_unknown_checkpoint_is_refused_with_the_menu(worker: Worker) -> None:
    with pytest.raises(UnknownCheckpoint, match=r"available: .*embedded"):
        collect(worker.submit(request_for(checkpoint="gpt")))


def test_the_embedded_model_is_there_when_the_service_is(service: CheckpointService) -> None:
    assert service.resident == ("embedded",)


def test_a_service_starts_without_weights_and_says_so_when_asked(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: Any, **__: Any) -> Path:
        raise MissingWeights("The folder is missing.")

    monkeypatch.setattr(residents, "locate", absent)
    service = make_service(replace(settings, weights_dir=tmp_path))
    with pytest.raises(MissingWeights):
        collect(service.generate(request_for(), lambda: False))


def only_resident(service: CheckpointService) -> Resident:
    (resident,) = service._residents
    return resident


def test_a_cancelled_request_loads_nothing(settings: Settings) -> None:
    service = CheckpointService(settings)
    (only,) = service.generate(request_for(), lambda: True)
    assert isinstance(only, Completed)
    assert only.finish_reason is FinishReason.CANCELLED
    assert service.resident == ()


def slow_to_render() -> tuple[Event, SimpleNamespace]:
    """A checkpoint's file that prepares no prompt before the event is set."""
    may_render = Event()

    def render(*arguments: Any) -> Any:
        assert may_render.wait(20)
        return embedded.render(*arguments)

    return may_render, SimpleNamespace(render=render)


def test_an_answer_goes_on_while_the_prompt_of_another_is_prepared(
    service: CheckpointService, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_render, slow = slow_to_render()
    running = service.generate(request_for(), lambda: False)
    assert any(isinstance(event, TextDelta) for event in running)  # its prompt is ready
    monkeypatch.setattr(only_resident(service), "module", slow)
    other = service.generate(request_for("Which view is this?"), lambda: False)
    assert [next(other) for _ in range(20)] == [Queued(0)] * 20
    assert isinstance(list(running)[-1], Completed)
    assert next(other) == Queued(0)
    may_render.set()
    assert collect(other).text


def test_what_is_forgotten_while_it_is_prepared_is_not_kept(
    service: CheckpointService, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_render, slow = slow_to_render()
    monkeypatch.setattr(only_resident(service), "module", slow)
    request = replace(request_for(), session="a visitor who leaves")
    leaving = service.generate(request, lambda: False)
    assert [next(leaving) for _ in range(3)] == [Queued(0)] * 3
    service.forget("a visitor who leaves")
    may_render.set()
    assert collect(leaving).text
    assert collect(service.generate(request, lambda: False)).usage.reused_tokens == 0


def test_a_model_that_is_there_is_lent_while_another_loads(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = residents.Residents(settings)
    there, _ = present.lend("embedded")
    is_loading, may_end = Event(), Event()

    def load_slowly(*_: Any) -> Resident:
        is_loading.set()
        assert may_end.wait(20)
        return replace(there, precision="another")

    monkeypatch.setattr(residents.Residents, "_load", load_slowly)
    with ThreadPoolExecutor(1) as person:
        other = person.submit(present.lend, "llava-rad")
        assert is_loading.wait(20)
        assert present.lend("embedded") == (there, False)
        present.give_back(there)
        may_end.set()
        assert other.result(20)[1]


def test_a_loaded_model_is_not_looked_through_for_garbage_until_models_change(settings: Settings) -> None:
    present = residents.Residents(settings)
    present.lend("embedded")
    assert gc.get_freeze_count() > 10_000
    residents._return_memory()  # what one that leaves held in circles is found
    assert gc.get_freeze_count() == 0


def test_a_model_that_was_lent_meanwhile_does_not_leave(settings: Settings) -> None:
    gone: list[Any] = []
    present = residents.Residents(settings, on_leave=gone.append)
    there, _ = present.lend("embedded")
    present._let_go(there)
    assert (present.names, gone) == (("embedded",), [])
    present.give_back(there)
    present._let_go(there)
    assert (present.names, gone) == ((), [there.model])


def test_a_foreign_film_is_not_reported_on(
    service: CheckpointService, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ClosedGate:
        def check(self, *_: Any) -> None:
            raise ForeignImage("This model has seen phantoms alone.")

    monkeypatch.setattr(only_resident(service), "gate", ClosedGate())
    with pytest.raises(ForeignImage):
        collect(service.generate(request_for(), lambda: False))


class OpenGate:
    """Lets everybody in, and counts how often it was asked."""

    def __init__(self) -> None:
        self.num_asked = 0

    def check(self, model: Any, pixel_values: Any) -> Any:
        self.num_asked += 1
        return model.encode(pixel_values)


@pytest.fixture
def gate(service: CheckpointService, monkeypatch: pytest.MonkeyPatch) -> OpenGate:
    gate = OpenGate()
    monkeypatch.setattr(only_resident(service), "gate", gate)
    monkeypatch.setattr(only_resident(service), "admitted", set())
    return gate


def ask_as(
    service: CheckpointService, question: str, session: str | None, *, is_public: bool = False
) -> Answer:
    request = replace(request_for(question), session=session)
    if is_public:
        request = replace(request, public_films=frozenset({request.study.radiographs[0].digest}))
    return collect(service.generate(request, lambda: False))


def test_a_follow_up_does_not_ask_the_gate_again(service: CheckpointService, gate: OpenGate) -> None:
    for question in ("Is there a nodule?", "Where is it?"):
        ask_as(service, question, "anna")
    assert gate.num_asked == 1


def test_the_gate_is_asked_for_every_visitor_unless_the_film_is_public(
    service: CheckpointService, gate: OpenGate
) -> None:
    for session in ("anna", "boris", None, None):
        ask_as(service, "Is there a nodule?", session)
    assert gate.num_asked == 4
    for session in ("anna", "boris", None):
        ask_as(service, "Is there a nodule?", session, is_public=True)
    assert gate.num_asked == 5


@pytest.mark.parametrize("session", ["anna", None])
def test_a_film_is_looked_at_once_for_the_gate_and_the_answer(
    service: CheckpointService, monkeypatch: pytest.MonkeyPatch, session: str | None
) -> None:
    resident = only_resident(service)
    looks: list[int] = []
    look = resident.model.tower_states  # type: ignore[attr-defined]

    def counted(pixel_values: Any) -> Any:
        looks.append(len(pixel_values))
        return look(pixel_values)

    monkeypatch.setattr(resident, "admitted", set())
    spec = resident.model.processor.image
    film = torch.zeros(1, spec.channels, spec.size_px, spec.size_px)
    width = picture_features(resident.model, film).shape[1]  # type: ignore[arg-type]
    wide = PhantomGate(torch.zeros(width), torch.eye(width), threshold=float("inf"))
    monkeypatch.setattr(resident, "gate", wide)
    expected = ask_as(service, "Is there a nodule?", None).text
    monkeypatch.setattr(resident.model, "tower_states", counted)
    assert ask_as(service, "Is there a nodule?", session).text == expected
    assert looks == [1]


def test_a_forgotten_visitor_is_asked_again(service: CheckpointService, gate: OpenGate) -> None:
    ask_as(service, "Is there a nodule?", "anna")
    service.forget("anna")
    assert ask_as(service, "Is there a nodule?", "anna").usage.reused_tokens == 0
    assert gate.num_asked == 2


def test_the_memory_of_the_gate_is_bounded(
    service: CheckpointService, gate: OpenGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "MAX_ADMITTED", 3)
    admitted = only_resident(service).admitted
    for number in range(8):
        serving._admit(admitted, [("anna", str(number))])
    assert admitted == {("anna", "6"), ("anna", "7")}


def test_a_second_question_of_a_visitor_is_read_from_where_it_differs(worker: Worker) -> None:
    questions = ("Is there a nodule?", "Is there an effusion?")
    requests = [replace(request_for(question), session="one visitor") for question in questions]
    first, second = (collect(worker.submit(request)) for request in requests)
    assert first.usage.reused_tokens == 0
    assert second.usage.reused_tokens > 49  # the tokens of the picture
    assert collect(worker.submit(request_for(questions[1]))).text == second.text
    worker.forget("one visitor")
    assert collect(worker.submit(requests[1])).usage.reused_tokens == 0


@pytest.mark.parametrize("asked", ["auto", "bf16", "nf4"])
def test_the_model_behind_the_gate_is_float32_whatever_is_asked(settings: Settings, asked: str) -> None:
    service = CheckpointService(replace(settings, precision=asked))
    service.load("embedded")
    first = only_resident(service)
    assert first.precision == "fp32" and first.model.dtype is torch.float32
    service.load("embedded")
    assert only_resident(service) is first


def test_a_precision_that_is_not_taken_is_named(service: CheckpointService) -> None:
    request = replace(request_for(), precision="bf16")
    answer = collect(service.generate(request, lambda: False))
    assert answer.precision == "fp32"
    assert answer.notices[0].code == "precision-kept"
    assert "always runs in fp32" in answer.notices[0].text and "bf16 was not used" in answer.notices[0].text


def test_a_folder_without_a_gate_says_that_it_cannot_tell(service: CheckpointService) -> None:
    (notice,) = collect(service.generate(request_for(), lambda: False)).notices
    assert notice.code == "no-gate"


def test_a_checkpoint_may_interpret_its_own_text(
    service: CheckpointService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interpret(events: Any, study: Study, task: Task) -> Iterator[Any]:
        for event in events:
            if isinstance(event, TextDelta):
                yield Grounding("it", BoundingBox(0, 0, 1, 1), study.radiographs[0].digest)
            else:
                yield event

    monkeypatch.setattr(embedded, "interpret", interpret, raising=False)
    answer = collect(service.generate(request_for(), lambda: False))
    assert answer.groundings
    assert not answer.text


@pytest.mark.requirement("U11")
def test_the_web_process_does_not_import_torch(settings: Settings) -> None:
    script = (
        "import sys\n"
        "from functools import partial\n"
        "from cxr_assistant.assistant import Assistant\n"
        "from cxr_assistant.engine.worker import ProcessWorker\n"
        "from cxr_assistant.serving import make_service\n"
        "from cxr_assistant.settings import read_settings\n"
        "if __name__ == '__main__':\n"
        "    worker = ProcessWorker(partial(make_service, read_settings()))\n"
        "    Assistant(worker)\n"
        "    worker.load('embedded')\n"
        "    worker.close()\n"
        "    print(sorted({'torch', 'transformers', 'gradio'} & set(sys.modules)))\n"
    )
    environment = {**os.environ, "CXR_WEIGHTS_DIR": str(settings.weights_dir), "CXR_DEVICE": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_health_is_ready_once_something_was_answered(worker: Worker) -> None:
    collect(worker.submit(request_for()))
    assert worker.health().state is WorkerState.READY
    assert "embedded" in worker.health().resident


@dataclass
class Memory:
    """What the device seems to have; models take what they are said to need."""

    gib: float = 64.0
    service: CheckpointService | None = None

    def read(self, _: str) -> Device:
        taken = sum(resident.num_bytes for resident in self.service._residents) if self.service else 0
        return Device("cpu", "CPU", max(0, int(self.gib * GIB) - taken), 64 * GIB)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """A device of `gib`; the embedded model poses as one of 7 billion parameters under any name."""
    memory = Memory()
    monkeypatch.setattr("cxr_assistant.models.precision.read_device", memory.read)
    large = replace(embedded.CHECKPOINT, num_parameters=7_000_000_000, phantoms_only=False)
    for module in (serving, residents):
        monkeypatch.setattr(module, "get_checkpoint", lambda name: replace(large, name=name))
    monkeypatch.setattr(residents, "find_module", lambda _: embedded)
    monkeypatch.setattr(residents, "stored_precision", lambda _: "fp16")
    return memory


@pytest.fixture
def large(settings: Settings, memory: Memory) -> CheckpointService:
    """A service on the device of `memory`."""
    memory.service = CheckpointService(settings)
    return memory.service


def held(service: CheckpointService) -> list[tuple[str, str]]:
    return [(resident.checkpoint.name, resident.precision) for resident in service._residents]


def ask(service: CheckpointService, name: str = "a", precision: str | None = None) -> Answer:
    request = replace(request_for(checkpoint=name), precision=precision)
    return collect(service.generate(request, lambda: False))


def test_several_stay_while_they_fit_and_the_least_recently_used_leaves(
    large: CheckpointService, memory: Memory
) -> None:
    memory.gib = 35.0  # two of them
    for name in ("a", "b", "a", "c"):
        large.load(name)
    assert held(large) == [("a", "bf16"), ("c", "bf16")]


def test_what_does_not_fit_is_read_from_disk_and_says_so(large: CheckpointService, memory: Memory) -> None:
    memory.gib = 5.0
    answer = ask(large)
    assert answer.text and answer.precision == "offload"
    assert answer.notices[0].code == "lowered-precision" and "from disk" in answer.notices[0].text


def test_others_leave_before_one_is_loaded_in_less(large: CheckpointService, memory: Memory) -> None:
    memory.gib = 25.0
    for name in ("a", "b"):
        large.load(name)
    assert held(large) == [("b", "bf16")]


def test_two_precisions_of_a_model_stand_side_by_side(large: CheckpointService) -> None:
    for precision in (None, "fp32", "auto", "bf16", None):
        ask(large, "a", precision)
    assert sorted(held(large)) == [("a", "bf16"), ("a", "fp32")]


def test_a_precision_that_a_stranger_chose_is_not_handed_to_everybody(large: CheckpointService) -> None:
    assert ask(large, "a", "offload").precision == "offload"
    assert ask(large, "a").precision == "bf16"
    assert ask(large, "a", "offload").precision == "offload"
    assert len(held(large)) == 2


def test_nobody_leaves_in_the_middle_of_an_answer(large: CheckpointService, memory: Memory) -> None:
    memory.gib = 20.0
    answer = large.generate(request_for(checkpoint="a"), lambda: False)
    next(event for event in answer if not isinstance(event, Queued))  # it is lent, and has begun
    with pytest.raises(OutOfMemory):
        large.load("b")
    assert held(large) == [("a", "bf16")]
    answer.close()
    large.load("b")
    assert held(large) == [("b", "bf16")]


def test_a_model_that_left_takes_its_memory_with_it(large: CheckpointService, memory: Memory) -> None:
    memory.gib = 20.0
    ask(large, "a")
    (gone,) = (weakref.ref(resident.model) for resident in large._residents)
    ask(large, "b")
    gc.collect()
    assert gone() is None


def test_weights_that_lie_in_the_page_cache_are_not_free(
    large: CheckpointService, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residents, "stored_precision", lambda _: "bf16")
    large.load("a")
    assert large.device is not None
    seen_free = memory.read("cpu").free_bytes
    assert large.device.free_bytes == seen_free - 14_000_000_000


def test_a_precision_that_does_not_fit_says_what_it_needs(settings: Settings, memory: Memory) -> None:
    memory.gib = 20.0
    with pytest.raises(OutOfMemory, match=r"fp32 needs 27\.\d GiB of 20\.0 GiB free"):
        ask(CheckpointService(replace(settings, precision="fp32")))


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), OutOfMemory("No memory.")],
    ids=["python", "torch-cpu", "ours"],
)
def test_a_load_that_runs_out_of_memory_is_a_sentence_and_the_next_one_works(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    service = CheckpointService(settings)
    with monkeypatch.context() as patch:

        def fail(*_: Any, **__: Any) -> None:
            raise error

        patch.setattr(embedded, "build", fail)
        with pytest.raises(OutOfMemory, match="memory"):
            collect(service.generate(request_for(), lambda: False))
    assert service.resident == ()
    assert collect(service.generate(request_for(), lambda: False)).text


def make_service_short_of_memory(settings: Settings) -> CheckpointService:
    """A service, in a process of its own, on a device that is full at its start and at the first request."""
    real, failures = embedded.build, [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()]

    def build(*arguments: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*arguments, **options)

    embedded.build = build
    return make_service(settings)


def test_a_worker_that_runs_out_of_memory_says_so_and_stays_up(settings: Settings) -> None:
    worker = ProcessWorker(partial(make_service_short_of_memory, settings))
    try:
        with pytest.raises(OutOfMemory, match="no memory left for loading"):
            collect(worker.submit(request_for()))
        pid = worker.health().pid
        assert collect(worker.submit(request_for())).text
        assert pid is not None and worker.health().pid == pid
    finally:
        worker.close()
