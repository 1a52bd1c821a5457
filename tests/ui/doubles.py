"""Stand-ins for the slow and the unwritten: a worker that speaks from a script, films and synthetic patients.

The assistant around them is the real one: choices, notices and errors are the project's own.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from cxr_assistant.assistant import Assistant
from cxr_assistant.checkpoints.spec import Checkpoint, Licence, TaskWording
from cxr_assistant.engine.service import Health, WorkerState
from cxr_assistant.errors import ForeignImage, OutOfMemory, PhantomError, UnsupportedFileType
from cxr_assistant.generation import (
    Completed,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    Grounding,
    IsCancelled,
    Prefilled,
    Queued,
    TextDelta,
    Usage,
)
from cxr_assistant.imaging.rendering import Rendering
from cxr_assistant.imaging.transforms import ImageSpec, ResizeRule
from cxr_assistant.models.precision import Device
from cxr_assistant.report import BoundingBox
from cxr_assistant.study import Radiograph, ViewPosition, Window
from cxr_assistant.tasks import Task
from tests.doubles import StoreDouble

Made = TypeVar("Made")

FINDINGS = (
    "Frontal radiograph. There is a moderate left pleural effusion with blunting of the left "
    "costophrenic angle. "
    "The cardiac silhouette is not enlarged. No pneumothorax. The right lung is clear."
)
EFFUSION_BOX = BoundingBox(0.56, 0.6, 0.9, 0.9)
ANSWERS = {
    Task.FINDINGS: FINDINGS,
    Task.VIEW: "PA",
    Task.SECTIONS: "Nothing abnormal is seen here.",
    Task.IMPRESSION: "Left pleural effusion.",
    Task.GROUNDING: "The left pleural effusion is marked.",
}
LONG = " ".join(f"Sentence number {n} of a very long answer." for n in range(400))


@cache
def make_radiograph(
    seed: int = 0, *, size: tuple[int, int] = (560, 480), phantom: bool = False
) -> Radiograph:
    """A picture with the rough look of a frontal film: 12 bits, dark lungs, a bright middle."""
    rng, (height, width) = np.random.default_rng(seed), size
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    body = 1 / (1 + np.exp((x**4 + 0.4 * np.maximum(y, -0.5) ** 8 - 0.75) * 14))
    lungs = sum(np.exp(-((((x - c) / 0.30) ** 2 + ((y + 0.08) / 0.62) ** 2) ** 3)) for c in (-0.42, 0.42))
    fluid = 0.30 * np.exp(-(((x - 0.48) / 0.3) ** 2) - ((y - 0.5) / 0.16) ** 2)
    spine = 0.16 * np.exp(-((x / 0.11) ** 2)) + 0.25 * np.exp(
        -((((x - 0.10) / 0.27) ** 2 + ((y - 0.25) / 0.36) ** 2) ** 2)
    )
    ribs = 0.035 * np.sin(34 * (y - 0.32 * x**2)) * (lungs > 0.3)
    film = body * (0.62 - 0.44 * lungs) + spine + fluid + ribs + rng.normal(0, 0.008, (height, width))
    stored = np.clip(film * 3600 + 120, 0, 4095).astype(np.uint16)
    return Radiograph(
        stored=stored,
        bits_stored=12,
        windows=(Window(2000, 3600, explanation="Standard"),),
        view=ViewPosition.PA,
        orientation=("L", "F"),
        pixel_spacing_mm=(0.7, 0.7),
        source="DICOM",
        modality_code="DX",
        is_marked_phantom=phantom,
    )


def png_bytes(seed: int = 0, *, size: tuple[int, int] = (300, 260)) -> bytes:
    pixels = np.asarray(make_radiograph(seed, size=size).stored >> 4, dtype=np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()


@dataclass(frozen=True)
class FakeFinding:
    kind: str = "pleural-effusion"
    side: str | None = "left"
    severity: str | None = "moderate"
    zone: str | None = None
    box: BoundingBox | None = field(default_factory=lambda: BoundingBox(0.56, 0.6, 0.9, 0.9))
    is_visible: bool = True


@dataclass(frozen=True)
class FakePhantom:
    seed: int
    view: ViewPosition
    radiograph: Radiograph
    findings: tuple[FakeFinding, ...] = (FakeFinding(),)
    report: str = "A moderate left pleural effusion is present. Heart size is normal. No pneumothorax."


class ScriptedWorker:
    """Speaks word by word; the words of the question choose what happens."""

    resident: tuple[str, ...] = ("embedded",)

    def __init__(self, word_delay_s: float = 0.0, prefill_delay_s: float = 0.0) -> None:
        self.word_delay_s = word_delay_s
        self.prefill_delay_s = prefill_delay_s
        self.requests: list[GenerationRequest] = []
        self.stopped: list[str] = []
        self.says = ""  # what is answered whatever is asked, where it is set
        self.running = 0
        self.first_word_at = self.last_word_at = 0.0  # of the newest answer, on the clock that a browser has
        self.device: Device | None = Device("cuda", "a GPU", 22 * 1024**3, 24 * 1024**3, (8, 9))

    def submit(self, request: GenerationRequest, is_cancelled: IsCancelled) -> Iterator[GenerationEvent]:
        self.requests.append(request)
        self.running += 1
        try:
            yield from self._speak(request, is_cancelled)
        finally:
            self.running -= 1

    def _speak(self, request: GenerationRequest, is_cancelled: IsCancelled) -> Iterator[GenerationEvent]:
        question, started = request.conversation.last_question, time.monotonic()
        if request.checkpoint == "embedded" and not request.study.radiographs[0].is_marked_phantom:
            raise ForeignImage("Not a phantom.")
        yield Queued(0)
        if self._waits(self.prefill_delay_s, is_cancelled):
            yield self._completed(FinishReason.CANCELLED, 0, started, 0.0)
            return
        yield Prefilled(prompt_tokens=280)
        if "memory" in question:
            raise OutOfMemory("The device has no memory left.", hint="Ask a shorter question.")
        if "explode" in question:
            raise RuntimeError("secret detail of the inside")
        first, number = time.monotonic() - started, 0
        for number, word in enumerate(self._text(request, question).split(" "), start=1):
            if self._waits(self.word_delay_s, is_cancelled):
                self.stopped.append(question)
                yield self._completed(FinishReason.CANCELLED, number - 1, started, first)
                return
            self.last_word_at = time.time()
            self.first_word_at = self.last_word_at if number == 1 else self.first_word_at
            yield TextDelta(word if number == 1 else f" {word}", (-0.1,))
        if request.task is Task.GROUNDING:
            yield Grounding("left pleural effusion", EFFUSION_BOX, request.study.radiographs[0].digest)
        last = self._completed(FinishReason.STOP, number, started, first)
        yield replace(
            last, checkpoint=request.checkpoint, revision="0" * 40, precision="fp32", inputs=("d" * 64,)
        )

    def _text(self, request: GenerationRequest, question: str) -> str:
        if self.says:
            return self.says
        if "markup" in question:
            return "<img src=x onerror=alert(1)> **bold** [link](http://example.org) $x$ SpO2 <90% & >5 cm"
        if "long" in question:
            return LONG
        if "saga" in question:
            return " ".join(LONG.split()[:160])
        if request.task in ANSWERS:
            return ANSWERS[request.task]
        return f"You asked: {question} (turn {len(request.conversation.turns)})"

    def _waits(self, seconds: float, is_cancelled: IsCancelled) -> bool:
        """Sleep in small steps; True as soon as the flag is set."""
        end = time.monotonic() + seconds
        while not is_cancelled() and time.monotonic() < end:
            time.sleep(min(0.005, seconds))
        return is_cancelled()

    def _completed(self, reason: FinishReason, tokens: int, started: float, first: float) -> Completed:
        return Completed(reason, Usage(280, 0, tokens, first, time.monotonic() - started))

    def load(self, checkpoint: str) -> None: ...

    def forget(self, session: str) -> None: ...

    def health(self) -> Health:
        return Health(WorkerState.READY, self.resident, device=self.device)

    def close(self) -> None: ...


class ScriptedAssistant(Assistant):
    """The real front desk over a scripted worker, with a small reader and a ready-made synthetic patient."""

    def __init__(
        self,
        worker: ScriptedWorker | None = None,
        store: StoreDouble | None = None,
        menu: Sequence[Checkpoint] | None = None,
    ) -> None:
        self.worker = worker or ScriptedWorker()
        self.store = store or StoreDouble(ready={"llava-rad", "chexagent"})
        super().__init__(self.worker, menu=menu or (EMBEDDED, PUBLISHED), store=self.store)

    def read(self, data: bytes, session_key: bytes | None = None) -> Radiograph:
        if data.startswith(b"EXPLODE"):
            raise RuntimeError("secret detail of a parser")
        if data[128:132] == b"DICM":
            return super().read(data, session_key)
        try:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
                pixels = np.asarray(picture.convert("L"), dtype=np.uint8)
        except UnidentifiedImageError:
            raise UnsupportedFileType(
                "The file is neither DICOM nor PNG nor JPEG.", hint="Export the film as one of these."
            ) from None
        return Radiograph(stored=pixels.copy(), bits_stored=8, source="PNG")

    def make_phantom(self, seed: int, **wishes: Any) -> Any:
        return FakePhantom(seed, ViewPosition.PA, make_radiograph(seed, phantom=True))

    def order_phantom(
        self, seed: int, *, finding: str = "", side: str = "", severity: str = "", view: str = ""
    ) -> Any:
        if finding == "none" and severity:
            raise PhantomError("No finding has no severity.", hint="Leave the severity out.")
        phantom = self.make_phantom(seed)
        return (
            phantom
            if finding != "none"
            else FakePhantom(seed, phantom.view, phantom.radiograph, (), "Clear.")
        )

    def phantom_menu(self) -> tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]:
        sizes = ("small", "moderate", "large")
        return (
            ("pleural-effusion", ("left", "right"), sizes),
            ("pneumothorax", ("left", "right"), sizes),
            ("cardiomegaly", (), ("mild", "moderate", "severe")),
            ("endotracheal-tube", (), ()),
        )


def on_a_loop(make: Callable[[], Made]) -> Made:
    """What `make` returns, made on a running event loop: where Gradio finds none it leaves one open."""

    async def made() -> Made:
        return make()

    # In a thread of its own: the browser's driver keeps a loop running in this one.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(made())).result()


def _spec(size_px: int) -> ImageSpec:
    return ImageSpec(
        size_px=size_px,
        channels=1,
        mean=(0.5,),
        std=(0.25,),
        resize=ResizeRule.PAD,
        resampling="bicubic",
        rendering=Rendering.DISPLAY,
    )


_COMMON: dict[str, Any] = {
    "revision": "0123456789abcdef0123456789abcdef01234567",
    "files": (),
    "citation": "",
    "max_images": 1,
    "views": frozenset({ViewPosition.PA, ViewPosition.AP}),
    "supports_prior": False,
    "supports_boxes": False,
    "context_length": 1024,
}
EMBEDDED = Checkpoint(
    name="embedded",
    title="Embedded model",
    summary="A small model that ships with the project and answers at once, on any computer, offline.",
    repository="cxr-assistant/embedded",
    licence=Licence(name="MIT", url="", terms="Free to use.", needs_acceptance=False),
    tasks={
        Task.FINDINGS: TaskWording(prompt="Describe the findings of this chest radiograph."),
        Task.VIEW: TaskWording(prompt="What is the view of this radiograph?"),
        Task.QUESTION: TaskWording(
            prompt="{text}",
            hint="Ask about this film",
            needs_text=True,
            follow_ups={"presence": ("Is there {a_noun}?",), "any": ("Are there any support devices?",)},
        ),
    },
    image=_spec(224),
    multi_turn=True,
    phantoms_only=True,
    can=("draft findings of synthetic films", "answer short questions", "tell the view"),
    cannot=("read a real radiograph", "compare with a prior"),
    weakness="It has never seen a patient: it knows computed films alone.",
    num_parameters=9_400_000,
    is_embedded=True,
    **_COMMON,
)
PUBLISHED = Checkpoint(
    name="llava-rad",
    title="LLaVA-Rad",
    summary="Drafts the findings of one frontal radiograph.",
    repository="microsoft/llava-rad",
    licence=Licence(name="MSR research licence", url="", terms="Research only.", needs_acceptance=True),
    tasks={
        Task.FINDINGS: TaskWording(prompt="Provide a description of the findings in the radiology image."),
        Task.GROUNDING: TaskWording(prompt="Locate: {text}", hint="a phrase", needs_text=True),
        Task.PROGRESSION: TaskWording(prompt="What changed?", needs_prior=True),
    },
    image=_spec(518),
    multi_turn=False,
    phantoms_only=False,
    can=("draft findings of a frontal film",),
    cannot=("read lateral films", "compare with a prior"),
    weakness="It may describe changes against a prior that it has not seen.",
    num_parameters=6_760_000_000,
    **_COMMON,
)
VERSATILE = replace(
    PUBLISHED,
    name="chexagent",
    title="CheXagent",
    summary="Findings, sections, impressions, questions and boxes.",
    repository="StanfordAIMI/CheXagent-2-3b",
    tasks={
        Task.FINDINGS: TaskWording(prompt="Write a findings section for the CXR."),
        Task.SECTIONS: TaskWording(
            prompt="Describe {text}.", needs_text=True, choices=("Airway", "Breathing", "Cardiac")
        ),
        Task.IMPRESSION: TaskWording(prompt="Conclude: {text}", needs_text=True),
        Task.QUESTION: TaskWording(
            prompt="{text}",
            needs_text=True,
            follow_ups={"presence": ("Does it contain {a_noun}?",)},
            templates=(
                ("binary_disease_classification", "Does this chest X-ray contain a {text}?"),
                ("demo_view", "Determine the view of this CXR"),
            ),
        ),
        Task.VIEW: TaskWording(prompt="Determine the view of this CXR"),
        Task.GROUNDING: TaskWording(prompt="Please locate: {text}", hint="a phrase", needs_text=True),
    },
    can=("draft findings part by part", "answer questions", "mark phrases with boxes"),
    cannot=("remember earlier turns",),
    num_parameters=3_140_000_000,
)
BENCH = (EMBEDDED, PUBLISHED, VERSATILE)
UNFETCHED = replace(PUBLISHED, name="cxr-llava", title="CXR-LLaVA", repository="ECOFRI/CXR-LLAVA-v2")
