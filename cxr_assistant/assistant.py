"""The one front desk: a study, a conversation and a task go in, a stream of events comes out.

It knows what each checkpoint was made for and says so in notices; it must not know torch, Gradio or how
an answer is computed. Wrong input is refused before the worker is asked.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from cxr_assistant.bounds import in_plain_words, with_plain_indication, within
from cxr_assistant.checkpoints.spec import Checkpoint, find_by_name, list_checkpoints
from cxr_assistant.conversation import Conversation
from cxr_assistant.errors import (
    ForeignImage,
    MissingRadiograph,
    PhantomError,
    UnsupportedTask,
)
from cxr_assistant.fitting import (
    deed,
    fit_study,
    in_words,
    task_names,
    task_on_films,
    trained_for,
)
from cxr_assistant.generation import (
    GenerationEvent,
    GenerationRequest,
    IsCancelled,
    Notice,
    SamplingParams,
    never_cancelled,
)
from cxr_assistant.harmless import harmless
from cxr_assistant.parts import parts_of, stream_parts
from cxr_assistant.settings import Limits
from cxr_assistant.store import Store, WeightStore
from cxr_assistant.study import Radiograph, Study, ViewPosition
from cxr_assistant.tasks import Task

if TYPE_CHECKING:
    from cxr_assistant.checkpoints.fetching import FetchPlan
    from cxr_assistant.checkpoints.progress import OnProgress
    from cxr_assistant.engine.worker import Health, Worker
    from cxr_assistant.imaging.model_view import Frame, ModelView
    from cxr_assistant.imaging.phantom import Phantom
    from cxr_assistant.models.precision import Fit

__all__ = ["GREEDY", "Assistant", "make_session_id", "make_session_key", "read_study"]

GREEDY = SamplingParams()
_Words = TypeVar("_Words", bound=StrEnum)
_NEEDS_BOXES = frozenset({Task.GROUNDING, Task.DETECTION})


class Assistant:
    """Answers requests about studies with the checkpoints of the menu; holds nothing about any person."""

    def __init__(
        self,
        worker: Worker,
        *,
        checkpoint: str = "embedded",
        menu: Sequence[Checkpoint] | None = None,
        store: Store | None = None,
    ) -> None:
        """`checkpoint` speaks when nobody chooses; `store` keeps the weights, by default this machine's."""
        self._worker = worker
        self._menu = tuple(list_checkpoints() if menu is None else menu)
        self._store = WeightStore() if store is None else store
        self._public_films: frozenset[str] = frozenset()
        self._limits: Limits | None = None
        self.checkpoint = self.get_checkpoint(checkpoint).name

    def bound(self, limits: Limits) -> None:
        """From now on refuse what is too long, and write no more than allowed: for those who serve others."""
        self._limits = limits

    def respond(
        self,
        study: Study,
        conversation: Conversation,
        task: Task,
        params: SamplingParams = GREEDY,
        *,
        checkpoint: str | None = None,
        precision: str | None = None,
        session: str | None = None,
        shown: str = "",
        is_cancelled: IsCancelled = never_cancelled,
    ) -> Iterator[GenerationEvent]:
        """Events of one answer: notices first, then what the worker streams; the last is Completed.

        `checkpoint` is a person's explicit choice and is kept. Without one the default speaks, or, where it
        was not trained for `task` or declines the film, a ready checkpoint that was (never the embedded
        model: it knows phantoms only). Without a question at the end of `conversation` the checkpoint's own
        words for the task are asked. `precision` overrides the one in which the model would be loaded (see
        `list_fits`). `shown` is the digest of the film in front of the person: where a model cannot read all
        films, it reads that one. `session`, a secret of one visitor (see `make_session_id`),
        lets a follow-up begin where the last answer ended, until `forget`.

        Raises: MissingRadiograph, UnsupportedTask, UnknownCheckpoint at once; ForeignImage and what the
        worker raises while the events are read.
        """
        if self._limits is not None:
            params = within(self._limits, conversation, params)
        conversation, study = in_plain_words(conversation), with_plain_indication(study)
        chosen, notices = self._choose(task, checkpoint)

        def answer_with(speaker: Checkpoint, notices: tuple[Notice, ...]) -> Iterator[GenerationEvent]:
            usable, film_notices = fit_study(
                study, speaker, task_on_films(conversation, speaker, task), shown=shown
            )
            request = GenerationRequest(
                checkpoint=speaker.name,
                task=task,
                study=usable,
                conversation=conversation,
                params=params,
                precision=precision,
                session=session,
                public_films=self._public_films,
            )
            submit = partial(self._submit, speaker, is_cancelled=is_cancelled)
            remarks, parts = (*notices, *film_notices), parts_of(request, speaker)
            if session is not None or len(parts) == 1:
                return stream_parts(parts, submit, remarks)
            # A name for this answer alone, so that its parts look at the film once.
            request = replace(request, session=make_session_id())
            return self._then_forget(request, stream_parts(parts_of(request, speaker), submit, remarks))

        events = answer_with(chosen, notices)
        return events if checkpoint is not None else self._or_another(events, chosen, task, answer_with)

    def _then_forget(
        self, request: GenerationRequest, events: Iterator[GenerationEvent]
    ) -> Iterator[GenerationEvent]:
        assert request.session is not None
        try:
            yield from events
        finally:
            self.forget(request.session)

    def in_words(self, task: Task, text: str = "", checkpoint: str | None = None) -> str:
        """What to ask for `task`: the checkpoint's exact words around `text`, or `text` where it has none."""
        return in_words(self._choose(task, checkpoint)[0], task, text)

    def read(self, data: bytes, session_key: bytes | None = None) -> Radiograph:
        """The radiograph in `data`; `session_key` lets films of one session be compared (see Radiograph)."""
        from cxr_assistant.imaging.read import read_radiograph

        return read_radiograph(data, session_key=session_key)

    def model_view(self, radiograph: Radiograph, name: str) -> ModelView:
        """The film as the checkpoint `name` sees it: its square of pixels, and where on the film they lie."""
        from cxr_assistant.imaging.model_view import model_view

        return model_view(radiograph, self.get_checkpoint(name).image)

    def frame_of(self, radiograph: Radiograph, name: str) -> Frame:
        """Where the square that the checkpoint `name` sees lies on the film; cheap."""
        from cxr_assistant.imaging.model_view import frame_of

        return frame_of(radiograph, self.get_checkpoint(name).image)

    def make_phantom(self, seed: int, **wishes: Any) -> Phantom:
        """A synthetic patient with known findings; `wishes` as in `imaging.phantom.make_phantom`."""
        from cxr_assistant.imaging.phantom import make_phantom

        return make_phantom(seed, **wishes)

    def order_phantom(
        self, seed: int, *, finding: str = "", side: str = "", severity: str = "", view: str = ""
    ) -> Phantom:
        """The synthetic patient that a person describes in words; an empty word is left to chance.

        `finding` is "none" or a kind of `phantom_menu`. Raises PhantomError for words that do not fit.
        """
        from cxr_assistant.imaging.phantom import FindingKind, FindingRequest, Severity, Side

        requests = None
        if finding:
            kinds = [] if finding == "none" else [_word(FindingKind, finding, "finding")]
            sides = _word(Side, side, "side") if side else None
            severities = _word(Severity, severity, "severity") if severity else None
            requests = [FindingRequest(kind, sides, severities) for kind in kinds]
        return self.make_phantom(
            seed, findings=requests, view=_word(ViewPosition, view, "view") if view else None
        )

    def phantom_menu(self) -> tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]:
        """Each finding that can be ordered: its name, its sides and its severities (either may be empty)."""
        from cxr_assistant.imaging.phantom import FindingKind, Side

        sides = tuple(side.value for side in Side)
        return tuple((k.value, sides if k.has_side else (), tuple(k.severities)) for k in FindingKind)

    def list_checkpoints(self) -> tuple[Checkpoint, ...]:
        return self._menu

    def get_checkpoint(self, name: str) -> Checkpoint:
        """The checkpoint of that name; raises UnknownCheckpoint listing the menu."""
        return find_by_name(self._menu, name)

    def is_ready(self, name: str) -> bool:
        """True when the checkpoint can answer without fetching or converting anything."""
        return name in self._worker.health().resident or self._store.is_ready(self.get_checkpoint(name))

    @property
    def may_fetch(self) -> bool:
        """Whether whoever sits in front of the page may add models to this machine."""
        return self._store.may_fetch

    def fetch_plan(self, name: str) -> FetchPlan:
        """What `fetch` would download and write; raises DownloadFailed, MissingWeights, UnknownCheckpoint."""
        return self._store.plan(self.get_checkpoint(name))

    def is_licence_accepted(self, name: str) -> bool:
        return self._store.is_licence_accepted(self.get_checkpoint(name))

    def accept_licence(self, name: str) -> None:
        """Remember that the terms of this checkpoint, as its card shows them, were accepted."""
        self._store.accept_licence(self.get_checkpoint(name))

    def fetch(self, name: str, on_progress: OnProgress, is_cancelled: IsCancelled = never_cancelled) -> None:
        """Download, verify and convert; returns when the checkpoint can answer.

        Raises: LicenceNotAccepted, DownloadFailed, NotEnoughDisk, CorruptWeights, WeightsMismatch.
        """
        self._store.fetch(self.get_checkpoint(name), on_progress, is_cancelled)

    def list_fits(self, name: str) -> tuple[Fit, ...]:
        """What each precision needs against what was free when the engine last said; empty before that."""
        from cxr_assistant.models.precision import Footprint, list_fits

        device, checkpoint = self._worker.health().device, self.get_checkpoint(name)
        return list_fits(Footprint.estimate(checkpoint.num_parameters), device) if device else ()

    def warm_up(self, checkpoint: str | None = None) -> None:
        """Load a checkpoint before the first question is asked."""
        self._worker.load(checkpoint or self.checkpoint)

    def forget(self, session: str) -> None:
        """Free what the engine keeps of a visitor's films and words; for the end of a session."""
        self._worker.forget(session)

    def publish(self, radiograph: Radiograph) -> None:
        """Everybody may see this film, a bundled example: what a tower makes of it is kept once for all."""
        self._public_films |= {radiograph.digest}

    def health(self) -> Health:
        return self._worker.health()

    def close(self) -> None:
        self._worker.close()

    def __enter__(self) -> Assistant:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _choose(self, task: Task, choice: str | None) -> tuple[Checkpoint, tuple[Notice, ...]]:
        chosen = self.get_checkpoint(choice or self.checkpoint)
        if task in chosen.tasks:
            return chosen, ()
        if choice is None and (other := self._trained_for(task)):
            text = f"{other.title} answers: {chosen.title} was not trained to {deed(task)}."
            return other, (Notice(text, code="model-chosen"),)
        if task in _NEEDS_BOXES or task is Task.PROGRESSION:
            raise UnsupportedTask(
                f"{chosen.title} was not trained to {deed(task)}; its tasks: {task_names(chosen)}.",
                hint=self._others(task, f"to {deed(task)}"),
            )
        what = "question" if task is Task.QUESTION else "request"
        text = f"{chosen.title} was trained for {trained_for(chosen)}; this {what} is outside that."
        return chosen, (Notice(text, code="outside-training"),)

    def _trained_for(self, task: Task) -> Checkpoint | None:
        """A checkpoint that can do `task` now: one in memory before one on disk, never one to be fetched."""
        able = [
            c
            for c in self._menu
            if task in c.tasks and not c.phantoms_only and self._store.is_licence_accepted(c)
        ]
        resident = self._worker.health().resident
        in_memory = next((c for c in able if c.name in resident), None)
        return in_memory or next((c for c in able if self._store.is_ready(c)), None)

    def _or_another(
        self,
        events: Iterator[GenerationEvent],
        chosen: Checkpoint,
        task: Task,
        answer_with: Callable[[Checkpoint, tuple[Notice, ...]], Iterator[GenerationEvent]],
    ) -> Iterator[GenerationEvent]:
        """`events`; where nobody chose the model and it declines the film, those of one that reads films."""
        try:
            yield from events
        except ForeignImage:
            other = self._trained_for(task)
            if other is None:
                raise
            text = (
                f"{other.title} answers: {chosen.title} knows computed phantoms alone, and this film is none."
            )
            yield from answer_with(other, (Notice(text, code="model-chosen"),))

    def _submit(
        self, chosen: Checkpoint, request: GenerationRequest, *, is_cancelled: IsCancelled
    ) -> Iterator[GenerationEvent]:
        try:
            yield from harmless(self._worker.submit(request, is_cancelled))
        except ForeignImage as error:
            raise ForeignImage(
                f"{chosen.title} knows computed phantoms alone, and this film is none: no report is written.",
                hint=self._others(request.task, "for real films"),
            ) from error

    def _others(self, task: Task, purpose: str) -> str:
        """A hint that names the checkpoints to choose instead."""
        real = [c for c in self._menu if not c.phantoms_only]
        able = [c for c in real if task in c.tasks] or real
        if not able:
            return "No other checkpoint is on the menu."
        return f"Choose {' or '.join(f'{c.title} ({c.name})' for c in able)} {purpose}."


