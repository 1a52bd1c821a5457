"""The front desk: what it hands to the worker, what it says in notices, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr_assistant.assistant import Assistant, make_session_id, make_session_key, read_study
from cxr_assistant.checkpoints.spec import Checkpoint, TaskWording
from cxr_assistant.conversation import Conversation
from cxr_assistant.errors import (
    DownloadFailed,
    ForeignImage,
    GenerationError,
    MissingRadiograph,
    PhantomError,
    SettingsError,
    UnknownCheckpoint,
    UnsupportedTask,
)
from cxr_assistant.fitting import EVERY_PART
from cxr_assistant.generation import FinishReason, GenerationRequest, collect
from cxr_assistant.imaging.rendering import encode_png
from cxr_assistant.loading import load
from cxr_assistant.models.precision import GIB, Device
from cxr_assistant.settings import read_settings
from cxr_assistant.study import Study, ViewPosition
from cxr_assistant.tasks import Task
from tests.doubles import ScriptedWorker, StoreDouble, make_checkpoint, make_film, speak

FRONTAL_ONLY = frozenset({ViewPosition.PA, ViewPosition.AP, ViewPosition.UNKNOWN})
EMBEDDED = make_checkpoint()
LLAVA = make_checkpoint("llava", views=FRONTAL_ONLY)
CHEX = make_checkpoint(
    "chex",
    max_images=2,
    supports_prior=True,
    supports_boxes=True,
    tasks={
        **EMBEDDED.tasks,
        Task.GROUNDING: TaskWording(prompt="Locate {text}.", needs_text=True, most_images=1),
        Task.PROGRESSION: TaskWording(prompt="Compare.", needs_prior=True, num_images=2),
        Task.VIEW_MATCHING: TaskWording(prompt="Same study?", num_images=2),
    },
)
MENU = (EMBEDDED, LLAVA, CHEX)
STUDY = Study((make_film(),))
LATERAL = make_film(1, ViewPosition.LATERAL)
QUESTION = Conversation().ask("Is there an effusion?")


@pytest.fixture
def worker() -> ScriptedWorker:
    return ScriptedWorker()


@pytest.fixture
def assistant(worker: ScriptedWorker) -> Assistant:
    return Assistant(worker, menu=MENU)


def codes(answer_of: Assistant, study: Study, task: Task, checkpoint: str | None = None) -> list[str]:
    return [n.code for n in collect(answer_of.respond(study, QUESTION, task, checkpoint=checkpoint)).notices]


def test_an_answer_streams_through_and_says_who_spoke(assistant: Assistant) -> None:
    answer = collect(assistant.respond(STUDY, QUESTION, Task.QUESTION))
    assert answer.text == "The lungs are clear. "
    assert (answer.checkpoint, answer.revision) == ("embedded", EMBEDDED.revision)
    assert answer.notices == ()


def test_a_task_without_words_is_asked_in_the_words_of_the_checkpoint(
    assistant: Assistant, worker: ScriptedWorker
) -> None:
    collect(assistant.respond(STUDY, Conversation(), Task.FINDINGS))
    assert worker.requests[0].conversation.last_question == "Describe the findings."


def test_a_persons_own_words_are_kept(assistant: Assistant, worker: ScriptedWorker) -> None:
    collect(assistant.respond(STUDY, QUESTION, Task.FINDINGS))
    assert worker.requests[0].conversation == QUESTION


def test_an_empty_question_is_refused(assistant: Assistant) -> None:
    for empty in (Conversation(), Conversation().ask("  ")):
        with pytest.raises(GenerationError, match="question is empty"):
            assistant.respond(STUDY, empty, Task.QUESTION)


def test_a_task_without_words_needs_those_of_a_person(assistant: Assistant) -> None:
    with pytest.raises(UnsupportedTask, match="no words of its own to write a differential diagnosis"):
        assistant.respond(STUDY, Conversation(), Task.DIFFERENTIAL, checkpoint="embedded")


def test_a_question_without_a_film_is_refused_before_the_worker_is_asked(
    assistant: Assistant, worker: ScriptedWorker
) -> None:
    with pytest.raises(MissingRadiograph, match="no radiograph"):
        assistant.respond(Study(), QUESTION, Task.QUESTION)
    assert worker.requests == []


def test_an_unknown_checkpoint_is_refused_with_the_menu(assistant: Assistant) -> None:
    with pytest.raises(UnknownCheckpoint, match="available: chex, embedded, llava"):
        assistant.respond(STUDY, QUESTION, Task.QUESTION, checkpoint="llava_rad")


def test_the_default_checkpoint_must_be_on_the_menu(worker: ScriptedWorker) -> None:
    with pytest.raises(UnknownCheckpoint):
        Assistant(worker, checkpoint="nobody", menu=MENU)


def test_a_lateral_view_that_is_not_read_is_named(assistant: Assistant, worker: ScriptedWorker) -> None:
    study = Study((LATERAL, *STUDY.radiographs))
    answer = collect(assistant.respond(study, QUESTION, Task.QUESTION, checkpoint="llava"))
    assert answer.notices[0].text == "Llava reads one frontal radiograph; the lateral view was not used."
    assert worker.requests[0].study == STUDY


def test_of_two_films_a_one_film_model_reads_the_frontal_one(
    assistant: Assistant, worker: ScriptedWorker
) -> None:
    study = Study((LATERAL, *STUDY.radiographs))
    assert codes(assistant, study, Task.QUESTION) == ["unused-lateral"]
    assert worker.requests[0].study == STUDY


TWO_FRONTALS = Study((make_film(1), make_film(2)))


def test_of_several_films_the_newest_is_read_and_named(assistant: Assistant, worker: ScriptedWorker) -> None:
    (notice,) = collect(assistant.respond(TWO_FRONTALS, QUESTION, Task.QUESTION)).notices
    assert worker.requests[0].study == Study((make_film(2),))
    assert notice.code == "unused-film"
    assert notice.text == "Embedded reads one radiograph; this is about film 2 of 2, the newest."


def test_the_film_in_front_of_the_person_is_read(assistant: Assistant, worker: ScriptedWorker) -> None:
    events = assistant.respond(TWO_FRONTALS, QUESTION, Task.QUESTION, shown=make_film(1).digest)
    (notice,) = collect(events).notices
    assert worker.requests[0].study == Study((make_film(1),))
    assert notice.text == "Embedded reads one radiograph; this is about film 1 of 2, the one shown."


def test_of_three_films_a_model_of_two_reads_a_view_each(
    assistant: Assistant, worker: ScriptedWorker
) -> None:
    study = Study((make_film(3), LATERAL, make_film(2)))
    (notice,) = collect(assistant.respond(study, QUESTION, Task.QUESTION, checkpoint="chex")).notices
    assert worker.requests[0].study == Study((LATERAL, make_film(2)))
    assert notice.text == "Chex reads 2 radiographs; this is about films 2 and 3 of 3."


def test_a_task_on_one_film_reads_one_of_a_model_of_two(assistant: Assistant, worker: ScriptedWorker) -> None:
    study = Study((make_film(1), make_film(2)))
    events = assistant.respond(study, QUESTION, Task.GROUNDING, checkpoint="chex", shown=make_film(1).digest)
    assert [notice.code for notice in collect(events).notices] == ["unused-film"]
    assert worker.requests[0].study == Study((make_film(1),))


def test_of_a_prior_with_two_films_the_newest_is_compared(
    assistant: Assistant, worker: ScriptedWorker
) -> None:
    study = STUDY.with_prior(TWO_FRONTALS)
    assert codes(assistant, study, Task.PROGRESSION, "chex") == ["unused-film"]
    assert worker.requests[0].study.prior == Study((make_film(2),))


def test_a_lateral_alone_is_read_by_a_model_that_knows_laterals(
    assistant: Assistant, worker: ScriptedWorker
) -> None:
    assert codes(assistant, Study((LATERAL,)), Task.QUESTION) == []
    assert worker.requests[0].study == Study((LATERAL,))


def test_a_lateral_alone_is_refused_by_a_frontal_model(assistant: Assistant) -> None:
    with pytest.raises(MissingRadiograph, match="Llava reads frontal radiographs"):
        assistant.respond(Study((LATERAL,)), QUESTION, Task.QUESTION, checkpoint="llava")


@pytest.mark.parametrize("checkpoint", ["embedded", "chex"])
def test_a_prior_that_is_not_used_is_named(
    assistant: Assistant, worker: ScriptedWorker, checkpoint: str
) -> None:
    study = STUDY.with_prior(Study((make_film(2),)))
    assert codes(assistant, study, Task.FINDINGS, checkpoint) == ["unused-prior"]
    assert worker.requests[0].study.prior is None


def test_a_comparison_uses_the_prior(assistant: Assistant, worker: ScriptedWorker) -> None:
    study = STUDY.with_prior(Study((make_film(2),)))
    assert codes(assistant, study, Task.PROGRESSION, "chex") == []
    assert worker.requests[0].study == study


def test_a_comparison_leaves_room_for_the_prior(assistant: Assistant) -> None:
    study = Study((make_film(1), make_film(2))).with_prior(Study((make_film(3),)))
    assert codes(assistant, study, Task.PROGRESSION, "chex") == ["unused-film"]


def test_a_comparison_without_a_prior_is_refused(assistant: Assistant) -> None:
    with pytest.raises(MissingRadiograph, match="needs a prior"):
        assistant.respond(STUDY, QUESTION, Task.PROGRESSION, checkpoint="chex")


def test_a_task_over_two_films_is_refused_for_one(assistant: Assistant) -> None:
    with pytest.raises(MissingRadiograph, match="2 radiographs are needed"):
        assistant.respond(STUDY, QUESTION, Task.VIEW_MATCHING, checkpoint="chex")


def test_a_strangers_prior_is_noticed(assistant: Assistant) -> None:
    ours, theirs = make_film(1, patient_hash="a"), make_film(2, patient_hash="b")
    study = Study((ours,)).with_prior(Study((theirs,)))
    assert codes(assistant, study, Task.PROGRESSION, "chex") == ["stranger-prior"]


def test_a_chosen_model_is_kept_for_a_task_it_was_not_trained_for(assistant: Assistant) -> None:
    answer = collect(assistant.respond(STUDY, QUESTION, Task.IMPRESSION, checkpoint="llava"))
    assert answer.notices[0].text == (
        "Llava was trained for findings, question on one frontal radiograph; this request is outside that."
    )
    assert answer.checkpoint == "llava"


def test_boxes_are_not_asked_of_a_model_that_cannot_draw_them(assistant: Assistant) -> None:
    with pytest.raises(UnsupportedTask, match="was not trained to locate a phrase") as caught:
        assistant.respond(STUDY, QUESTION, Task.GROUNDING, checkpoint="llava")
    assert caught.value.hint == "Choose Chex (chex) to locate a phrase."


def test_left_to_itself_a_ready_model_trained_for_the_task_answers_and_is_named(
    worker: ScriptedWorker,
) -> None:
    assistant = Assistant(worker, checkpoint="llava", menu=MENU, store=StoreDouble(ready={"chex"}))
    answer = collect(assistant.respond(STUDY, QUESTION, Task.GROUNDING))
    assert answer.checkpoint == "chex"
    assert answer.notices[0].text == "Chex answers: Llava was not trained to locate a phrase."


def decline_as_embedded(request: GenerationRequest) -> Any:
    """A worker whose embedded model is shown a real film."""
    return ForeignImage("Distance 9.") if request.checkpoint == "embedded" else speak("Clear.")(request)


def test_left_to_itself_a_declined_film_goes_to_a_ready_model_that_reads_films(
    worker: ScriptedWorker,
) -> None:
    worker.script = decline_as_embedded
    assistant = Assistant(worker, menu=MENU, store=StoreDouble(ready={"llava"}))
    answer = collect(assistant.respond(STUDY, Conversation(), Task.FINDINGS))
    assert (answer.checkpoint, answer.text) == ("llava", "Clear. ")
    assert answer.notices[0].text == (
        "Llava answers: Embedded knows computed phantoms alone, and this film is none."
    )


def test_a_model_that_was_chosen_is_not_replaced_when_it_declines(worker: ScriptedWorker) -> None:
    worker.script = decline_as_embedded
    assistant = Assistant(worker, menu=MENU, store=StoreDouble(ready={"llava"}))
    with pytest.raises(ForeignImage, match="no report is written"):
        collect(assistant.respond(STUDY, Conversation(), Task.FINDINGS, checkpoint="embedded"))


def test_of_two_ready_models_the_one_in_memory_is_taken(worker: ScriptedWorker) -> None:
    worker.script, worker.resident = decline_as_embedded, ("embedded", "chex")
    assistant = Assistant(worker, menu=MENU, store=StoreDouble(ready={"llava", "chex"}))
    assert collect(assistant.respond(STUDY, Conversation(), Task.FINDINGS)).checkpoint == "chex"


def test_no_model_is_chosen_whose_terms_were_not_accepted(worker: ScriptedWorker) -> None:
    licence = replace(LLAVA.licence, needs_acceptance=True)
    menu = (EMBEDDED, replace(LLAVA, licence=licence))
    worker.script = decline_as_embedded
    assistant = Assistant(worker, menu=menu, store=StoreDouble(ready={"llava"}))
    with pytest.raises(ForeignImage):
        collect(assistant.respond(STUDY, Conversation(), Task.FINDINGS))


def test_nothing_is_chosen_that_would_have_to_be_downloaded(assistant: Assistant) -> None:
    with pytest.raises(UnsupportedTask):
        assistant.respond(STUDY, QUESTION, Task.GROUNDING)


def test_the_embedded_model_is_never_a_fallback(worker: ScriptedWorker) -> None:
    only_views = replace_tasks(LLAVA, {Task.VIEW: TaskWording(prompt="View?")})
    assistant = Assistant(
        worker,
        checkpoint="llava",
        menu=(EMBEDDED, only_views),
        store=StoreDouble(ready={"embedded", "llava"}),
    )
    answer = collect(assistant.respond(STUDY, QUESTION, Task.FINDINGS))
    assert (answer.checkpoint, answer.notices[0].code) == ("llava", "outside-training")


def replace_tasks(checkpoint: Checkpoint, tasks: dict[Task, TaskWording]) -> Checkpoint:
    return replace(checkpoint, tasks=tasks)


def test_a_real_film_is_refused_with_the_models_to_choose_instead(worker: ScriptedWorker) -> None:
    worker.script = lambda _: ForeignImage("Distance 9.")
    with pytest.raises(ForeignImage, match="no report is written") as caught:
        collect(Assistant(worker, menu=MENU).respond(STUDY, QUESTION, Task.QUESTION))
    assert caught.value.hint == "Choose Llava (llava) or Chex (chex) for real films."


def test_a_cancelled_answer_ends_as_cancelled(assistant: Assistant) -> None:
    answer = collect(assistant.respond(STUDY, QUESTION, Task.QUESTION, is_cancelled=lambda: True))
    assert (answer.text, answer.finish_reason) == ("", FinishReason.CANCELLED)


def test_the_desk_hands_warm_up_health_and_close_to_the_worker(worker: ScriptedWorker) -> None:
    with Assistant(worker, menu=MENU) as assistant:
        assistant.warm_up()
        assert assistant.health() == worker.health()
    assert (worker.loaded, worker.is_closed) == (["embedded"], True)


def test_a_session_key_is_never_the_same_twice() -> None:
    assert make_session_key() != make_session_key()
    assert len(make_session_key()) == 32


def test_a_task_is_put_into_the_words_of_the_checkpoint(assistant: Assistant) -> None:
    assert assistant.in_words(Task.FINDINGS) == "Describe the findings."
    assert assistant.in_words(Task.GROUNDING, "the tube", "chex") == "Locate the tube."
    assert assistant.in_words(Task.IMPRESSION, "Conclude.", "llava") == "Conclude."


def test_a_study_is_read_from_paths_and_bytes(tmp_path: Path) -> None:
    content = encode_png(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8))
    (tmp_path / "film").write_bytes(content)
    study = read_study(tmp_path / "film", prior=[content], indication=" cough ")
    assert (len(study.radiographs), study.indication) == (1, "cough")
    assert study.prior is not None and study.prior.radiographs == study.radiographs


@pytest.mark.parametrize("name", ["MILLER-ANNA.dcm", "."], ids=["missing", "folder"])
def test_a_path_without_a_file_is_a_sentence_that_does_not_repeat_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingRadiograph, match="no file that can be read") as caught:
        read_study(tmp_path / name)
    assert "MILLER" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_a_loaded_assistant_knows_the_embedded_model() -> None:
    with load(settings=read_settings({}), worker="inline") as assistant:
        assert assistant.checkpoint == "embedded"
        assert "llava-rad" in {checkpoint.name for checkpoint in assistant.list_checkpoints()}


def test_an_unknown_kind_of_worker_is_refused() -> None:
    with pytest.raises(SettingsError, match="allowed: inline, process"):
        load(settings=read_settings({}), worker="thread")


def test_the_front_desk_brings_no_torch() -> None:
    code = (
        "import sys; from cxr_assistant import load; load(worker='inline').close();"
        "print(*{'torch', 'transformers', 'gradio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=30)
    assert done.stdout.split() == []


@pytest.mark.parametrize("kind", ["pleural-effusion", "cardiomegaly", "pacemaker"])
def test_a_phantom_is_ordered_in_words_of_its_menu(assistant: Assistant, kind: str) -> None:
    ((finding, sides, severities),) = (entry for entry in assistant.phantom_menu() if entry[0] == kind)
    wish = {"side": sides[0] if sides else "", "severity": severities[0] if severities else ""}
    request = assistant.order_phantom(1, finding=finding, view="PA", **wish).findings[0]
    assert (request.kind, request.side or "", request.severity or "") == (finding, *wish.values())


@pytest.mark.parametrize(
    "wrong", [{"finding": "flu"}, {"view": "oblique"}], ids=lambda wish: next(iter(wish))
)
def test_a_phantom_ordered_in_other_words_is_refused(assistant: Assistant, wrong: dict[str, str]) -> None:
    with pytest.raises(PhantomError, match="allowed:"):
        assistant.order_phantom(1, **wrong)


def test_a_model_in_memory_is_ready_whatever_the_store_says(worker: ScriptedWorker) -> None:
    desk = Assistant(worker, menu=MENU, store=StoreDouble())
    assert (desk.is_ready("embedded"), desk.is_ready("chex")) == (True, False)


def test_fetching_makes_a_model_ready_and_tells_how_far_it_is(worker: ScriptedWorker) -> None:
    desk, heard = Assistant(worker, menu=MENU, store=StoreDouble()), []
    desk.fetch("chex", heard.append)
    assert desk.is_ready("chex")
    assert heard[0].sentence == "Downloading 1.00 of 4.00 GB, 50 MB/s, 60 s left"


def test_a_fetch_that_is_cancelled_leaves_nothing_ready(worker: ScriptedWorker) -> None:
    desk = Assistant(worker, menu=MENU, store=StoreDouble())
    with pytest.raises(DownloadFailed, match="stopped"):
        desk.fetch("chex", lambda _: None, lambda: True)
    assert not desk.is_ready("chex")


def test_a_plan_says_what_is_downloaded_and_what_the_disk_must_hold(worker: ScriptedWorker) -> None:
    sentence = Assistant(worker, menu=MENU, store=StoreDouble()).fetch_plan("chex").sentence
    assert sentence.startswith("4.0 GB to download; 12.0 GB of disk for download and conversion, ")


def test_fits_are_told_once_the_engine_has_said_what_it_computes_on(worker: ScriptedWorker) -> None:
    desk = Assistant(worker, menu=(EMBEDDED, replace(CHEX, num_parameters=3_000_000_000)))
    assert desk.list_fits("chex") == ()
    worker.device = Device("cuda", "a GPU", 10 * GIB, 10 * GIB, (8, 0))
    fits = {fit.precision.value: fit.fits for fit in desk.list_fits("chex")}
    assert (fits["fp32"], fits["bf16"], fits["nf4"]) == (False, True, True)


def test_a_persons_precision_reaches_the_worker(assistant: Assistant, worker: ScriptedWorker) -> None:
    collect(assistant.respond(STUDY, QUESTION, Task.QUESTION, precision="nf4"))
    assert worker.requests[0].precision == "nf4"


def test_an_unknown_precision_is_refused_at_the_door() -> None:
    with pytest.raises(SettingsError, match="'fp8'; allowed: auto, fp32"):
        load(precision="fp8", settings=read_settings({}), worker="inline")


SECTIONED = replace(
    CHEX,
    tasks={
        Task.SECTIONS: TaskWording(prompt="Describe {text}.", needs_text=True, choices=("Airway", "Bones"))
    },
)


@pytest.mark.parametrize("asked", ["", "Describe {text}.", f"Describe {EVERY_PART}."])
def test_a_report_section_by_section_is_one_answer_of_all_parts(worker: ScriptedWorker, asked: str) -> None:
    desk = Assistant(worker, checkpoint="chex", menu=(SECTIONED,))
    answer = collect(desk.respond(STUDY, Conversation().ask(asked), Task.SECTIONS))
    assert answer.text == "Airway: The lungs are clear. \n\nBones: The lungs are clear. "
    assert [r.conversation.last_question for r in worker.requests] == ["Describe Airway.", "Describe Bones."]
    assert answer.usage.completion_tokens == 8


@pytest.mark.parametrize("session", ["anna", None])
def test_the_parts_of_an_answer_belong_to_one_visitor(worker: ScriptedWorker, session: str | None) -> None:
    """So that the film is looked at once; a name that was made for the answer is forgotten with it."""
    desk = Assistant(worker, checkpoint="chex", menu=(SECTIONED,))
    collect(desk.respond(STUDY, Conversation(), Task.SECTIONS, session=session))
    (name,) = {request.session for request in worker.requests}
    assert name == session if session else name
    assert worker.forgotten == ([] if session else [name])
    collect(desk.respond(STUDY, Conversation(), Task.SECTIONS, session=session))
    assert (worker.requests[-1].session == name) == bool(session)


def test_a_nameless_answer_that_is_left_is_forgotten_too(worker: ScriptedWorker) -> None:
    events = Assistant(worker, checkpoint="chex", menu=(SECTIONED,)).respond(
        STUDY, Conversation(), Task.SECTIONS
    )
    next(events)
    events.close()  # type: ignore[attr-defined]  # a generator
    assert worker.forgotten == [worker.requests[0].session]


def test_a_part_that_is_named_is_asked_for_alone(worker: ScriptedWorker) -> None:
    desk = Assistant(worker, checkpoint="chex", menu=(SECTIONED,))
    collect(desk.respond(STUDY, Conversation().ask("Bones"), Task.SECTIONS))
    assert [r.conversation.last_question for r in worker.requests] == ["Bones"]


def test_cancelling_between_parts_ends_the_answer(worker: ScriptedWorker) -> None:
    desk = Assistant(worker, checkpoint="chex", menu=(SECTIONED,))
    answer = collect(
        desk.respond(STUDY, Conversation(), Task.SECTIONS, is_cancelled=lambda: len(worker.requests) > 1)
    )
    assert answer.finish_reason is FinishReason.CANCELLED
    assert answer.text == "Airway: The lungs are clear. "  # no heading without its part


CONCLUDING = replace(
    CHEX,
    tasks={
        **CHEX.tasks,
        Task.IMPRESSION: TaskWording(
            prompt="Conclude from: {text}", needs_text=True, num_images=0, most_images=0
        ),
    },
)


def asked_by(worker: ScriptedWorker) -> list[tuple[Task, str]]:
    return [(request.task, request.conversation.last_question) for request in worker.requests]


@pytest.mark.parametrize("asked", ["", "Conclude from: {text}", "Conclude from: "])
def test_an_impression_of_a_film_is_concluded_from_its_findings(worker: ScriptedWorker, asked: str) -> None:
    desk = Assistant(worker, checkpoint="chex", menu=(CONCLUDING,))
    conversation = Conversation().ask(asked) if asked else Conversation()
    answer = collect(desk.respond(STUDY, conversation, Task.IMPRESSION))
    assert answer.text == "Findings: The lungs are clear. \n\nImpression: The lungs are clear. "
    assert answer.notices == ()
    assert asked_by(worker) == [
        (Task.FINDINGS, "Describe the findings."),
        (Task.IMPRESSION, "Conclude from: The lungs are clear. "),
    ]


def test_an_impression_without_words_concludes_from_the_answer_before_it(worker: ScriptedWorker) -> None:
    desk = Assistant(worker, checkpoint="chex", menu=(CONCLUDING,))
    conversation = Conversation().ask("Describe the findings.").answer("Small effusion.")
    answer = collect(desk.respond(STUDY, conversation, Task.IMPRESSION))
    assert asked_by(worker) == [(Task.IMPRESSION, "Conclude from: Small effusion.")]
    assert answer.notices[0].text == (
        "Chex concludes from the findings in words here; no radiograph was looked at."
    )


def test_findings_in_words_need_no_film(worker: ScriptedWorker) -> None:
    desk = Assistant(worker, checkpoint="chex", menu=(CONCLUDING,))
    conversation = Conversation().ask("Conclude from: Large effusion.")
    answer = collect(desk.respond(Study(), conversation, Task.IMPRESSION))
    assert (answer.text, answer.notices) == ("The lungs are clear. ", ())


def test_a_gap_that_was_left_open_is_an_empty_question(worker: ScriptedWorker) -> None:
    desk = Assistant(worker, menu=MENU)
    for asked in ("Locate {text}.", "Locate .", ""):
        with pytest.raises(GenerationError, match="question is empty: to locate a phrase, Chex needs words"):
            desk.respond(STUDY, Conversation().ask(asked), Task.GROUNDING, checkpoint="chex")


# ---------------------------------------------------------------------------------------------- sessions


def test_a_session_travels_with_the_request_and_is_not_printed() -> None:
    worker = ScriptedWorker()
    session = make_session_id()
    collect(Assistant(worker).respond(Study((make_film(),)), Conversation(), Task.FINDINGS, session=session))
    (request,) = worker.requests
    assert request.session == session
    assert session not in repr(request)


def test_only_published_films_may_be_kept_for_all() -> None:
    worker = ScriptedWorker()
    assistant = Assistant(worker)
    assistant.publish(make_film(1))
    for value in (0, 1):
        collect(assistant.respond(Study((make_film(value),)), Conversation(), Task.FINDINGS))
    assert [make_film(1).digest in request.public_films for request in worker.requests] == [True, True]
    assert all(make_film(0).digest not in request.public_films for request in worker.requests)


def test_the_end_of_a_session_is_told_to_the_engine() -> None:
    worker = ScriptedWorker()
    Assistant(worker).forget("a visitor")
    assert worker.forgotten == ["a visitor"]
