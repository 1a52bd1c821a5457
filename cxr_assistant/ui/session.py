"""One visitor's visit as a value: the study on the viewbox, what was asked and what came back.

Knows the foundation's types and exchanges (exchange.py); knows no Gradio and no markup.
Every verb returns a new session, so undo is a slice and two visitors cannot share anything.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field, replace

from cxr_assistant.conversation import Conversation
from cxr_assistant.generation import (
    Completed,
    FinishReason,
    GenerationEvent,
    Grounding,
    SamplingParams,
    Usage,
)
from cxr_assistant.study import Radiograph, Study
from cxr_assistant.tasks import Task
from cxr_assistant.ui.decoding import Decoding
from cxr_assistant.ui.exchange import (
    Comparison,
    Exchange,
    Item,
    Phase,
    Problem,
    Remark,
    Step,
    Truth,
    Verdict,
)

__all__ = ["MAX_FILMS", "Session"]

MAX_FILMS = 8
_MAX_PASSING = 8  # remarks and questions without an answer that stay in the chat
_HELD_AGAINST_TRUTH = frozenset({Task.FINDINGS, Task.IMPRESSION, Task.REPORT, Task.SECTIONS})


@dataclass(frozen=True)
class Session:
    """What one visitor has in front of them. `key` hashes patients and dates, and never leaves the server.

    `shown` is the film that a verb of the study put up last, or that was in front of the person when they
    asked; what hangs where is a `Hanging`.
    """

    checkpoint: str
    precision: str = ""  # what the person asked for; empty is the best that fits
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    study: Study = field(default_factory=Study)
    log: tuple[Item, ...] = ()
    shown: str = ""
    truth: Truth | None = None
    counter: int = 0
    decoding: Decoding = field(default_factory=Decoding)
    # Rises with every choice of a model and with every new session: what was drawn before is out of date.
    choices: int = field(default_factory=lambda: time.monotonic_ns() // 10**6)

    # The study ---------------------------------------------------------------------------------

    def with_film(self, radiograph: Radiograph) -> Session:
        """The session with one more film, which is the one shown; a ninth film pushes nothing out."""
        if self.is_prior(radiograph.digest):
            return self.showing(radiograph.digest)
        return replace(
            self, study=self.study.with_radiograph(radiograph), shown=radiograph.digest, truth=None
        )

    def without_film(self, digest: str) -> Session:
        study = _without(self.study, digest)
        left = _films(study)
        shown = self.shown if self.shown != digest else (left[-1].digest if left else "")
        return replace(self, study=study, shown=shown, truth=self.truth if left else None)

    def with_prior(self, digest: str) -> Session:
        """The session with one of its current films as the prior, an earlier prior back among the current
        ones; nothing changes when no current film would be left."""
        film = next((r for r in self.study.radiographs if r.digest == digest), None)
        if film is None or len(self.study.radiographs) < 2:
            return self
        current = self.without_prior().study.without_radiograph(digest)
        return replace(self, study=current.with_prior(Study((film,))))

    def without_prior(self) -> Session:
        """The session with all of its films current."""
        return replace(self, study=replace(self.study, radiographs=self.films, prior=None))

    def is_prior(self, digest: str) -> bool:
        prior = self.study.prior
        return prior is not None and any(r.digest == digest for r in prior.radiographs)

    def showing(self, digest: str) -> Session:
        """The session with another of its films on the viewer; a digest that is not there changes nothing."""
        return replace(self, shown=digest) if self.film(digest) else self

    def with_phantom(self, radiograph: Radiograph, truth: Truth) -> Session:
        """A fresh study that holds this synthetic film and remembers its truth."""
        return replace(self.new_study().with_film(radiograph), truth=truth)

    def with_indication(self, indication: str) -> Session:
        return replace(self, study=self.study.with_indication(indication))

    def new_study(self) -> Session:
        """An empty room with the same model: new key, so nothing links one patient to the next."""
        return Session(
            self.checkpoint,
            self.precision,
            counter=self.counter,
            decoding=self.decoding,
            choices=self.choices,
        )

    def choosing(self, checkpoint: str, precision: str = "") -> Session:
        return replace(self, checkpoint=checkpoint, precision=precision, choices=self.choices + 1)

    @property
    def name(self) -> str:
        """Under which the engine keeps what it computed for this study; another study has another name."""
        return hmac.new(self.key, b"engine", hashlib.sha256).hexdigest()

    @property
    def films(self) -> tuple[Radiograph, ...]:
        """Every film of the visit, those of the prior last."""
        return _films(self.study)

    def film(self, digest: str) -> Radiograph | None:
        return next((r for r in self.films if r.digest == digest), None)

    @property
    def is_full(self) -> bool:
        return len(self.films) >= MAX_FILMS

    def film_token(self, digest: str) -> str:
        """The unguessable name under which this visitor, and nobody else, may fetch a film."""
        return hmac.new(self.key, digest.encode(), hashlib.sha256).hexdigest()

    def film_by_token(self, token: str) -> Radiograph | None:
        films, asked = self.films, token.encode()  # bytes: a URL's text need not be ASCII
        tokens = (self.film_token(film.digest).encode() for film in films)
        return next((f for f, t in zip(films, tokens, strict=True) if hmac.compare_digest(t, asked)), None)

    # The chat ----------------------------------------------------------------------------------

    def ask(
        self,
        task: Task,
        prompt: str,
        params: SamplingParams | None = None,
        *,
        checkpoint: str = "",
        steps: tuple[Step, ...] = (),
    ) -> Session:
        """The session with a question that waits for its answer; in `steps`, each is answered in turn."""
        exchange = self._exchange(task, prompt, params, checkpoint or self.checkpoint)
        return self._with(replace(exchange, steps=steps))

    def compare(
        self,
        task: Task,
        sides: tuple[tuple[str, str, SamplingParams], tuple[str, str, SamplingParams]],
        *,
        is_blind: bool,
    ) -> Session:
        """The session with one question to two models; each side is (checkpoint, prompt, params)."""
        one, other = (self._exchange(task, prompt, params, name) for name, prompt, params in sides)
        return self._with(Comparison(self.counter, (one, other), is_blind))

    def judge(self, number: int, verdict: Verdict) -> Session:
        """The session with a verdict on comparison `number`; nothing changes where there is none to give."""
        log = (
            item.judged(verdict) if isinstance(item, Comparison) and item.number == number else item
            for item in self.log
        )
        return replace(self, log=tuple(log))

    def remark(self, problem: Problem, *, is_error: bool = True) -> Session:
        return self._with(Remark(self.counter, problem, is_error))

    def heard(self, event: GenerationEvent, side: int = 0) -> Session:
        """The session one event later; nothing changes when no answer is open."""
        match self.open_item:
            case Exchange() as exchange:
                return self.with_last(exchange.after(event))
            case Comparison() as comparison if comparison.sides[side].is_open:
                return self.with_last(comparison.after(side, event))
        return self

    def failed(self, problem: Problem, side: int | None = None) -> Session:
        """The session after the open answer came to nothing; what was already written stays. Of a comparison
        one side fails, or both when none is named."""
        match self.open_item:
            case Exchange() as exchange:
                return self.with_last(_failed(exchange, problem))
            case Comparison() as comparison:
                for number in (0, 1) if side is None else (side,):
                    failed = _failed(comparison.sides[number], problem)
                    comparison = comparison.with_side(number, failed)
                return self.with_last(comparison)
        return self.remark(problem)

    def stopped(self) -> Session:
        """The session with an answer that ended without saying so closed as cancelled."""
        cancelled = Completed(FinishReason.CANCELLED, Usage())
        return self.heard(cancelled).heard(cancelled, side=1)

    def undo(self) -> Session:
        """The session before its last question, remarks that came after it included."""
        last = self.last_asked
        return self if last is None else self.before(last.number)

    def before(self, number: int) -> Session:
        """The session as it was when item `number` had not been said."""
        return replace(self, log=tuple(item for item in self.log if item.number < number))

    def groundings_on(self, digest: str) -> tuple[tuple[int, Grounding], ...]:
        """The boxes of the newest answer that has any, on one film, each with its number in that answer; a
        box without a film is on the first one."""
        found = next((e.groundings for e in reversed(self.exchanges) if e.groundings), ())
        first = self.films[0].digest if self.films else ""
        return tuple((n, g) for n, g in enumerate(found) if (g.digest or first) == digest)

    @property
    def asked(self) -> tuple[Exchange | Comparison, ...]:
        """All that was asked, remarks left out."""
        return tuple(item for item in self.log if not isinstance(item, Remark))

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """Every answer in order, both of a comparison unless that would tell who gave which."""
        found: list[Exchange] = []
        for item in self.asked:
            if isinstance(item, Exchange):
                found.append(item)
            elif not item.is_veiled:
                found.extend(item.sides)
        return tuple(found)

    @property
    def last_asked(self) -> Exchange | Comparison | None:
        return self.asked[-1] if self.asked else None

    @property
    def open_item(self) -> Exchange | Comparison | None:
        last = self.log[-1] if self.log else None
        return None if last is None or isinstance(last, Remark) or not last.is_open else last

    @property
    def open_exchange(self) -> Exchange | None:
        item = self.open_item
        return item if isinstance(item, Exchange) else None

    def conversation_for(self, checkpoint: str) -> Conversation:
        """What `checkpoint` is told: the answers that were finished, of a comparison its own one if it took
        part. The question that is open is not in it."""
        conversation = Conversation()
        for item in self.asked:
            exchange = item.said_by(checkpoint) if isinstance(item, Comparison) else item
            for question, answer in exchange.turns if exchange.counts else ():
                conversation = conversation.ask(question).answer(answer, exchange.checkpoint)
        return conversation

    def with_last(self, item: Exchange | Comparison) -> Session:
        """The session with `item` in the place of its last one."""
        return replace(self, log=(*self.log[:-1], item))

    def _with(self, item: Item) -> Session:
        return replace(self, log=(*_bounded(self.log), item), counter=self.counter + 1)

    def _exchange(self, task: Task, prompt: str, params: SamplingParams | None, checkpoint: str) -> Exchange:
        return Exchange(
            self.counter,
            task,
            prompt,
            checkpoint,
            truth=self.truth if task in _HELD_AGAINST_TRUTH else None,
            params=params or SamplingParams(),
            films=tuple(film.digest for film in self.films),
        )


def _failed(exchange: Exchange, problem: Problem) -> Exchange:
    return replace(exchange, phase=Phase.FAILED, problem=problem) if exchange.is_open else exchange


def _bounded(log: tuple[Item, ...]) -> tuple[Item, ...]:
    """Every answer, whose number has a limit of its own, and the newest of the rest: what is drawn anew with
    each word must not grow with every refusal."""
    passing = [item.number for item in log if not _is_answer(item)]
    leaving = set(passing[:-_MAX_PASSING])
    return tuple(item for item in log if item.number not in leaving)


def _is_answer(item: Item) -> bool:
    sides = item.sides if isinstance(item, Comparison) else (item,)
    return any(isinstance(side, Exchange) and side.counts for side in sides)


def _films(study: Study) -> tuple[Radiograph, ...]:
    return (*study.radiographs, *(study.prior.radiographs if study.prior else ()))


def _without(study: Study, digest: str) -> Study:
    """The study without one film; a prior that has nothing left to be compared with becomes current."""
    prior = study.prior.without_radiograph(digest) if study.prior else None
    current = study.without_radiograph(digest)
    if prior is None or prior.is_empty:
        return replace(current, prior=None)
    if current.is_empty:
        return replace(current, radiographs=prior.radiographs, prior=None)
    return replace(current, prior=prior)
