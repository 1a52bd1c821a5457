"""The verbs for programs: a call is whole in itself, and its reply says who spoke."""

from __future__ import annotations

from itertools import pairwise

import pytest

from cxr_assistant.errors import CxrAssistantError, ForeignImage, UnsupportedFileType
from cxr_assistant.generation import Grounding, SamplingParams
from cxr_assistant.report import BoundingBox
from cxr_assistant.ui.programs import Programs, Reply, in_plain_words
from tests.ui.doubles import FINDINGS, ScriptedAssistant, png_bytes

FILM, PRIOR = png_bytes(1), png_bytes(2)


@pytest.fixture
def programs(assistant: ScriptedAssistant) -> Programs:
    return Programs(assistant)


def test_a_draft_grows_and_ends_whole(programs: Programs) -> None:
    replies = list(programs.draft_findings(FILM, model="llava-rad"))
    texts = [reply.text for reply in replies]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert (replies[-1].text, replies[-1].finish_reason) == (FINDINGS, "stop")


def test_a_reply_carries_what_is_needed_to_get_it_again(programs: Programs) -> None:
    *_, reply = programs.draft_findings(FILM, model="llava-rad")
    assert reply.task == "findings"
    assert (len(reply.film_sha256), reply.revision, reply.precision) == (64, "0" * 40, "fp32")
    assert "Not a medical device" in reply.disclaimer


def test_two_calls_share_nothing(programs: Programs, assistant: ScriptedAssistant) -> None:
    list(programs.ask(FILM, "Is there an effusion?", model="llava-rad"))
    list(programs.ask(PRIOR, "Which side?", model="llava-rad"))
    first, second = assistant.worker.requests
    assert first.study != second.study
    assert [len(request.conversation.turns) for request in (first, second)] == [1, 1]


def test_a_comparison_has_its_prior(programs: Programs, assistant: ScriptedAssistant) -> None:
    list(programs.compare_prior(FILM, PRIOR, "effusion", model="llava-rad"))
    (request,) = assistant.worker.requests
    assert request.task == "progression"


def test_a_task_goes_to_a_model_that_was_trained_for_it(
    programs: Programs, assistant: ScriptedAssistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assistant._store, "is_licence_accepted", lambda checkpoint: True)
    assistant.worker.resident = ("llava-rad",)
    *_, reply = programs.locate(FILM, "effusion")
    assert assistant.worker.requests[0].checkpoint == "llava-rad"
    assert "LLaVA-Rad answers" in reply.notices[0]


def test_a_model_that_was_named_is_never_replaced(programs: Programs) -> None:
    with pytest.raises(ForeignImage):
        list(programs.draft_findings(FILM, model="embedded"))


def test_an_answer_is_ended_when_nobody_listens(programs: Programs, assistant: ScriptedAssistant) -> None:
    assistant.worker.word_delay_s = 0.05
    replies = programs.ask(FILM, "a long story", model="llava-rad")
    next(replies)
    replies.close()
    assert assistant.worker.running == 0


def test_boxes_are_part_of_the_reply() -> None:
    reply = Reply().after(Grounding("effusion", BoundingBox(0.1, 0.2, 0.3, 0.4)))
    assert reply.as_dict()["boxes"][0] == {
        "phrase": "effusion",
        "x_min": 0.1,
        "y_min": 0.2,
        "x_max": 0.3,
        "y_max": 0.4,
    }


def test_health_names_the_models_and_their_tasks(programs: Programs) -> None:
    health = programs.health()
    assert (health.state, health.default_model) == ("ready", "embedded")
    assert [(m.name, m.is_ready) for m in health.models] == [("embedded", True), ("llava-rad", True)]


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda p: p.ask(FILM, "  ", model="llava-rad"), "empty_question"),
        (lambda p: p.ask(FILM, "?" * 3000, model="llava-rad"), "prompt_too_long"),
        (lambda p: p.draft_findings(FILM, model="nobody"), "unknown_checkpoint"),
        (lambda p: p.draft_findings(b"GIF89a"), UnsupportedFileType.code),
    ],
    ids=["empty-question", "long-question", "unknown-model", "no-film"],
)
def test_a_refusal_is_a_sentence_with_a_code(programs: Programs, call: object, code: str) -> None:
    with pytest.raises(CxrAssistantError) as refusal:
        list(call(programs))  # type: ignore[operator]
    assert in_plain_words(refusal.value).endswith(f"[{code}]")


def test_the_inside_of_an_unexpected_error_stays_inside() -> None:
    assert "secret" not in in_plain_words(RuntimeError("secret detail"))


def test_decoding_is_greedy(programs: Programs, assistant: ScriptedAssistant) -> None:
    list(programs.ask(FILM, "Is there a mass?", model="llava-rad"))
    assert assistant.worker.requests[0].params == SamplingParams()
