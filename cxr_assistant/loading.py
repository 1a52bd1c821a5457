"""From settings to an assistant that can answer: which weights, and which worker it talks to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_assistant.assistant import Assistant
from cxr_assistant.errors import SettingsError
from cxr_assistant.settings import PRECISIONS, Settings, read_settings
from cxr_assistant.store import WeightStore

if TYPE_CHECKING:
    from cxr_assistant.engine.worker import Worker

__all__ = ["load"]


def load(
    checkpoint: str | None = None,
    weights: str | Path | None = None,
    worker: Worker | str | None = None,
    settings: Settings | None = None,
    *,
    precision: str | None = None,
) -> Assistant:
    """An assistant that can answer; torch is first imported when the worker loads a model.

    `weights` is the folder of `checkpoint` itself, as published or converted; without it the embedded model
    and what was fetched before are there. `worker` is "inline" (this process), "process" (a process of its
    own) or a ready worker; `precision` is one of settings.PRECISIONS. The environment decides what is None.
    """
    settings = settings or read_settings()
    settings = replace(
        settings,
        checkpoint=checkpoint or settings.checkpoint,
        checkpoint_dir=Path(weights) if weights is not None else settings.checkpoint_dir,
        precision=_one_of_precisions(precision) if precision is not None else settings.precision,
    )
    return Assistant(
        _make_worker(worker or settings.worker, settings),
        checkpoint=settings.checkpoint,
        store=WeightStore(
            settings.weights_dir,
            may_fetch=settings.may_fetch,
            given=settings.checkpoint if settings.checkpoint_dir else None,
        ),
    )


def _one_of_precisions(precision: str) -> str:
    if precision not in PRECISIONS:
        raise SettingsError(f"precision is {precision!r}; allowed: {', '.join(PRECISIONS)}.")
    return precision


def _make_worker(worker: Worker | str, settings: Settings) -> Worker:
    from cxr_assistant.engine.worker import InlineWorker, ProcessWorker

    if not isinstance(worker, str):
        return worker
    kinds: dict[str, Callable[[Callable[[], Any]], Worker]] = {
        "inline": InlineWorker,
        "process": partial(ProcessWorker, stuck_s=settings.limits.stuck_s),
    }
    if worker == "zerogpu":
        return _make_zerogpu_worker(settings)
    if worker not in kinds:
        raise SettingsError(f"worker is {worker!r}; allowed: inline, process, zerogpu.")
    return kinds[worker](partial(_make_service, settings))


def _make_zerogpu_worker(settings: Settings) -> Worker:
    from cxr_assistant.checkpoints.spec import get_checkpoint
    from cxr_assistant.engine.zerogpu import ZeroGpuWorker

    return ZeroGpuWorker(
        partial(_make_service, replace(settings, device="cpu")),
        partial(_make_service, settings),
        needs_gpu=lambda name: not get_checkpoint(name).is_embedded,
    )


def _make_service(settings: Settings) -> Any:
    # Top-level, so that a worker process can be handed it; the import brings torch and happens over there.
    from cxr_assistant.serving import make_service

    return make_service(settings)
