"""The study on the viewbox: films come in, are shown, are taken down; synthetic patients are made.

Knows the assistant's reader and generator, and the session; draws nothing and wires nothing. A file's name
is never used, and its bytes are gone from the disk as soon as they were read.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_assistant.assistant import Assistant
from cxr_assistant.errors import CxrAssistantError, PhantomError, UnknownCheckpoint
from cxr_assistant.tasks import Task
from cxr_assistant.ui.examples import Example
from cxr_assistant.ui.exchange import KnownFinding, Problem, Truth
from cxr_assistant.ui.precomputed import recall
from cxr_assistant.ui.session import MAX_FILMS, Session
from cxr_assistant.ui.viewbox import Fate, film_facts
from cxr_assistant.ui.viewer.film import thumbnail

if TYPE_CHECKING:
    from cxr_assistant.imaging.phantom import Phantom, PhantomFinding

__all__ = ["StudyPanel", "truth_of"]

MAX_SEED_DIGITS = 9  # as many as the form lets a person type

_log = logging.getLogger(__name__)
_UNREADABLE = Problem("The file could not be read.", "Try another export of the film.", "unreadable")
_LOST = Problem("The file did not arrive whole.", "Add it again.", "upload_lost")
_FULL = Problem(f"A study holds up to {MAX_FILMS} films here.", "Take one down first.", "study_full")
_ALREADY = Fate("already", "This film is on the viewbox already.")


class StudyPanel:
    """Verbs over the study of any visitor; holds the assistant and the list of examples, nothing else."""

    def __init__(self, assistant: Assistant, examples: Sequence[Example] = ()) -> None:
        self._assistant = assistant
        self._examples = tuple(examples)
        # The bundled films are public: their small pictures are kept, and are nobody's.
        self.example_picture = cache(self._example_picture)

    def add_uploads(self, session: Session, paths: Sequence[str]) -> tuple[Session, tuple[Fate, ...]]:
        """The session with every film that could be read, and what became of each file, in their order.

        A single file that is refused is a card in the chat. A person's film never joins a synthetic
        patient: it opens a study of its own.
        """
        opened = session if session.truth is None else session.new_study()
        before, fates, problem = len(opened.films), [], None
        for number, path in enumerate(paths):
            if path in paths[:number]:  # equal files arrive once, and the first of them was taken
                fates.append(_ALREADY)
                continue
            grown, problem = self._add(opened, _take(Path(path)))
            fates.append(_fate(opened, grown, problem))
            opened = grown
        if session.truth is not None and len(opened.films) == before:
            opened = session
        if problem is not None and len(paths) == 1:
            opened = opened.remark(problem)
        return opened, tuple(fates)

    def add_example(self, session: Session, number: str) -> Session:
        """A new study with the films of one of the bundled examples, and the answers that it brings along; an
        unknown one changes nothing."""
        if number not in map(str, range(len(self._examples))):
            return session
        session = session.new_study()
        for path in self._examples[int(number)].films:
            session, problem = self._add(session, path.read_bytes())
            session = session.remark(problem) if problem else session
        if not session.study.radiographs:
            return session
        shown = session.showing(session.study.radiographs[0].digest)
        return recall(shown, self._examples[int(number)].answers, self._revision_of)

    def _revision_of(self, name: str) -> str | None:
        return next((c.revision for c in self._assistant.list_checkpoints() if c.name == name), None)

    def _example_picture(self, number: int) -> bytes | None:
        """A small PNG of an example's first film; None when there is no such example."""
        if number >= len(self._examples):
            return None
        try:
            return thumbnail(self._assistant.read(self._examples[number].films[0].read_bytes()))
        except (CxrAssistantError, OSError):
            return None

    def make(self, session: Session, wishes: Mapping[str, str]) -> Session:
        """A new study with a synthetic film, and the question for findings waiting for its answer."""
        try:
            phantom = self._assistant.order_phantom(
                _seed(wishes.get("seed", "")),
                finding=wishes.get("finding", ""),
                side=wishes.get("side", ""),
                severity=wishes.get("severity", ""),
                view=wishes.get("view", ""),
            )
        except CxrAssistantError as error:
            return session.remark(Problem.of(error))
        session = session.with_phantom(phantom.radiograph, truth_of(phantom))
        wording = self._assistant.get_checkpoint(session.checkpoint).tasks.get(Task.FINDINGS)
        return session.ask(Task.FINDINGS, wording.prompt) if wording else session

    def demonstrate(self, session: Session) -> Session:
        """The one-click demonstration: a synthetic patient, drafted by the model that knows such films."""
        menu = self._assistant.list_checkpoints()
        knows_phantoms = next((c.name for c in menu if c.phantoms_only), session.checkpoint)
        return self.make(session.choosing(knows_phantoms), {"view": "PA"})

    def choose(self, session: Session, name: str, precision: str = "") -> Session:
        """The session with another model; an unknown name becomes a card."""
        try:
            return session.choosing(self._assistant.get_checkpoint(name).name, precision)
        except UnknownCheckpoint as error:
            return session.remark(Problem.of(error))

    def _add(self, session: Session, content: bytes | None) -> tuple[Session, Problem | None]:
        """The session with one more film, or as it was and the reason."""
        if content is None:
            return session, _LOST
        if session.is_full:
            return session, _FULL
        try:
            return session.with_film(self._assistant.read(content, session.key)), None
        except CxrAssistantError as error:
            return session, Problem.of(error)
        except Exception as error:  # the outermost edge: the class is logged, never its text
            _log.error("reading failed: %s", type(error).__name__)
            return session, _UNREADABLE


def _fate(before: Session, after: Session, problem: Problem | None) -> Fate:
    if problem is not None:
        return Fate("refused", f"{problem.message} {problem.hint}".strip())
    if len(after.films) == len(before.films):
        return _ALREADY
    return Fate("added", film_facts(after.study.radiographs[-1]))


def truth_of(phantom: Phantom) -> Truth:
    """What the generator knows of its film, in words."""
    return Truth(
        seed=phantom.seed,
        view=phantom.view.value,
        report=phantom.report,
        findings=tuple(_known(finding) for finding in phantom.findings),
    )


def _known(finding: PhantomFinding) -> KnownFinding:
    details: list[Any] = [finding.severity, finding.side]
    zone = f", {finding.zone} zone" if finding.zone else ""
    words = " ".join([*(str(d) for d in details if d), str(finding.kind).replace("-", " ")]) + zone
    return KnownFinding(words[0].upper() + words[1:], finding.box, finding.is_visible)


def _seed(text: str) -> int:
    if not text.strip():
        return secrets.randbelow(1_000_000)
    # Bounded before int(), which refuses thousands of digits with an error of its own.
    if not text.strip().isdecimal() or len(text.strip()) > MAX_SEED_DIGITS:
        raise PhantomError(
            f"The seed is not a whole number of up to {MAX_SEED_DIGITS} digits.",
            hint="Leave it empty for a random patient.",
        )
    return int(text)


def _take(path: Path) -> bytes | None:
    """The bytes of an upload, which is deleted at once; None when it is no longer there."""
    try:
        return path.read_bytes()
    except OSError:
        return None
    finally:
        path.unlink(missing_ok=True)
