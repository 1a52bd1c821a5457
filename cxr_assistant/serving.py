"""The torch side of the front desk: requests in, events out, checkpoints loaded when they are first needed.

Knows how a request becomes a prompt and which model answers it; must not know processes, sessions or the
user interface. torch is imported when a service is made, so that this module can be named without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cxr_assistant.checkpoints.spec import get_checkpoint
from cxr_assistant.errors import CxrAssistantError
from cxr_assistant.generation import (
    Completed,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    IsCancelled,
    Notice,
    Usage,
)
from cxr_assistant.residents import LOWERED, Resident, Residents
from cxr_assistant.settings import Settings

if TYPE_CHECKING:
    from cxr_assistant.engine.engine import Engine
    from cxr_assistant.models.precision import Device
    from cxr_assistant.models.vlm import Prompt

__all__ = ["CheckpointService", "make_service"]

MAX_ADMITTED = 1024  # digests of films that the phantom gate let in


def make_service(settings: Settings) -> CheckpointService:
    """A service that has imported torch and holds the checkpoint with which the app opens, if it can."""
    import torch

    if settings.threads:
        torch.set_num_threads(settings.threads)
    service = CheckpointService(settings)
    if get_checkpoint(settings.checkpoint).is_embedded:
        _load_if_there(service, settings.checkpoint)
    return service


def _load_if_there(service: CheckpointService, checkpoint: str) -> None:
    try:
        service.load(checkpoint)
    except CxrAssistantError:
        pass  # no folder, no memory: said again, to a person, by the first request


class CheckpointService:
    """Answers with any checkpoint of the menu."""

    def __init__(self, settings: Settings) -> None:
        from cxr_assistant.engine.engine import Engine

        self._engine: Engine = Engine()
        self._residents = Residents(settings)

    @property
    def resident(self) -> tuple[str, ...]:
        return self._residents.names

    @property
    def device(self) -> Device | None:
        """What the engine computes on, and what is free there now; None where the setting names none."""
        return self._residents.device

    def load(self, checkpoint: str) -> None:
        """Bring a checkpoint into memory. Raises CheckpointError, or OutOfMemory when nothing fits."""
        self._residents.give_back(self._residents.lend(checkpoint)[0])

    def forget(self, session: str) -> None:
        """Free what is kept of a visitor's films and words."""
        self._engine.forget(session)

    def generate(self, request: GenerationRequest, is_cancelled: IsCancelled) -> Iterator[GenerationEvent]:
        """Events of one answer, signed by the checkpoint that spoke.

        Raises CheckpointError, ForeignImage, PromptTooLong, OutOfMemory, MissingRadiograph.
        """
        if is_cancelled():
            yield Completed(FinishReason.CANCELLED, Usage())
            return
        resident, is_new = self._residents.lend(request.checkpoint, request.precision)
        try:
            yield from _remarks(resident, request.precision, is_new=is_new)
            yield from self._answer(resident, request, is_cancelled)
        finally:
            self._residents.give_back(resident)

    def _answer(
        self, resident: Resident, request: GenerationRequest, is_cancelled: IsCancelled
    ) -> Iterator[GenerationEvent]:
        prompt = _render(resident, request)
        yield from _check_gate(resident, prompt)
        events = self._engine.generate(resident.model, prompt, request.params, is_cancelled)
        interpret = getattr(resident.module, "interpret", None)
        if interpret is not None:
            events = interpret(events, request.study, request.task)
        for event in events:
            yield _signed(event, resident, prompt)


def _remarks(resident: Resident, asked: str | None, *, is_new: bool) -> Iterator[Notice]:
    """What a person should know of the precision: that theirs was not taken, or what was chosen for them."""
    title, precision = resident.checkpoint.title, resident.precision
    if asked not in (None, "auto", precision):
        text = (
            f"{title} always runs in {precision}, on which its test for phantoms rests; {asked} was not used."
        )
        yield Notice(text, code="precision-kept")
    if is_new and not resident.was_asked_for and precision in LOWERED:
        what = (
            "is read from disk layer by layer, which takes seconds per token"
            if precision == "offload"
            else f"was loaded in {precision}, which rounds its weights"
        )
        text = f"{title} {what}: the memory here does not hold half precision."
        yield Notice(text, code="lowered-precision")


def _render(resident: Resident, request: GenerationRequest) -> Prompt:
    return resident.module.render(
        resident.checkpoint,
        request.study,
        request.conversation,
        request.task,
        resident.model.processor,
    )


def _check_gate(resident: Resident, prompt: Prompt) -> Iterator[Notice]:
    """Raise ForeignImage for a film that is no phantom; say so where a folder cannot tell.

    The gate runs the tower, so a film that it let in is not held up at the next question.
    """
    if resident.gate is not None:
        if not resident.admitted.issuperset(prompt.digests):
            resident.gate.check(resident.model, prompt.pixel_values)
            _admit(resident.admitted, prompt.digests)
    elif resident.checkpoint.phantoms_only:
        yield Notice(
            f"This copy of the {resident.checkpoint.title} cannot tell a phantom from the film of a person; "
            "what it says of a person means nothing.",
            code="no-gate",
        )


def _admit(admitted: set[str], digests: Sequence[str]) -> None:
    if len(admitted) >= MAX_ADMITTED:
        admitted.clear()  # whoever comes again is checked again
    admitted.update(digests)


def _signed(event: GenerationEvent, resident: Resident, prompt: Prompt) -> GenerationEvent:
    """The last event with all that tells who spoke and what was seen; any other as it is."""
    if not isinstance(event, Completed):
        return event
    spoke = resident.checkpoint
    return replace(
        event,
        checkpoint=spoke.name,
        revision=spoke.revision,
        precision=resident.precision,
        inputs=prompt.digests,
    )
