"""The torch side of the front desk: requests in, events out, checkpoints loaded when they are first needed.

Knows how a request becomes a prompt and which model answers it; must not know processes, sessions or the
user interface. torch is imported when a service is made, so that this module can be named without it.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from cxr_assistant.checkpoints.spec import get_checkpoint
from cxr_assistant.engine.background import in_background
from cxr_assistant.errors import CxrAssistantError
from cxr_assistant.generation import (
    Completed,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    IsCancelled,
    Notice,
    Queued,
    Usage,
)
from cxr_assistant.residents import LOWERED, Resident, Residents
from cxr_assistant.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from cxr_assistant.engine.engine import Engine
    from cxr_assistant.models.precision import Device
    from cxr_assistant.models.vlm import Prompt
    from cxr_assistant.study import Radiograph, Study

__all__ = ["CheckpointService", "make_service"]

MAX_ADMITTED = 1024  # films that the phantom gate let in
EVERYBODY = ""  # the session of what is kept for all


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
        self._residents = Residents(settings, on_leave=self._engine.release)
        self._preparing: list[_Whose] = []

    @property
    def resident(self) -> tuple[str, ...]:
        return self._residents.names

    @property
    def device(self) -> Device | None:
        """What the engine computes on, and what is free there now; None where the setting names none."""
        return self._residents.device

    def load(self, checkpoint: str) -> None:
        """Bring a checkpoint into memory. Raises CheckpointError, or OutOfMemory when nothing fits."""
        resident, _ = self._residents.lend(checkpoint)
        try:
            self._engine.prepare(resident.model)
        finally:
            self._residents.give_back(resident)

    def forget(self, session: str) -> None:
        """Free what is kept of a visitor's films and words."""
        self._engine.forget(session)
        for whose in tuple(self._preparing):
            if whose.session == session:
                whose.session = None  # what is being prepared is not kept either
        for resident in self._residents:
            _forget_admitted(resident, session)

    def generate(self, request: GenerationRequest, is_cancelled: IsCancelled) -> Iterator[GenerationEvent]:
        """Events of one answer, signed by the checkpoint that spoke.

        Raises CheckpointError, ForeignImage, PromptTooLong, Busy, OutOfMemory, MissingRadiograph.
        """
        if is_cancelled():
            yield Completed(FinishReason.CANCELLED, Usage())
            return
        lent = yield from self._lend(request, is_cancelled)
        if lent is None:
            yield Completed(FinishReason.CANCELLED, Usage())
            return
        resident, is_new = lent
        try:
            yield from _remarks(resident, request.precision, is_new=is_new)
            yield from self._answer(resident, request, is_cancelled)
        finally:
            self._residents.give_back(resident)

    def _lend(
        self, request: GenerationRequest, is_cancelled: IsCancelled
    ) -> Generator[Queued, None, tuple[Resident, bool] | None]:
        """A resident with its slots made, and whether it is new; others are answered while it loads."""

        def lend() -> tuple[Resident, bool]:
            resident, is_new = self._residents.lend(request.checkpoint, request.precision)
            try:
                self._engine.prepare(resident.model)
            except BaseException:
                self._residents.give_back(resident)
                raise
            return resident, is_new

        return (yield from in_background(lend, lambda lent: self._residents.give_back(lent[0]), is_cancelled))

    def _answer(
        self, resident: Resident, request: GenerationRequest, is_cancelled: IsCancelled
    ) -> Iterator[GenerationEvent]:
        session = request.session or None

        def prepare() -> _Prepared:
            prompt, public = _render(resident, request), _public_digests(resident, request)
            return _Prepared(prompt, public, *_check_gate(resident, prompt, session, public))

        whose = _Whose(session)
        self._preparing.append(whose)
        try:
            prepared = yield from in_background(prepare, lambda _: None)
        finally:
            self._preparing.remove(whose)
        assert prepared is not None  # the engine looks at the flag itself
        if session is not None and whose.session is None:
            _forget_admitted(resident, session)
        yield from prepared.notices
        events = self._engine.pulses(
            resident.model,
            prepared.prompt,
            request.params,
            is_cancelled,
            session=whose.session,
            public=prepared.public,
            seen=prepared.seen,
        )
        interpret = getattr(resident.module, "interpret", None)
        if interpret is not None:
            events = interpret(events, request.study, request.task)
        for event in events:
            yield _signed(event, resident, prepared.prompt)


@dataclass(eq=False)
class _Whose:
    """For whom something is being prepared; None once that visitor is to be forgotten."""

    session: str | None


class _Prepared(NamedTuple):
    """What the engine is asked, and what the person is told beforehand."""

    prompt: Prompt
    public: frozenset[str]
    notices: tuple[Notice, ...]
    seen: Mapping[str, Tensor]


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


def _public_digests(resident: Resident, request: GenerationRequest) -> frozenset[str]:
    """The prompt's names of those films that everybody may see."""
    from cxr_assistant.checkpoints.prompting import image_digest

    films = (film for film in _films(request.study) if film.digest in request.public_films)
    return frozenset(image_digest(film, resident.model.processor.image) for film in films)


def _films(study: Study | None) -> tuple[Radiograph, ...]:
    return () if study is None else (*study.radiographs, *_films(study.prior))


def _check_gate(
    resident: Resident, prompt: Prompt, session: str | None, public: Collection[str]
) -> tuple[tuple[Notice, ...], Mapping[str, Tensor]]:
    """Raise ForeignImage for a film that is no phantom; what to say where a folder cannot tell, and image
    embeddings by digest where the tower had to look.

    The gate runs the tower, so a film that it let in is not held up at the visitor's next question.
    """
    if resident.gate is not None:
        films = [(EVERYBODY if digest in public else session, digest) for digest in prompt.digests]
        if not resident.admitted.issuperset(films):
            embeds = resident.gate.check(resident.model, prompt.pixel_values)
            _admit(resident.admitted, [(owner, digest) for owner, digest in films if owner is not None])
            return (), dict(zip(prompt.digests, embeds, strict=True))
    elif resident.checkpoint.phantoms_only:
        text = (
            f"This copy of the {resident.checkpoint.title} cannot tell a phantom from the film of a person; "
            "what it says of a person means nothing."
        )
        return (Notice(text, code="no-gate"),), {}
    return (), {}


def _forget_admitted(resident: Resident, session: str) -> None:
    # A copy: another visitor's film may be let in meanwhile, in another thread.
    resident.admitted -= {film for film in tuple(resident.admitted) if film[0] == session}


def _admit(admitted: set[tuple[str, str]], films: Iterable[tuple[str, str]]) -> None:
    if len(admitted) >= MAX_ADMITTED:
        admitted.clear()  # whoever comes again is checked again
    admitted.update(films)


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
