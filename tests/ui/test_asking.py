from __future__ import annotations

import pytest

from cxr_assistant.errors import CxrAssistantError, GenerationError
from cxr_assistant.generation import Completed, FinishReason, TextDelta, Usage
from cxr_assistant.tasks import Task
from cxr_assistant.ui.asking import Asking, Inquiry
from cxr_assistant.ui.exchange import Comparison
from cxr_assistant.ui.session import Session
from tests.ui.doubles import EMBEDDED, PUBLISHED, ScriptedAssistant

DONE = Completed(FinishReason.STOP, Usage(10, 0, 2, 0.1, 0.2), "embedded", "abc")
OWN = (EMBEDDED.tasks[Task.FINDINGS].prompt, PUBLISHED.tasks[Task.FINDINGS].prompt)


@pytest.fixture
def asking(assistant: ScriptedAssistant) -> Asking:
    return Asking(assistant)


def answered(session: Session, prompt: str, answer: str) -> Session:
    return session.ask(Task.QUESTION, prompt).heard(TextDelta(answer)).heard(DONE)


def compared(asking: Asking, session: Session, prompt: str, **more: object) -> Comparison:
    inquiry = Inquiry(task="findings", prompt=prompt, rival="llava-rad", **more)  # type: ignore[arg-type]
    item = asking.new(session, inquiry).open_item
    assert isinstance(item, Comparison)
    return item


def test_retry_asks_the_same_words_of_the_model_that_is_chosen_now(asking: Asking, session: Session) -> None:
    retried = asking.again(answered(session, "One?", "1").choosing("llava-rad"), Inquiry())
    assert retried.open_exchange is not None
    assert (retried.open_exchange.prompt, retried.open_exchange.checkpoint) == ("One?", "llava-rad")
    assert len(retried.exchanges) == 1


def test_editing_a_question_takes_back_what_followed(asking: Asking, session: Session) -> None:
    session = answered(answered(session, "One?", "1"), "Two?", "2")
    edited = asking.edited(session, session.exchanges[0].number, Inquiry(prompt="Uno?"))
    assert [e.prompt for e in edited.exchanges] == ["Uno?"]


def test_editing_or_retrying_what_is_not_there_asks_nothing(asking: Asking, session: Session) -> None:
    assert asking.edited(session, 99, Inquiry(prompt="What?")).log == ()
    assert asking.again(session, Inquiry()).log == ()


def test_settings_are_kept_for_the_next_question_and_the_next_study(asking: Asking, session: Session) -> None:
    asked = asking.new(session, Inquiry(prompt="Heart?", decoding={"temperature": "0.5", "seed": "4"}))
    assert asked.open_exchange is not None
    assert (asked.open_exchange.params.temperature, asked.open_exchange.params.seed) == (0.5, 4)
    assert asked.new_study().decoding == asked.decoding


def test_a_setting_that_makes_no_sense_asks_nothing(asking: Asking, session: Session) -> None:
    with pytest.raises(GenerationError, match="top p"):
        asking.new(session, Inquiry(prompt="Heart?", decoding={"top_p": "7"}))


def test_words_that_a_person_wrote_are_the_same_for_both_models(asking: Asking, session: Session) -> None:
    assert {side.prompt for side in compared(asking, session, "Describe the heart.").sides} == {
        "Describe the heart."
    }


@pytest.mark.parametrize("prompt", OWN, ids=["in A's words", "in B's words"])
def test_a_task_asked_in_one_models_own_words_is_asked_in_the_others_too(
    asking: Asking, session: Session, prompt: str
) -> None:
    assert tuple(side.prompt for side in compared(asking, session, prompt).sides) == OWN


def test_a_blind_comparison_stands_in_either_order(asking: Asking, session: Session) -> None:
    orders = {
        tuple(side.checkpoint for side in compared(asking, session, "Heart?", is_blind=True).sides)
        for _ in range(40)
    }
    assert orders == {("embedded", "llava-rad"), ("llava-rad", "embedded")}


def test_both_sides_of_a_comparison_draw_with_the_same_seed(asking: Asking, session: Session) -> None:
    sides = compared(asking, session, "Heart?", decoding={"temperature": "1"}).sides
    assert sides[0].params.seed == sides[1].params.seed


def test_a_comparison_is_retried_and_edited_as_one(asking: Asking, session: Session) -> None:
    asked = asking.new(session, Inquiry(prompt="Heart?", rival="llava-rad", is_blind=True)).stopped()
    edited = asking.edited(asked, 0, Inquiry(prompt="Lungs?")).open_item
    assert isinstance(edited, Comparison) and edited.is_blind
    assert {side.checkpoint for side in edited.sides} == {"embedded", "llava-rad"}
    assert edited.prompt == "Lungs?"
    assert len(asking.again(asked, Inquiry()).log) == 1


def test_a_model_is_not_compared_with_itself(asking: Asking, session: Session) -> None:
    assert asking.new(session, Inquiry(prompt="Heart?", rival="embedded")).open_exchange is not None


def test_an_unknown_rival_is_refused(asking: Asking, session: Session) -> None:
    with pytest.raises(CxrAssistantError, match="available"):
        asking.new(session, Inquiry(prompt="Heart?", rival="gpt"))


def test_a_report_in_steps_is_retried_in_steps(asking: Asking, session: Session) -> None:
    asked = asking.new(session, Inquiry(in_steps=True))
    assert asked.open_exchange is not None and len(asked.open_exchange.steps) == 2
    again = asking.again(asked.stopped(), Inquiry()).open_exchange
    assert again is not None and [step.title for step in again.steps] == ["View and quality", "Findings"]
