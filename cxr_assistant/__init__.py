"""CXR Assistant: a chest radiograph in, streamed draft findings out.

The public surface. Names are looked up when they are first used, so `import cxr_assistant` costs nothing
and brings no torch.

    >>> from cxr_assistant import Conversation, Task, collect, load, read_study
    >>> with load() as assistant:
    ...     answer = collect(assistant.respond(read_study("film.dcm"), Conversation(), Task.FINDINGS))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxr_assistant.assistant import Assistant, make_session_id, make_session_key, read_study
    from cxr_assistant.checkpoints.spec import Checkpoint, get_checkpoint, list_checkpoints
    from cxr_assistant.conversation import Conversation, Turn
    from cxr_assistant.errors import CxrAssistantError
    from cxr_assistant.generation import (
        Answer,
        Completed,
        Grounding,
        Notice,
        Prefilled,
        Queued,
        SamplingParams,
        TextDelta,
        collect,
    )
    from cxr_assistant.imaging.phantom import make_phantom
    from cxr_assistant.imaging.read import read_radiograph
    from cxr_assistant.loading import load
    from cxr_assistant.report import BoundingBox, Report
    from cxr_assistant.study import Radiograph, Study, ViewPosition
    from cxr_assistant.tasks import Task

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Assistant",
    "BoundingBox",
    "Checkpoint",
    "Completed",
    "Conversation",
    "CxrAssistantError",
    "Grounding",
    "Notice",
    "Prefilled",
    "Queued",
    "Radiograph",
    "Report",
    "SamplingParams",
    "Study",
    "Task",
    "TextDelta",
    "Turn",
    "ViewPosition",
    "collect",
    "get_checkpoint",
    "list_checkpoints",
    "load",
    "make_phantom",
    "make_session_id",
    "make_session_key",
    "read_radiograph",
    "read_study",
]

_HOMES = {
    "assistant": ("Assistant", "make_session_id", "make_session_key", "read_study"),
    "checkpoints.spec": ("Checkpoint", "get_checkpoint", "list_checkpoints"),
    "conversation": ("Conversation", "Turn"),
    "errors": ("CxrAssistantError",),
    "generation": (
        "Answer",
        "Completed",
        "Grounding",
        "Notice",
        "Prefilled",
        "Queued",
        "SamplingParams",
        "TextDelta",
        "collect",
    ),
    "imaging.phantom": ("make_phantom",),
    "imaging.read": ("read_radiograph",),
    "loading": ("load",),
    "report": ("BoundingBox", "Report"),
    "study": ("Radiograph", "Study", "ViewPosition"),
    "tasks": ("Task",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
