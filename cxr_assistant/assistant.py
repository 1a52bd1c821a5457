"""The one front desk: a study, a conversation and a task go in, a stream of events comes out.

It knows what each checkpoint was made for and says so in notices; it must not know torch, Gradio or how
an answer is computed. Wrong input is refused before the worker is asked.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cxr_assistant.checkpoints.spec import Checkpoint, list_checkpoints
from cxr_assistant.conversation import Conversation, Role
from cxr_assistant.errors import (
    ForeignImage,
    GenerationError,
    MissingRadiograph,
    SettingsError,
    UnknownCheckpoint,
    UnsupportedTask,
)
from cxr_assistant.generation import (
    Completed,
    GenerationEvent,
    GenerationRequest,
    IsCancelled,
    Notice,
    SamplingParams,
    never_cancelled,
)
from cxr_assistant.settings import Settings, read_settings
from cxr_assistant.study import Radiograph, Study
from cxr_assistant.tasks import Task

if TYPE_CHECKING:
    from cxr_assistant.engine.worker import Health, Worker
    from cxr_assistant.imaging.phantom import Phantom

__all__ = ["GREEDY", "Assistant", "is_converted", "load", "make_session_key", "read_study"]

GREEDY = SamplingParams()
_NEEDS_BOXES = frozenset({Task.GROUNDING, Task.DETECTION})


class Assistant:
    """Answers requests about studies with the checkpoints of the menu; holds nothing about any person."""

    def __init__(
        self,
        worker: Worker,
        *,
        checkpoint: str = "embedded",
        menu: Sequence[Checkpoint] | None = None,
        is_ready: Callable[[Checkpoint], bool] = lambda _: False,
    ) -> None:
        """`checkpoint` speaks when nobody chooses; `is_ready` tells whether weights are on this machine."""
        self._worker = worker
        self._menu = tuple(list_checkpoints() if menu is None else menu)
        self._is_ready = is_ready
        self.checkpoint = self.get_checkpoint(checkpoint).name

    def respond(
        self,
        study: Study,
        conversation: Conversation,
        task: Task,
        params: SamplingParams = GREEDY,
        *,
        checkpoint: str | None = None,
        is_cancelled: IsCancelled = never_cancelled,
    ) -> Iterator[GenerationEvent]:
        """Events of one answer: notices first, then what the worker streams; the last is Completed.

        `checkpoint` is a person's explicit choice and is kept. Without one the default speaks, or, where it
        was not trained for `task`, a ready checkpoint that was (never the embedded model: it knows phantoms
        only). Without a question at the end of `conversation` the checkpoint's own words for the task are
        asked.

        Raises: MissingRadiograph, UnsupportedTask, UnknownCheckpoint at once; ForeignImage and what the
        worker raises while the events are read.
        """
        chosen, choice_notices = self._choose(task, checkpoint)
        usable, film_notices = _fit(study, chosen, task)
        request = GenerationRequest(
            checkpoint=chosen.name,
            task=task,
            study=usable,
            conversation=_in_words(conversation, chosen, task),
            params=params,
        )
        return self._stream(chosen, (*choice_notices, *film_notices), request, is_cancelled)

    def in_words(self, task: Task, text: str = "", checkpoint: str | None = None) -> str:
        """What to ask for `task`: the checkpoint's exact words around `text`, or `text` where it has none."""
        wording = self._choose(task, checkpoint)[0].tasks.get(task)
        if wording is None:
            return text
        return wording.prompt.replace("{text}", text) if wording.needs_text else text or wording.prompt

    def read(self, data: bytes, session_key: bytes | None = None) -> Radiograph:
        """The radiograph in `data`; `session_key` lets films of one session be compared (see Radiograph)."""
        from cxr_assistant.imaging.read import read_radiograph

        return read_radiograph(data, session_key=session_key)

    def make_phantom(self, seed: int, **wishes: Any) -> Phantom:
        """A synthetic patient with known findings; `wishes` as in `imaging.phantom.make_phantom`."""
        from cxr_assistant.imaging.phantom import make_phantom

        return make_phantom(seed, **wishes)

    def list_checkpoints(self) -> tuple[Checkpoint, ...]:
        return self._menu

    def get_checkpoint(self, name: str) -> Checkpoint:
        """The checkpoint of that name; raises UnknownCheckpoint listing the menu."""
        for candidate in self._menu:
            if candidate.name == name:
                return candidate
        names = ", ".join(sorted(c.name for c in self._menu))
        raise UnknownCheckpoint(
            f"Unknown checkpoint {name!r}; available: {names}.", hint="Choose one of these."
        )

    def warm_up(self, checkpoint: str | None = None) -> None:
        """Load a checkpoint before the first question is asked."""
        self._worker.load(checkpoint or self.checkpoint)

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
            text = f"{other.title} answers: {chosen.title} was not trained to {_deed(task)}."
            return other, (Notice(text, code="model-chosen"),)
        if task in _NEEDS_BOXES or task is Task.PROGRESSION:
            raise UnsupportedTask(
                f"{chosen.title} was not trained to {_deed(task)}; its tasks: {_task_names(chosen)}.",
                hint=self._others(task, f"to {_deed(task)}"),
            )
        text = f"{chosen.title} was trained for {_task_names(chosen)}; this request is outside that."
        return chosen, (Notice(text, code="outside-training"),)

    def _trained_for(self, task: Task) -> Checkpoint | None:
        able = (c for c in self._menu if task in c.tasks and not c.phantoms_only)
        return next((c for c in able if self._is_ready(c)), None)

    def _stream(
        self,
        chosen: Checkpoint,
        notices: tuple[Notice, ...],
        request: GenerationRequest,
        is_cancelled: IsCancelled,
    ) -> Iterator[GenerationEvent]:
        yield from notices
        try:
            for event in self._worker.submit(request, is_cancelled):
                yield _signed(event, chosen)
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


