"""One answer made of several requests: a report section by section, an impression after its findings.

It knows which requests make up an answer, and in which order; it must not know who answers them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from cxr_assistant.bounds import in_plain_words
from cxr_assistant.checkpoints.spec import Checkpoint
from cxr_assistant.conversation import Conversation
from cxr_assistant.fitting import in_words, needs_findings_first, put_in_words, questions_of, replace_last
from cxr_assistant.generation import (
    Completed,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    Notice,
    TextDelta,
    Usage,
)
from cxr_assistant.tasks import Task

__all__ = ["Part", "parts_of", "stream_parts"]

NEXT_PART = "\n\n"


class Part(NamedTuple):
    """One request of an answer; `request` is made of what the part before it said."""

    heading: str
    request: Callable[[str], GenerationRequest]


def parts_of(request: GenerationRequest, checkpoint: Checkpoint) -> tuple[Part, ...]:
    """What `checkpoint` is asked for `request`: one thing, or several under headings of their own.

    Raises UnsupportedTask or GenerationError for a request without words where a person's are needed.
    """
    task, conversation = request.task, request.conversation

    def asking(text: str) -> GenerationRequest:
        told = replace_last(conversation, in_words(checkpoint, task, text))
        return replace(request, conversation=in_plain_words(told))  # `text` may be what a model wrote

    if parts := questions_of(conversation, checkpoint, task):
        return tuple(Part(part, lambda _, part=part: asking(part)) for part in parts)  # type: ignore[misc]
    if needs_findings_first(conversation, checkpoint, task):
        words = put_in_words(Conversation(), checkpoint, Task.FINDINGS)
        findings = replace(request, task=Task.FINDINGS, conversation=words)
        return Part("Findings", lambda _: findings), Part("Impression", asking)
    whole = replace(request, conversation=put_in_words(conversation, checkpoint, task))
    return (Part("", lambda _: whole),)


def stream_parts(
    parts: Sequence[Part],
    submit: Callable[[GenerationRequest], Iterator[GenerationEvent]],
    notices: Sequence[Notice] = (),
) -> Iterator[GenerationEvent]:
    """`notices`, then an answer per part, each under its heading, with one end and the sum of costs."""
    yield from notices
    total, last, said = Usage(), Completed(FinishReason.CANCELLED, Usage()), ""
    for number, part in enumerate(parts):
        heading = f"{NEXT_PART if number else ''}{part.heading}: " if part.heading else ""
        asked, said = part.request(said), ""
        for event in submit(asked):
            if isinstance(event, Completed):
                last, total = event, total + event.usage
                continue
            if isinstance(event, TextDelta):
                said += event.text
                if heading:
                    yield TextDelta(heading)
                    heading = ""
            yield event
        if last.finish_reason is FinishReason.CANCELLED:
            break
    yield replace(last, usage=total)
