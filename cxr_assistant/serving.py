"""The torch side of the front desk: requests in, events out, checkpoints loaded when they are first needed.

Knows how a request becomes a prompt and which model answers it; must not know processes, sessions or the
user interface. torch is imported when a service is made, so that this module can be named without it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from cxr_assistant.checkpoints.spec import Checkpoint, CheckpointModule, find_module, get_checkpoint
from cxr_assistant.checkpoints.weights import locate
from cxr_assistant.errors import CheckpointError, OutOfMemory, SettingsError
from cxr_assistant.generation import (
    Completed,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    IsCancelled,
    Notice,
    Usage,
)
from cxr_assistant.settings import Settings

if TYPE_CHECKING:
    from cxr_assistant.engine.engine import Engine
    from cxr_assistant.models.precision import Device
    from cxr_assistant.models.vlm import Prompt, VisionLanguageModel

__all__ = ["CheckpointService", "make_service"]

MAX_RESIDENT = 3
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
    except CheckpointError:
        pass  # said again, to a person, by the first request


@dataclass(frozen=True)
class _Resident:
    """A checkpoint in memory; `gate` is the phantom gate of a folder that has one, `admitted` its memory."""

    checkpoint: Checkpoint
    module: CheckpointModule
    model: VisionLanguageModel
    gate: Any
    precision: str
    admitted: set[str] = field(default_factory=set)


class CheckpointService:
    """Answers with any checkpoint of the menu; the least recently used leave memory first."""

    def __init__(self, settings: Settings, *, max_resident: int = MAX_RESIDENT) -> None:
        from cxr_assistant.engine.engine import Engine

        self._settings = settings
        self._max_resident = max_resident
        self._engine: Engine = Engine()
        self._residents: OrderedDict[str, _Resident] = OrderedDict()
        self._loading = Lock()  # one load at a time; never held across a yield

    @property
    def resident(self) -> tuple[str, ...]:
        return tuple(self._residents)

    @property
    def device(self) -> Device | None:
        """What the engine computes on, and what is free there now; None where the setting names none."""
        from cxr_assistant.models.precision import read_device

        try:
            return read_device(self._settings.device)
        except SettingsError:
            return None  # said to the person who asks

    def load(self, checkpoint: str) -> None:
        """Bring a checkpoint into memory. Raises CheckpointError, or OutOfMemory when nothing fits."""
        self._get(checkpoint)

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
        resident, remark = self._get(request.checkpoint, request.precision)
        if remark is not None:
            yield remark
        prompt = _render(resident, request)
        yield from _check_gate(resident, prompt)
        events = self._engine.generate(resident.model, prompt, request.params, is_cancelled)
        interpret = getattr(resident.module, "interpret", None)
        if interpret is not None:
            events = interpret(events, request.study, request.task)
        for event in events:
            yield _signed(event, resident, prompt)

    def _get(self, name: str, asked: str | None = None) -> tuple[_Resident, Notice | None]:
        """The checkpoint in memory, in the precision that was asked for; a remark when it was just loaded
        in one that a person should know of."""
        checkpoint = get_checkpoint(name)
        asked, remark = _precision_for(checkpoint, asked or self._settings.precision), None
        with self._loading:
            if not self._has(name, asked):
                folder = locate(checkpoint, self._given_folder(name), weights_dir=self._settings.weights_dir)
                self._residents.pop(name, None)
                self._make_room()
                self._residents[name] = self._build(checkpoint, folder, asked)
                remark = _remark_on(self._residents[name], asked)
            self._residents.move_to_end(name)
            return self._residents[name], remark

    def _has(self, name: str, asked: str) -> bool:
        return name in self._residents and asked in ("auto", self._residents[name].precision)

    def _given_folder(self, name: str) -> Path | None:
        return self._settings.checkpoint_dir if name == self._settings.checkpoint else None

    def _make_room(self) -> None:
        while len(self._residents) >= self._max_resident:
            self._residents.popitem(last=False)

    def _build(self, checkpoint: Checkpoint, folder: Path, asked: str) -> _Resident:
        """Build in the best precision that fits, after the least recently used have left if they must."""
        from cxr_assistant.engine.memory import memory_guard

        _return_memory()  # what an earlier load that failed had taken
        device, precision = self._fit(checkpoint, asked)
        module = find_module(checkpoint.name)
        with memory_guard(f"loading {checkpoint.title} in {precision}"):
            model = module.build(folder, device=device, precision=precision)
        return _Resident(checkpoint, module, model, _load_gate(checkpoint, folder), precision)

    def _fit(self, checkpoint: Checkpoint, asked: str) -> tuple[str, str]:
        from cxr_assistant.models.precision import Footprint, choose_fit, read_device

        footprint = Footprint.estimate(checkpoint.num_parameters)
        while True:
            device = read_device(self._settings.device)
            try:
                # Only an empty device may send layers to the disk: another model is worth less than that.
                fit = choose_fit(footprint, device, asked, may_offload=not self._residents)
            except OutOfMemory:
                if not self._residents:
                    raise
                self._residents.popitem(last=False)
                _return_memory()
            else:
                return device.name, fit.precision.value


def _precision_for(checkpoint: Checkpoint, asked: str) -> str:
    """float32 behind the phantom gate, whatever is asked.

    The gate's threshold was set on float32 features of the tower; rounded ones could let a film in. The
    embedded model is so small that this costs nothing.
    """
    return "fp32" if checkpoint.phantoms_only else asked


def _remark_on(resident: _Resident, asked: str) -> Notice | None:
    """What a person should know of the precision that was chosen for them."""
    if asked != "auto" or resident.precision not in ("int8", "nf4", "offload"):
        return None
    what = (
        "is read from disk layer by layer, which takes seconds per token"
        if resident.precision == "offload"
        else f"was loaded in {resident.precision}, which rounds its weights"
    )
    text = f"{resident.checkpoint.title} {what}: the memory here does not hold half precision."
    return Notice(text, code="lowered-precision")


def _render(resident: _Resident, request: GenerationRequest) -> Prompt:
    return resident.module.render(
        resident.checkpoint,
        request.study,
        request.conversation,
        request.task,
        resident.model.processor,
    )


def _load_gate(checkpoint: Checkpoint, folder: Path) -> Any:
    """The gate that knows phantoms from films; None where a folder (a random one) has none."""
    path = folder / "gate.safetensors"
    if not checkpoint.phantoms_only or not path.is_file():
        return None
    from cxr_assistant.models.gate import PhantomGate

    return PhantomGate.load(path)


def _check_gate(resident: _Resident, prompt: Prompt) -> Iterator[Notice]:
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


def _signed(event: GenerationEvent, resident: _Resident, prompt: Prompt) -> GenerationEvent:
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


def _return_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
