from __future__ import annotations

import re
from dataclasses import replace

import pytest

from cxr_assistant.checkpoints.spec import Checkpoint, TaskWording, list_checkpoints
from cxr_assistant.generation import Completed, FinishReason, Grounding, Notice, Queued, TextDelta, Usage
from cxr_assistant.report import BoundingBox
from cxr_assistant.tasks import Task
from cxr_assistant.ui import render, transcript
from cxr_assistant.ui.cards import Shelf, model_menu
from cxr_assistant.ui.exchange import KnownFinding, Problem, Truth
from cxr_assistant.ui.session import Session
from tests.ui.doubles import EMBEDDED, PUBLISHED, make_radiograph

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "</p></div><iframe src=//example.org>",
    "&lt;b&gt;",
    "SpO2 <90% & >5 cm",
    "![x](http://example.org/a.png) $x$ **b**",
)
DONE = Completed(FinishReason.STOP, Usage(1280, 0, 58, 0.4, 1.3), "embedded", "abcdef0123")


def view(session: Session) -> dict[str, object]:
    return transcript.chat_view(session, EMBEDDED, [PUBLISHED], frozenset())


def html_of(session: Session) -> str:
    return "".join(item["html"] for item in view(session)["items"])  # type: ignore[index, attr-defined]


def tags_of(html: str) -> set[str]:
    return set(re.findall(r"<\s*([a-zA-Z]+)", html))


@pytest.mark.requirement("O2")
@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_markup_wherever_it_stands(session: Session, text: str) -> None:
    plain = (
        session.ask(Task.QUESTION, "a")
        .heard(Notice("b"))
        .heard(TextDelta("c"))
        .heard(DONE)
        .remark(Problem("d", "e"))
    )
    hostile = (
        session.ask(Task.QUESTION, text)
        .heard(Notice(text))
        .heard(TextDelta(text))
        .heard(DONE)
        .remark(Problem(text, text))
    )
    assert re.findall(r"<[^>]*>", html_of(hostile)) == re.findall(r"<[^>]*>", html_of(plain))


@pytest.mark.requirement("O2")
@pytest.mark.parametrize("cut", range(1, 29))
def test_a_tag_cut_in_two_by_the_stream_is_no_tag(session: Session, cut: int) -> None:
    whole = "<img src=x onerror=alert(1)>x"
    streamed = session.ask(Task.QUESTION, "?").heard(TextDelta(whole[:cut]))
    assert "img" not in tags_of(html_of(streamed))
    assert "img" not in tags_of(html_of(streamed.heard(TextDelta(whole[cut:]))))


@pytest.mark.requirement("O3")
def test_clinical_inequalities_survive_unchanged(session: Session) -> None:
    html = html_of(session.ask(Task.QUESTION, "?").heard(TextDelta("SpO2 <90% & >5 cm")))
    assert "SpO2 &lt;90% &amp; &gt;5 cm" in html


def test_an_answer_says_who_spoke_how_many_tokens_and_how_long(session: Session) -> None:
    html = html_of(session.ask(Task.QUESTION, "?").heard(TextDelta("No.")).heard(DONE))
    assert "embedded" in html and "abcdef0" in html
    assert "1 280 + 58 tokens" in html and "1.3 s, first word 0.4 s" in html


def test_a_waiting_answer_says_how_many_are_ahead(session: Session) -> None:
    assert "3 ahead of you" in html_of(session.ask(Task.QUESTION, "?").heard(Queued(3)))


def test_a_stopped_answer_says_so(session: Session) -> None:
    assert "Stopped." in html_of(session.ask(Task.QUESTION, "?").heard(TextDelta("The")).stopped())


def test_the_truth_waits_until_the_draft_is_written() -> None:
    truth = Truth(4, "PA", "Left effusion.", (KnownFinding("Small left pleural effusion"),))
    session = Session("embedded").with_phantom(make_radiograph(phantom=True), truth).ask(Task.FINDINGS, "?")
    writing = session.heard(TextDelta("There"))
    assert "Left effusion." not in html_of(writing)
    assert "Left effusion." in html_of(writing.heard(DONE))