def make_session_id() -> str:
    """A name for one visitor that nobody can guess; see `Assistant.respond` and `Assistant.forget`."""
    return secrets.token_hex(16)


def make_session_key() -> bytes:
    """32 random bytes that tie the films of one session together and mean nothing outside of it."""
    return secrets.token_bytes(32)


def read_study(
    *films: str | Path | bytes, prior: Sequence[str | Path | bytes] = (), indication: str = ""
) -> Study:
    """A study of the radiographs in `films` (paths or contents), with its prior.

    Raises: StudyError; MissingRadiograph for a path where no readable file is.
    """
    from cxr_assistant.imaging.read import read_radiograph

    key = make_session_key()

    def gather(sources: Sequence[str | Path | bytes]) -> Study:
        contents = (s if isinstance(s, bytes) else _content(Path(s)) for s in sources)
        return Study(tuple(read_radiograph(content, session_key=key) for content in contents))

    study = gather(films).with_indication(indication)
    return study.with_prior(gather(prior)) if prior else study


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        # The path may name a patient: it stays out of the sentence.
        raise MissingRadiograph(
            "One of the given paths is no file that can be read.", hint="Check the paths of the study."
        ) from error


def _word(words: type[_Words], value: str, what: str) -> _Words:
    if value not in set(words):
        raise PhantomError(f"The {what} is {value!r}; allowed: {', '.join(words)}.")
    return words(value)
