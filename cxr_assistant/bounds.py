"""What a request may hold before anybody works on it: so much text, and no words of a template.

Knows conversations and limits; must not know models. It stands at the front desk, so that the page, the typed
API and MCP are bounded alike.
"""

from __future__ import annotations

import re
from dataclasses import replace

from cxr_assistant.conversation import Conversation, Role
from cxr_assistant.errors import PromptTooLong
from cxr_assistant.generation import SamplingParams
from cxr_assistant.settings import Limits
from cxr_assistant.study import Study

__all__ = ["in_plain_words", "with_plain_indication", "within"]

# What the templates begin and end a turn with, where that is plain text. Special tokens are no
# danger: no tokenizer here reads them out of text (checkpoints/tokenizer.py).
_ROLE_WORDS = re.compile(r"\b(USER|ASSISTANT|SYSTEM)(?=:)")
_BRACKETS = re.compile(r"(\[/?)(?=INST\])|(<</?)(?=SYS>>)")


def within(limits: Limits, conversation: Conversation, params: SamplingParams) -> SamplingParams:
    """The parameters with no more tokens than allowed. Raises PromptTooLong for too much text or too many
    questions."""
    num_chars = len(conversation.last_question)
    if num_chars > limits.max_prompt_chars:
        raise PromptTooLong(
            f"The question has {num_chars} characters; allowed: {limits.max_prompt_chars}.",
            hint="Shorten it.",
        )
    num_questions = sum(turn.role is Role.USER for turn in conversation.turns)
    if num_questions > limits.max_turns:
        raise PromptTooLong(
            f"The conversation has {num_questions} questions; allowed: {limits.max_turns}.",
            hint="Take some back with Undo, or start a new study.",
            code="too_many_turns",
        )
    return replace(params, max_new_tokens=min(params.max_new_tokens, limits.max_new_tokens))


def in_plain_words(conversation: Conversation) -> Conversation:
    """The conversation with a space in whatever a template would take for the beginning of a turn."""
    return Conversation(tuple(replace(turn, text=_parted(turn.text)) for turn in conversation.turns))


def with_plain_indication(study: Study) -> Study:
    """The study with the same done to its indication, which stands in a prompt as a question does."""
    return replace(study, indication=_parted(study.indication))


def _parted(text: str) -> str:
    return _BRACKETS.sub(r"\g<0> ", _ROLE_WORDS.sub(r"\1 ", text))
