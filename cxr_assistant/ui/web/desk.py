"""What the web layer may ask of the app: which answers run, whether the engine is well, and to forget.

Knows the assistant's front and the cancel flags; never looks into a session.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxr_assistant.assistant import Assistant
from cxr_assistant.ui.session import Session
from cxr_assistant.ui.switchboard import Switchboard

if TYPE_CHECKING:
    from cxr_assistant.engine.service import Health

__all__ = ["Desk"]


@dataclass(frozen=True)
class Desk:
    """`switchboard` holds the flags of answers, `fetches` those of downloads."""

    switchboard: Switchboard
    fetches: Switchboard
    assistant: Assistant
    find_session: Callable[[str], Session | None]

    @property
    def boards(self) -> tuple[Switchboard, Switchboard]:
        return self.switchboard, self.fetches

    def health(self) -> Health:
        return self.assistant.health()

    def forget(self, visitor: str) -> None:
        """Drop what the engine keeps of a visitor's films and words."""
        session = self.find_session(visitor)
        name = getattr(session, "name", "")
        if name:
            self.assistant.forget(name)
