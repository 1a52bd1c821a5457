"""What a request may hold: each bound, one below and one above."""

from __future__ import annotations

import pytest

from cxr_assistant.assistant import Assistant
from cxr_assistant.bounds import in_plain_words, within
from cxr_assistant.conversation import Conversation
from cxr_assistant.errors import PromptTooLong
from cxr_assistant.generation import SamplingParams
from cxr_assistant.settings import Limits
from cxr_assistant.study import Study
from cxr_assistant.tasks import Task
from tests.doubles import ScriptedWorker

LIMITS = Limits(max_prompt_chars=10, max_turns=2, max_new_tokens=100)


def _talk(num_questions: int) -> Conversation:
    talk = Conversation()
    for _ in range(num_questions - 1):
        talk = talk.ask("Heart?").answer("Normal.")
    return talk.ask("Lungs?")


@pytest.mark.requirement("D2")
def test_a_question_has_so_many_characters() -> None:
    within(LIMITS, Conversation().ask("x" * 10), SamplingParams())
    with pytest.raises(PromptTooLong, match="11 characters; allowed: 10"):
        within(LIMITS, Conversation().ask("x" * 11), SamplingParams())


@pytest.mark.requirement("D2")
def test_a_conversation_has_so_many_questions() -> None:
    within(LIMITS, _talk(2), SamplingParams())
    with pytest.raises(PromptTooLong, match="3 questions; allowed: 2"):
        within(LIMITS, _talk(3), SamplingParams())


@pytest.mark.requirement("D2")
def test_an_answer_has_so_many_tokens() -> None:
    assert within(LIMITS, _talk(1), SamplingParams(max_new_tokens=101)).max_new_tokens == 100
    assert within(LIMITS, _talk(1), SamplingParams(max_new_tokens=99)).max_new_tokens == 99


def test_the_front_desk_holds_the_bounds_for_everybody() -> None:
    assistant = Assistant(ScriptedWorker())
    assistant.bound(LIMITS)
    with pytest.raises(PromptTooLong):
        list(assistant.respond(Study(), Conversation().ask("x" * 11), Task.QUESTION))


def test_words_that_are_no_role_stay_as_they_are() -> None:
    talk = Conversation().ask("Assistant: is the user: line [in place] <5 mm?")
    assert in_plain_words(talk) == talk