def test_a_foreign_film_names_the_models_to_choose(session: Session) -> None:
    html = html_of(session.remark(Problem("Not a phantom.", code="foreign_image")))
    assert 'data-model="llava-rad"' in html and 'data-model="embedded"' not in html


def test_task_buttons_carry_the_exact_words_of_the_checkpoint(session: Session) -> None:
    tasks = {task["task"]: task["prompt"] for task in view(session)["tasks"]}  # type: ignore[attr-defined]
    assert tasks == {
        "findings": "Describe the findings of this chest radiograph.",
        "view": "What is the view of this radiograph?",
        "steps": "View and quality, Findings",
    }


@pytest.mark.parametrize("checkpoint", list_checkpoints(), ids=lambda c: c.name)
def test_every_request_of_a_models_training_can_be_reached(session: Session, checkpoint: Checkpoint) -> None:
    """With a prior: each declared task has a button or is typed, each further form is a choice."""
    prior = session.with_film(make_radiograph(1)).with_prior(make_radiograph(1).digest)
    offered = transcript.chat_view(prior, checkpoint, [], frozenset())["tasks"]
    named = {entry["task"] for entry in offered if "forms" not in entry} - {"steps"}
    assert named == set(checkpoint.tasks) - {Task.QUESTION}
    forms = {form["prompt"] for entry in offered for form in entry.get("forms", ())}
    assert forms == {form for wording in checkpoint.tasks.values() for _, form in wording.templates}


def test_a_comparison_is_offered_only_with_a_prior(session: Session) -> None:
    def offered(s: Session) -> set[str]:
        return {task["task"] for task in transcript.chat_view(s, PUBLISHED, [EMBEDDED], frozenset())["tasks"]}

    prior = Session("embedded").with_film(make_radiograph(5)).study
    from dataclasses import replace

    with_prior = replace(session, study=session.study.with_prior(prior))
    assert "progression" not in offered(session)
    assert "progression" in offered(with_prior)


def test_retry_and_undo_stand_under_the_last_entry_only(session: Session) -> None:
    twice = session.ask(Task.QUESTION, "a").heard(TextDelta("1")).heard(DONE)
    twice = twice.ask(Task.QUESTION, "b").heard(TextDelta("2")).heard(DONE)
    assert html_of(twice).count('data-act="retry"') == 1


def test_the_model_card_tells_licence_abilities_and_weakness() -> None:
    html = model_menu([EMBEDDED, PUBLISHED], "embedded", Shelf())
    for words in (
        "MSR research licence",
        "Research only.",
        "read lateral films",
        PUBLISHED.weakness,
        "6.8 billion",
    ):
        assert words in html
    assert "synthetic films only" in html


@pytest.mark.requirement("A8")
def test_the_ribbon_says_what_this_is_not() -> None:
    assert "Not a medical device" in render.RIBBON


def test_each_box_is_listed_under_its_answer(session: Session) -> None:
    box = BoundingBox(0.12, 0.3, 0.44, 0.6)
    html = html_of(session.ask(Task.GROUNDING, "?").heard(Grounding("left <effusion>", box)).heard(DONE))
    assert "left &lt;effusion&gt;" in html and "x 0.12 to 0.44, y 0.30 to 0.60" in html
    assert 'data-act="boxes"' in html


def test_an_answer_without_weights_leads_to_fetching(session: Session) -> None:
    failed = (
        session.choosing("llava-rad").ask(Task.FINDINGS, "?").failed(Problem("No.", code="missing_weights"))
    )
    assert 'data-plan="llava-rad"' in html_of(failed)


def test_an_impression_concludes_the_last_answer(session: Session) -> None:
    wording = TaskWording(prompt="Conclude: {text}", needs_text=True)
    model = replace(EMBEDDED, tasks={Task.IMPRESSION: wording})
    answered = session.ask(Task.FINDINGS, "?").heard(TextDelta("Clear lungs.")).heard(DONE)
    (before,), (after,) = (
        transcript.chat_view(s, model, [], frozenset())["tasks"] for s in (session, answered)
    )
    assert (before["needs_text"], after["needs_text"]) == (True, False)
    assert after["prompt"] == "Conclude: Clear lungs."
