"""What was said about a study, turn by turn. Values only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

__all__ = ["Conversation", "Role", "Turn"]


class Role(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True)
class Turn:
    """One utterance; `checkpoint` names the model that spoke, for assistant turns."""

    role: Role
    text: str
    checkpoint: str = ""


@dataclass(frozen=True)
class Conversation:
    """Turns in order. It grows by verbs that return a new value."""

    turns: tuple[Turn, ...] = ()

    def ask(self, text: str) -> Conversation:
        return replace(self, turns=(*self.turns, Turn(Role.USER, text)))

    def answer(self, text: str, checkpoint: str = "") -> Conversation:
        return replace(self, turns=(*self.turns, Turn(Role.ASSISTANT, text, checkpoint)))

    @property
    def last_question(self) -> str:
        """The text of the newest user turn, or an empty string."""
        return self._newest(Role.USER)

    @property
    def last_answer(self) -> str:
        """The text of the newest assistant turn, or an empty string."""
        return self._newest(Role.ASSISTANT)

    def _newest(self, role: Role) -> str:
        return next((turn.text for turn in reversed(self.turns) if turn.role is role), "")
