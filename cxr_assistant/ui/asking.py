"""From what the composer sends to a session with an open question: read, checked, and put in order.

Knows the session, the menu and what may be typed; answers nothing (chat.py) and draws nothing. What does not
make sense is refused with one of the project's errors.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cxr_assistant.assistant import Assistant
from cxr_assistant.errors import GenerationError, PromptTooLong, UnsupportedTask
from cxr_assistant.tasks import Task
from cxr_assistant.ui.decoding import Decoding
from cxr_assistant.ui.exchange import Comparison, Exchange
from cxr_assistant.ui.guided import plan_report, words_of
from cxr_assistant.ui.session import Session

if TYPE_CHECKING:
    from cxr_assistant.checkpoints.spec import Checkpoint

__all__ = ["MAX_INDICATION", "MAX_PROMPT", "Asking", "Inquiry", "clean"]

MAX_PROMPT = 2000
MAX_INDICATION = 300


@dataclass(frozen=True, kw_only=True)
class Inquiry:
    """What the page sends with a question, as it stood in the composer; nothing of it is checked yet.

    `rival` is the model to compare with, `in_steps` asks for a whole report step by step.
    """

    task: str = Task.QUESTION.value
    prompt: str = ""
    indication: str = ""
    decoding: Mapping[str, str] = field(default_factory=dict)
    rival: str = ""
    is_blind: bool = False
    in_steps: bool = False


class Asking:
    """Verbs that open a question; holds the assistant, whose menu it reads, and nothing else."""

    def __init__(self, assistant: Assistant) -> None:
        self._assistant = assistant

    def new(self, session: Session, inquiry: Inquiry) -> Session:
        """The session with a new question. Raises GenerationError, PromptTooLong, UnknownCheckpoint."""
        session = _settled(session, inquiry)
        if inquiry.in_steps:
            return self._in_steps(session)
        task, prompt = _task(inquiry.task), clean(inquiry.prompt, MAX_PROMPT)
        if inquiry.rival and inquiry.rival != session.checkpoint:
            names = (session.checkpoint, inquiry.rival)
            return self._compare(session, task, prompt, names, is_blind=inquiry.is_blind)
        return self._ask(session, task, prompt)

    def again(self, session: Session, inquiry: Inquiry) -> Session:
        """The last question asked again, of the model that is chosen now."""
        last = session.last_asked
        session = _settled(session, inquiry)
        return session if last is None else self._repeat(session, last, last.prompt)

    def edited(self, session: Session, number: int, inquiry: Inquiry) -> Session:
        """Question `number` in other words; what was said after it is taken back."""
        old = next((item for item in session.asked if item.number == number), None)
        session = _settled(session, inquiry)
        return session if old is None else self._repeat(session, old, clean(inquiry.prompt, MAX_PROMPT))

    def _repeat(self, session: Session, old: Exchange | Comparison, prompt: str) -> Session:
        session = session.before(old.number)
        if isinstance(old, Comparison):
            one, other = old.sides
            names = (one.checkpoint, other.checkpoint)
            return self._compare(session, old.task, prompt, names, is_blind=old.is_blind)
        return self._in_steps(session) if old.steps else self._ask(session, old.task, prompt)

    def _ask(self, session: Session, task: Task, prompt: str) -> Session:
        return session.ask(task, prompt, session.decoding.params(self._chosen(session)))

    def _in_steps(self, session: Session) -> Session:
        chosen = self._chosen(session)
        steps = plan_report(chosen, session.study, session.shown)
        if not steps:
            raise UnsupportedTask(
                f"{chosen.title} was not trained to write a report.", hint="Choose another model."
            )
        return session.ask(Task.REPORT, words_of(steps), session.decoding.params(chosen), steps=steps)

    def _compare(
        self, session: Session, task: Task, prompt: str, names: tuple[str, str], *, is_blind: bool
    ) -> Session:
        """One question to two models. Words that are one model's own for this task become the other's own,
        so that each is asked as it was trained; any other words are the same for both."""
        pair = [self._assistant.get_checkpoint(name) for name in names]
        if is_blind and secrets.randbelow(2):
            pair.reverse()
        own = {c.tasks[task].prompt for c in pair if task in c.tasks}
        one, other = (
            (c.name, c.tasks[task].prompt if prompt in own and task in c.tasks else prompt, c) for c in pair
        )
        decoding = _drawn(session.decoding)
        sides = (
            (one[0], one[1], decoding.params(one[2])),
            (other[0], other[1], decoding.params(other[2])),
        )
        return session.compare(task, sides, is_blind=is_blind)

    def _chosen(self, session: Session) -> Checkpoint:
        return self._assistant.get_checkpoint(session.checkpoint)


def clean(text: str, longest: int) -> str:
    """`text` without control characters and outer space; raises GenerationError when empty or too long."""
    kept = "".join(c for c in text if c == "\n" or c.isprintable()).strip()
    if not kept:
        raise GenerationError(
            "The question is empty.", hint="Write what you want to know.", code="empty_question"
        )
    if len(kept) > longest:
        raise PromptTooLong(
            f"The question has {len(kept)} characters; allowed: {longest}.", hint="Shorten it."
        )
    return kept


def _settled(session: Session, inquiry: Inquiry) -> Session:
    """The session with the newest indication and settings, and no question left open."""
    printable = "".join(c if c.isprintable() else " " for c in inquiry.indication)
    settled = session.stopped().with_indication(printable[:MAX_INDICATION])
    return replace(settled, decoding=Decoding.read(inquiry.decoding))


def _drawn(decoding: Decoding) -> Decoding:
    """The same seed for both sides of a comparison, drawn once where it is left to chance."""
    if decoding.is_greedy or decoding.seed is not None:
        return decoding
    return replace(decoding, seed=secrets.randbelow(1_000_000))


def _task(name: str) -> Task:
    if name not in set(Task):
        raise GenerationError(
            "This task is not known.", hint="Use one of the task buttons.", code="unknown_task"
        )
    return Task(name)
