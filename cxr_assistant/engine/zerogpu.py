"""A worker for ZeroGPU Spaces: a GPU is lent for one answer at a time, to a fork that holds what is loaded.

Knows the `spaces` package and what it takes to cross its fork (only values that can be pickled); must not
know models. What needs no GPU never asks for one. TODO(limit): tried with a stand-in of `spaces` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from cxr_assistant.engine.service import Health, MakeService
from cxr_assistant.engine.worker import InlineWorker
from cxr_assistant.errors import CxrAssistantError, SettingsError, WorkerUnavailable
from cxr_assistant.generation import (
    Completed,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    IsCancelled,
    Usage,
    never_cancelled,
)
from cxr_assistant.tasks import Task

__all__ = ["ZeroGpuWorker", "bounded", "seconds_for"]

ATTACH_S = 6  # the fork, moving the weights, reading the film; an estimate, to be measured on a Space
TOKENS_PER_S = 20  # a 7B model in half precision without graphs; an estimate on the slow side
LONGEST = {  # tokens that an answer of this kind takes at most; the rest have the checkpoint's own bound
    Task.VIEW: 16,
    Task.VIEW_MATCHING: 16,
    Task.PROGRESSION: 32,
    Task.GROUNDING: 96,
    Task.DETECTION: 128,
    Task.QUESTION: 160,
}
MAX_S = 60  # what a visitor without an account may ask for at once
_NO_GPU_NEEDED = "The embedded model needs no GPU, and the examples bring their answers: both still work."
_SENTENCES = {
    "ZeroGPU quota exceeded": ("Your share of the free GPU time is used up for now.", "gpu_quota"),
    "ZeroGPU pending credits exceeded": (
        "Too many of your answers already wait for a GPU; one has to end first.",
        "gpu_pending",
    ),
    "ZeroGPU illegal duration": ("This answer would need a GPU for longer than one is lent.", "gpu_duration"),
    "ZeroGPU queue timeout": ("No GPU became free in time.", "gpu_busy"),
    "ZeroGPU worker error": ("The GPU was taken back before the answer was complete.", "gpu_lost"),
    "ZeroGPU client error": ("The GPU service did not take the request.", "gpu_refused"),
}


def bounded(request: GenerationRequest) -> GenerationRequest:
    """The request with no more tokens than its kind of answer takes: what is declared must suffice."""
    longest = min(request.params.max_new_tokens, LONGEST.get(request.task, request.params.max_new_tokens))
    within = min(longest, (MAX_S - ATTACH_S) * TOKENS_PER_S)
    return replace(request, params=replace(request.params, max_new_tokens=within))


def seconds_for(request: GenerationRequest) -> int:
    """For how long a GPU is asked for: the declared time, not the used one, is checked against a quota."""
    return ATTACH_S + -(-bounded(request).params.max_new_tokens // TOKENS_PER_S)


@dataclass(frozen=True)
class _Failed:
    """An error on its way out of the fork, which would otherwise lose all but its class."""

    error: CxrAssistantError


class ZeroGpuWorker:
    """Two services in this process: one on the CPU, and one that answers inside a lent GPU."""

    def __init__(
        self,
        on_cpu: MakeService,
        on_gpu: MakeService,
        *,
        needs_gpu: Callable[[str], bool],
        spaces: ModuleType | None = None,
    ) -> None:
        self._cpu, self._gpu = InlineWorker(on_cpu), InlineWorker(on_gpu)
        self._needs_gpu = needs_gpu
        lender = spaces or _import_spaces()
        # Decorated before the server starts: ZeroGPU refuses a Space in which it finds no such function.
        self._lent: Callable[[GenerationRequest], Iterator[Any]] = lender.GPU(duration=seconds_for)(
            self._generate
        )
        startup = getattr(getattr(lender, "zero", None), "startup", None)
        if startup is not None:  # it hangs on Gradio's own launch, which this project does not use
            startup()

    def start(self) -> None:
        self._cpu.start()

    def submit(
        self, request: GenerationRequest, is_cancelled: IsCancelled = never_cancelled
    ) -> Iterator[GenerationEvent]:
        if not self._needs_gpu(request.checkpoint):
            yield from self._cpu.submit(request, is_cancelled)
            return
        if is_cancelled():
            yield _cancelled(request)
            return
        self._gpu.load(request.checkpoint)  # here, so that every fork finds it
        request = bounded(request)
        try:
            with closing(self._lent(request)) as events:  # type: ignore[type-var]  # a generator
                for event in map(_unpacked, events):
                    yield event
                    if is_cancelled() and not isinstance(event, Completed):
                        yield _cancelled(request)
                        return
        except CxrAssistantError:
            raise
        except Exception as error:
            if (said := _in_plain_words(error)) is None:
                raise
            raise said from error

    def _generate(self, request: GenerationRequest) -> Iterator[GenerationEvent | _Failed]:
        """Runs in the fork; its cancel flag is that nobody reads on."""
        try:
            yield from self._gpu.submit(request)
        except CxrAssistantError as error:
            yield _Failed(error)

    def load(self, checkpoint: str) -> None:
        (self._gpu if self._needs_gpu(checkpoint) else self._cpu).load(checkpoint)

    def forget(self, session: str) -> None:
        self._cpu.forget(session)  # what a fork knew has gone with it

    def health(self) -> Health:
        cpu, gpu = self._cpu.health(), self._gpu.health()
        return replace(
            cpu,
            resident=tuple(dict.fromkeys((*cpu.resident, *gpu.resident))),
            num_active=cpu.num_active + gpu.num_active,
            device=gpu.device or cpu.device,
        )

    def close(self) -> None:
        self._cpu.close()
        self._gpu.close()


def _unpacked(event: GenerationEvent | _Failed) -> GenerationEvent:
    if isinstance(event, _Failed):
        raise event.error
    return event


def _import_spaces() -> ModuleType:
    try:
        import spaces
    except ImportError as error:
        raise SettingsError(
            "CXR_WORKER is 'zerogpu', and the package 'spaces' is not installed.",
            hint="It comes with a ZeroGPU Space; elsewhere use CXR_WORKER=process.",
        ) from error
    return spaces  # type: ignore[no-any-return]  # it has no types


def _cancelled(request: GenerationRequest) -> Completed:
    return Completed(FinishReason.CANCELLED, Usage(), request.checkpoint)


def _in_plain_words(error: Exception) -> WorkerUnavailable | None:
    """An error of the GPU service as a sentence; None for anything else."""
    title = getattr(error, "title", None)
    if not isinstance(title, str) or not title.startswith("ZeroGPU"):
        return None
    sentence, code = _SENTENCES.get(title, _SENTENCES["ZeroGPU client error"])
    hint = f"{_NO_GPU_NEEDED} Signed in to Hugging Face, you have a larger share."
    return WorkerUnavailable(sentence, hint=hint if code == "gpu_quota" else _NO_GPU_NEEDED, code=code)