def load(
    checkpoint: str | None = None,
    weights: str | Path | None = None,
    worker: Worker | str | None = None,
    settings: Settings | None = None,
) -> Assistant:
    """An assistant that can answer; torch is first imported when the worker loads a model.

    `weights` is the directory in which converted checkpoints are looked for. `worker` is "inline" (this
    process), "process" (a process of its own) or a ready worker; the environment decides when it is None.
    """
    settings = settings or read_settings()
    if weights is not None:
        settings = replace(settings, weights_dir=Path(weights))
    return Assistant(
        _make_worker(worker or settings.worker, settings),
        checkpoint=checkpoint or settings.checkpoint,
        is_ready=partial(is_converted, settings.weights_dir),
    )


def make_session_key() -> bytes:
    """32 random bytes that tie the films of one session together and mean nothing outside of it."""
    return secrets.token_bytes(32)


def read_study(
    *films: str | Path | bytes, prior: Sequence[str | Path | bytes] = (), indication: str = ""
) -> Study:
    """A study of the radiographs in `films` (paths or contents), with its prior; raises StudyError."""
    from cxr_assistant.imaging.read import read_radiograph

    key = make_session_key()

    def gather(sources: Sequence[str | Path | bytes]) -> Study:
        contents = (s if isinstance(s, bytes) else Path(s).read_bytes() for s in sources)
        return Study(tuple(read_radiograph(content, session_key=key) for content in contents))

    study = gather(films).with_indication(indication)
    return study.with_prior(gather(prior)) if prior else study


def _make_worker(worker: Worker | str, settings: Settings) -> Worker:
    from cxr_assistant.engine.worker import InlineWorker, ProcessWorker

    if not isinstance(worker, str):
        return worker
    kinds: dict[str, Callable[[Callable[[], Any]], Worker]] = {
        "inline": InlineWorker,
        "process": ProcessWorker,
    }
    if worker not in kinds:
        raise SettingsError(f"worker is {worker!r}; allowed: inline, process.")
    return kinds[worker](partial(_make_service, settings))


def _make_service(settings: Settings) -> Any:
    # Top-level, so that a worker process can be handed it; the import brings torch and happens over there.
    from cxr_assistant.serving import make_service

    return make_service(settings)


def is_converted(weights_dir: Path, checkpoint: Checkpoint) -> bool:
    """True when `checkpoint` can be loaded without fetching anything."""
    if checkpoint.is_embedded:
        return True
    return (weights_dir / f"{checkpoint.name}-{checkpoint.revision[:12]}").is_dir()


