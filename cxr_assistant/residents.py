"""Which checkpoints are in memory, in which precision, and who leaves when another needs the room.

Knows devices, footprints and folders; must not know requests, prompts or answers. The least recently used
leaves first, and nobody leaves while an answer is being written with it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from cxr_assistant.checkpoints.spec import Checkpoint, CheckpointModule, find_module, get_checkpoint
from cxr_assistant.checkpoints.weights import locate, stored_precision
from cxr_assistant.errors import SettingsError
from cxr_assistant.settings import Settings

if TYPE_CHECKING:
    from cxr_assistant.models.precision import Device, Footprint
    from cxr_assistant.models.vlm import VisionLanguageModel

__all__ = ["Resident", "Residents"]

LOWERED = ("int8", "nf4", "offload")
"""Precisions that nobody should be given without having asked, while a better one fits."""


@dataclass(eq=False)
class Resident:
    """A checkpoint in memory, for as long as it is there.

    `gate` is the phantom gate of a folder that has one, `admitted` its memory. `was_asked_for`: a person
    named the precision; otherwise it is the best that fitted. `mapped_bytes`: weights that lie in the page
    cache, which the system counts as free.
    """

    checkpoint: Checkpoint
    module: CheckpointModule
    model: VisionLanguageModel
    gate: Any
    precision: str
    was_asked_for: bool = False
    mapped_bytes: int = 0
    num_bytes: int = 0
    num_lent: int = 0
    admitted: set[tuple[str, str]] = field(default_factory=set)  # visitor, digest


class Residents:
    """The checkpoints in memory; every model that is lent must be given back."""

    def __init__(
        self, settings: Settings, *, on_leave: Callable[[VisionLanguageModel], None] | None = None
    ) -> None:
        """`on_leave` is told of a model that leaves, before the memory it took is counted on."""
        self._settings, self._on_leave = settings, on_leave
        self._present: list[Resident] = []  # the least recently used first
        self._loading = Lock()  # one load at a time, in whatever thread
        self._counting = Lock()  # who is there and how often lent: held for a moment, also while one loads

    def __iter__(self) -> Iterator[Resident]:
        return iter(tuple(self._present))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(resident.checkpoint.name for resident in self._present))

    def lend(self, name: str, precision: str | None = None) -> tuple[Resident, bool]:
        """The checkpoint in `precision` (None or "auto": what is there, or else the best that fits), and
        whether it had to be loaded for this.

        Raises CheckpointError, SettingsError, or OutOfMemory when it does not fit beside what is in use.
        """
        checkpoint = get_checkpoint(name)
        asked = _precision_of(checkpoint, precision or self._settings.precision)
        found = self._lend_present(name, asked)
        if found is not None:
            return found, False
        with self._loading:
            found = self._lend_present(name, asked)  # another one may have loaded it meanwhile
            if found is not None:
                return found, False
            resident = self._load(checkpoint, asked)
            with self._counting:
                resident.num_lent = 1
                self._present = [*self._present, resident]
            return resident, True

    def give_back(self, resident: Resident) -> None:
        with self._counting:
            resident.num_lent -= 1

    def _lend_present(self, name: str, asked: str) -> Resident | None:
        with self._counting:
            found = self._find(name, asked)
            if found is not None:
                self._present = [*(r for r in self._present if r is not found), found]
                found.num_lent += 1
            return found

    def _find(self, name: str, asked: str) -> Resident | None:
        """The one in memory that will do. What a stranger wanted rounded is not handed to everybody."""
        for resident in reversed(self._present):
            will_do = (
                asked == resident.precision
                if asked != "auto"
                else not (resident.was_asked_for and resident.precision in LOWERED)
            )
            if resident.checkpoint.name == name and will_do:
                return resident
        return None

    def _load(self, checkpoint: Checkpoint, asked: str) -> Resident:
        """Build in the best precision that fits, after the least recently used have left if they must."""
        from cxr_assistant.engine.memory import memory_guard
        from cxr_assistant.models.precision import Footprint

        folder = locate(
            checkpoint, self._given_folder(checkpoint.name), weights_dir=self._settings.weights_dir
        )
        _return_memory()  # what an earlier load that failed had taken
        footprint = Footprint.estimate(checkpoint.num_parameters)
        device, precision = self._make_room(footprint, asked)
        module = find_module(checkpoint.name)
        with memory_guard(f"loading {checkpoint.title} in {precision}"):
            model = module.build(folder, device=device.name, precision=precision)
        _exempt_from_collection()
        num_bytes = footprint.num_bytes(precision)
        is_mapped = not device.is_cuda and precision == stored_precision(checkpoint)
        return Resident(
            checkpoint,
            module,
            model,
            _load_gate(checkpoint, folder),
            precision.value,
            was_asked_for=asked != "auto",
            mapped_bytes=num_bytes if is_mapped else 0,
            num_bytes=num_bytes,
        )

    def _given_folder(self, name: str) -> Path | None:
        return self._settings.checkpoint_dir if name == self._settings.checkpoint else None

    def _make_room(self, footprint: Footprint, asked: str) -> tuple[Device, Any]:
        """The device and the precision to load in: the best that fits once all who may leave have left, of
        whom only as many leave as must."""
        from cxr_assistant.models.precision import choose_fit, list_fits

        idle = [r for r in self._present if not r.num_lent]
        is_anybody_busy = len(idle) < len(self._present)
        device = self._read_device()
        free_at_most = device.free_bytes + sum(r.num_bytes for r in idle)
        # Only an empty device may send layers to the disk: another model is worth less than that.
        hoped = choose_fit(
            footprint, replace(device, free_bytes=free_at_most), asked, may_offload=not is_anybody_busy
        )
        while True:
            device = self._read_device()
            if any(f.fits for f in list_fits(footprint, device) if f.precision == hoped.precision):
                return device, hoped.precision
            if not idle:
                fit = choose_fit(footprint, device, asked, may_offload=not self._present)
                return device, fit.precision
            self._let_go(idle.pop(0))
            _return_memory()

    def _let_go(self, resident: Resident) -> None:
        """Unless it was lent to somebody since it was found idle."""
        with self._counting:
            if resident.num_lent:
                return
            self._present = [r for r in self._present if r is not resident]
        if self._on_leave is not None:
            self._on_leave(resident.model)

    def _read_device(self) -> Device:
        """The device with what is free on it; mapped weights count as free there, and are needed."""
        from cxr_assistant.models.precision import read_device

        device = read_device(self._settings.device)
        mapped = sum(resident.mapped_bytes for resident in self._present)
        return replace(device, free_bytes=max(0, device.free_bytes - mapped))

    @property
    def device(self) -> Device | None:
        """What the engine computes on, and what is free there now; None where the setting names none."""
        try:
            return self._read_device()
        except SettingsError:
            return None  # said to the person who asks


def _precision_of(checkpoint: Checkpoint, asked: str) -> str:
    """float32 behind the phantom gate, whatever is asked.

    The gate's threshold was set on float32 features of the tower; rounded ones could let a film in. The
    embedded model is so small that this costs nothing.
    """
    return "fp32" if checkpoint.phantoms_only else asked


def _load_gate(checkpoint: Checkpoint, folder: Path) -> Any:
    """The gate that knows phantoms from films; None where a folder (a random one) has none."""
    path = folder / "gate.safetensors"
    if not checkpoint.phantoms_only or not path.is_file():
        return None
    from cxr_assistant.models.gate import PhantomGate

    return PhantomGate.load(path)


def _exempt_from_collection() -> None:
    """Looking for garbage through all that was imported and loaded would stop every answer for a tenth of a
    second, again and again."""
    gc.collect()
    gc.freeze()


def _return_memory() -> None:
    import torch

    gc.unfreeze()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
