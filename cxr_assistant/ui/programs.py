"""What a program may ask: six typed verbs, each call with its own films, nothing remembered between calls.

Knows the assistant and the foundation's values; knows neither Gradio nor MCP, which are the two doors to it
(api.py, mcp_door.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from cxr_assistant.assistant import Assistant, make_session_key
from cxr_assistant.conversation import Conversation
from cxr_assistant.errors import CxrAssistantError
from cxr_assistant.generation import (
    Completed,
    GenerationEvent,
    Grounding,
    Notice,
    SamplingParams,
    TextDelta,
)
from cxr_assistant.study import Study
from cxr_assistant.tasks import Task
from cxr_assistant.ui.asking import MAX_INDICATION, MAX_PROMPT, clean
from cxr_assistant.ui.pacing import paced
from cxr_assistant.ui.render import RIBBON
from cxr_assistant.ui.switchboard import CancelFlag, Switchboard

__all__ = ["Box", "HealthReport", "ModelReport", "Programs", "Reply", "in_plain_words"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Box:
    """Where a phrase was seen: fractions of the film's width (x) and height (y), origin at the top left."""

    phrase: str
    x_min: float
    y_min: float
    x_max: float
    y_max: float


@dataclass(frozen=True)
class Reply:
    """One answer, with all that is needed to know who spoke and to get it again.

    `finish_reason` is "stop", "length" or "cancelled", and empty while the answer is still growing.
    """

    text: str = ""
    boxes: tuple[Box, ...] = ()
    notices: tuple[str, ...] = ()
    task: str = ""
    checkpoint: str = ""
    revision: str = ""
    precision: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    film_sha256: str = ""
    disclaimer: str = RIBBON

    def after(self, event: GenerationEvent) -> Reply:
        """The reply one event later."""
        match event:
            case TextDelta():
                return replace(self, text=self.text + event.text)
            case Notice():
                return replace(self, notices=(*self.notices, event.text))
            case Grounding():
                return replace(self, boxes=(*self.boxes, Box(event.phrase, **event.box.as_dict())))
            case Completed():
                return replace(
                    self,
                    finish_reason=event.finish_reason.value,
                    checkpoint=event.checkpoint or self.checkpoint,
                    revision=event.revision,
                    precision=event.precision,
                    prompt_tokens=event.usage.prompt_tokens,
                    completion_tokens=event.usage.completion_tokens,
                    seconds=round(event.usage.total_s, 3),
                )
        return self

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ModelReport:
    """A model of the menu: what it was trained for, and whether it can answer now."""

    name: str
    title: str
    revision: str
    is_ready: bool
    phantoms_only: bool
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class HealthReport:
    """Whether the engine answers ("ready"), and what can be asked of whom."""

    state: str
    resident: tuple[str, ...]
    num_active: int
    default_model: str
    models: tuple[ModelReport, ...]
    disclaimer: str = RIBBON

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Programs:
    """The six verbs. Films are bytes: DICOM, PNG or JPEG, read in the sandbox like any upload.

    Each answering verb yields the reply as it grows, about 25 times a second; the last one is whole.
    `visitor` names who asks, for the limits of a page and of an address.
    Raises: the project's errors, at the first step of the iterator.
    """

    def __init__(self, assistant: Assistant, switchboard: Switchboard | None = None) -> None:
        self._assistant = assistant
        # An empty one is false: `or` would put one without limits in its place.
        self._switchboard = Switchboard() if switchboard is None else switchboard

    def draft_findings(
        self, film: bytes, *, indication: str = "", model: str = "", visitor: str = ""
    ) -> Iterator[Reply]:
        read = partial(self._study, film, indication=indication)
        yield from self._answer(Task.FINDINGS, read, "", model, visitor)

    def ask(
        self, film: bytes, question: str, *, indication: str = "", model: str = "", visitor: str = ""
    ) -> Iterator[Reply]:
        read = partial(self._study, film, indication=indication)
        yield from self._answer(Task.QUESTION, read, clean(question, MAX_PROMPT), model, visitor)

    def classify_view(self, film: bytes, *, model: str = "", visitor: str = "") -> Iterator[Reply]:
        yield from self._answer(Task.VIEW, partial(self._study, film), "", model, visitor)

    def locate(self, film: bytes, phrase: str, *, model: str = "", visitor: str = "") -> Iterator[Reply]:
        read = partial(self._study, film)
        yield from self._answer(Task.GROUNDING, read, clean(phrase, MAX_PROMPT), model, visitor)

    def compare_prior(
        self, film: bytes, prior: bytes, finding: str, *, model: str = "", visitor: str = ""
    ) -> Iterator[Reply]:
        read = partial(self._study, film, prior=prior)
        yield from self._answer(Task.PROGRESSION, read, clean(finding, MAX_PROMPT), model, visitor)

    def health(self) -> HealthReport:
        """How the engine is and what is on the menu; names nobody and no study."""
        now, menu = self._assistant.health(), self._assistant.list_checkpoints()
        return HealthReport(
            state=now.state.value,
            resident=now.resident,
            num_active=now.num_active,
            default_model=self._assistant.checkpoint,
            models=tuple(
                ModelReport(
                    name=c.name,
                    title=c.title,
                    revision=c.revision,
                    is_ready=self._assistant.is_ready(c.name),
                    phantoms_only=c.phantoms_only,
                    tasks=tuple(task.value for task in c.tasks),
                )
                for c in menu
            ),
        )

    def _study(self, film: bytes, *, prior: bytes = b"", indication: str = "") -> Study:
        # A key for this call alone: it ties the film to its prior, and nothing to any other call.
        key = make_session_key()
        study = Study((self._assistant.read(film, key),)).with_indication(indication[:MAX_INDICATION])
        return study.with_prior(Study((self._assistant.read(prior, key),))) if prior else study

    def _answer(
        self, task: Task, read: Callable[[], Study], text: str, model: str, visitor: str
    ) -> Iterator[Reply]:
        # Reading is work, too: whoever has no place for an answer has none for a decoder.
        with self._switchboard.running(visitor, beside=True) as flag:
            yield from self._reply(task, read(), text, model, flag)

    def _reply(self, task: Task, study: Study, text: str, model: str, flag: CancelFlag) -> Iterator[Reply]:
        chosen = model or None
        asked = self._assistant.in_words(task, text, chosen)
        speaker = self._assistant.get_checkpoint(model or self._assistant.checkpoint)
        events = self._assistant.respond(
            study,
            Conversation().ask(asked) if asked else Conversation(),
            task,
            SamplingParams(max_new_tokens=speaker.max_new_tokens),
            checkpoint=chosen,
            is_cancelled=flag.is_set,
        )
        (film,) = study.radiographs
        # What the reader remarks about the film comes first: a program must not hear less than a person.
        reply = Reply(task=task.value, film_sha256=film.digest, notices=film.notices)
        with closing(events):  # type: ignore[type-var]  # a generator: whoever hangs up ends the answer
            for bundle in paced(events):
                for event in bundle:
                    reply = reply.after(event)
                yield reply


def in_plain_words(error: Exception) -> str:
    """What a program is told about a failure: one sentence, what to do, and a stable code in brackets."""
    if isinstance(error, CxrAssistantError):
        return f"{error} [{error.code}]"
    _log.error("a program's request failed: %s", type(error).__name__)  # the class, never its text
    return "Something went wrong inside the assistant. Try again. [unexpected]"