def _fit(study: Study, checkpoint: Checkpoint, task: Task) -> tuple[Study, tuple[Notice, ...]]:
    """The part of `study` that `checkpoint` reads for `task`, and a notice for each film it does not."""
    if study.is_empty:
        raise MissingRadiograph(
            "There is no radiograph to look at yet.", hint="Add a chest radiograph first."
        )
    study, prior_notices = _fit_prior(study, checkpoint, task)
    room = max(checkpoint.max_images - (1 if study.prior else 0), 1)
    readable = [r for r in study.radiographs if r.view in checkpoint.views or not r.view.is_lateral]
    if not readable:
        raise MissingRadiograph(
            f"{checkpoint.title} reads frontal radiographs; this study holds lateral ones only.",
            hint="Add the PA or AP radiograph of the study.",
        )
    frontal_first = sorted(readable, key=lambda r: r.view.is_lateral)
    used = frontal_first[:room] if len(readable) > room else readable
    needed = checkpoint.tasks[task].num_images if task in checkpoint.tasks else 1
    if len(used) + (1 if study.prior else 0) < needed:
        raise MissingRadiograph(f"To {_deed(task)}, {needed} radiographs are needed; this study has fewer.")
    unused = [r for r in study.radiographs if r not in used]
    notices = tuple(_unused_film(r, checkpoint) for r in unused)
    return replace(study, radiographs=tuple(used)), (*notices, *prior_notices)


def _fit_prior(study: Study, checkpoint: Checkpoint, task: Task) -> tuple[Study, tuple[Notice, ...]]:
    if study.prior is None:
        if task is Task.PROGRESSION:
            raise MissingRadiograph(
                "A comparison needs a prior radiograph; this study has none.",
                hint="Add the earlier film as prior.",
            )
        return study, ()
    stranger: tuple[Notice, ...] = ()
    if study.prior_is_of_another_patient:
        text = (
            "The prior carries another patient identifier than the current study: check that it belongs here."
        )
        stranger = (Notice(text, code="stranger-prior"),)
    if checkpoint.supports_prior and task is Task.PROGRESSION:
        frontal = study.prior.frontal or study.prior.radiographs[0]
        return replace(study, prior=replace(study.prior, radiographs=(frontal,))), stranger
    reason = (
        "this task looks at the current study"
        if checkpoint.supports_prior
        else "it was not trained to compare"
    )
    unused = Notice(f"The prior was not used by {checkpoint.title}: {reason}.", code="unused-prior")
    return replace(study, prior=None), (*stranger, unused)


def _unused_film(radiograph: Radiograph, checkpoint: Checkpoint) -> Notice:
    count = "one radiograph" if checkpoint.max_images == 1 else f"{checkpoint.max_images} radiographs"
    if radiograph.view.is_lateral:
        kind = (
            count
            if radiograph.view in checkpoint.views
            else count.replace("radiograph", "frontal radiograph")
        )
        return Notice(
            f"{checkpoint.title} reads {kind}; the lateral view was not used.", code="unused-lateral"
        )
    return Notice(f"{checkpoint.title} reads {count}; a further film was not used.", code="unused-film")


def _in_words(conversation: Conversation, checkpoint: Checkpoint, task: Task) -> Conversation:
    """`conversation` ending in a question: the person's, or the checkpoint's own words for `task`."""
    if conversation.turns and conversation.turns[-1].role is Role.USER and conversation.last_question.strip():
        return conversation
    wording = checkpoint.tasks.get(task)
    if wording is None or wording.needs_text:
        raise GenerationError(
            "The question is empty.", hint="Write what you want to know.", code="empty_question"
        )
    return conversation.ask(wording.prompt)


def _signed(event: GenerationEvent, checkpoint: Checkpoint) -> GenerationEvent:
    """Completed events always say which checkpoint spoke, at which revision."""
    if isinstance(event, Completed) and not event.checkpoint:
        return replace(event, checkpoint=checkpoint.name, revision=checkpoint.revision)
    return event


def _deed(task: Task) -> str:
    return task.title[0].lower() + task.title[1:]


def _task_names(checkpoint: Checkpoint) -> str:
    return ", ".join(task.value for task in checkpoint.tasks)
