"""The handlers of the page: each takes a visitor's session, calls one verb, and says what is drawn again.

Knows Gradio's events and every panel's verbs; wires nothing (app.py). Holds no visitor's data: what belongs
to a visitor is the immutable `Session` in `gr.State`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import gradio as gr

from cxr_assistant.assistant import Assistant
from cxr_assistant.imaging.rendering import encode_png
from cxr_assistant.study import Radiograph
from cxr_assistant.ui import cards, transcript, viewbox
from cxr_assistant.ui.asking import Inquiry
from cxr_assistant.ui.chat import Chat
from cxr_assistant.ui.decoding import LIMITS
from cxr_assistant.ui.examples import Example
from cxr_assistant.ui.exchange import Verdict
from cxr_assistant.ui.fetching import Fetcher, FetchView
from cxr_assistant.ui.hanging import Hanging
from cxr_assistant.ui.session import Session
from cxr_assistant.ui.study_panel import StudyPanel
from cxr_assistant.ui.switchboard import Switchboard
from cxr_assistant.ui.web import film_url

__all__ = ["ReadingRoom"]


class ReadingRoom:
    """One for the process; whoever asks is named by Gradio's session hash."""

    def __init__(self, assistant: Assistant, examples: Sequence[Example] = ()) -> None:
        self._assistant = assistant
        self.switchboard = self._switchboard = Switchboard()
        self._chat = Chat(assistant, self._switchboard)
        self.fetches = self._fetches = Switchboard()
        self._fetcher = Fetcher(assistant, self._fetches)
        self._study = StudyPanel(assistant, examples)
        self._offers = [
            {"id": str(n), "title": example.title, "picture": f"example/{n}"}
            for n, example in enumerate(examples)
        ]

    # Streams: they draw the chat alone, so no film is sent while text flows.

    def send(
        self, session: Session, hanging: Hanging, event: gr.EventData, request: gr.Request
    ) -> Iterator[Any]:
        session = session.showing(hanging.shown)
        yield from self._stream(self._chat.send(session, _visitor(request), _inquiry(event)))

    def retry(
        self, session: Session, hanging: Hanging, event: gr.EventData, request: gr.Request
    ) -> Iterator[Any]:
        session = session.showing(hanging.shown)
        yield from self._stream(self._chat.retry(session, _visitor(request), _inquiry(event)))

    def edit(
        self, session: Session, hanging: Hanging, event: gr.EventData, request: gr.Request
    ) -> Iterator[Any]:
        number, session = _number(event, "number"), session.showing(hanging.shown)
        yield from self._stream(self._chat.edit(session, _visitor(request), number, _inquiry(event)))

    def answer(self, session: Session, hanging: Hanging, request: gr.Request) -> Iterator[Any]:
        session = session.showing(hanging.shown)
        yield from self._stream(self._chat.answer(session, _visitor(request)))

    def fetch(self, event: gr.EventData, request: gr.Request) -> Iterator[Any]:
        # Draws its own sheet and touches no session: the conversation goes on beside it.
        for view in self._fetcher.fetch(_text(event, "name"), _visitor(request)):
            yield self.fetch_view(view)

    # Quick verbs.

    def plan(self, event: gr.EventData) -> Any:
        return self.fetch_view(self._fetcher.plan(_text(event, "name")))

    def stop_fetch(self, request: gr.Request) -> None:
        self._fetcher.stop(_visitor(request))

    def stop(self, request: gr.Request) -> None:
        self._chat.stop(_visitor(request))

    def leave(self, request: gr.Request) -> None:
        """The tab was closed: whatever is being written ends."""
        self._switchboard.dismiss(_visitor(request))
        self._fetches.dismiss(_visitor(request))

    def undo(self, session: Session, request: gr.Request) -> Any:
        session = self._chat.undo(session, _visitor(request))
        return session, self.chat_view(session)

    def settle(self, session: Session, request: gr.Request) -> Any:
        """The page has lost its connection in the middle of an answer, and is back."""
        session = self._interrupted(session, request)
        return session, self.chat_view(session)

    def judge(self, session: Session, event: gr.EventData) -> Any:
        verdict = _text(event, "verdict")
        if verdict in set(Verdict):
            session = session.judge(_number(event, "number"), Verdict(verdict))
        return session, self.chat_view(session)

    def add(self, session: Session, hanging: Hanging, paths: list[str] | None, request: gr.Request) -> Any:
        opened, fates = self._study.add_uploads(self._interrupted(session, request), paths or [])
        return self._redrawn(self._after(session, opened), hanging, request, fates)

    def example(self, session: Session, hanging: Hanging, event: gr.EventData, request: gr.Request) -> Any:
        opened = self._study.add_example(self._interrupted(session, request), _text(event, "id"))
        for film in opened.films:  # everybody may see these: what a tower makes of them is kept once for all
            self._assistant.publish(film)
        return self._redrawn(self._after(session, opened), hanging, request)

    def prior(self, session: Session, hanging: Hanging, event: gr.EventData, request: gr.Request) -> Any:
        marked = self._interrupted(session, request).with_prior(_text(event, "digest"))
        return self._redrawn(marked, hanging, request)

    def current(self, session: Session, hanging: Hanging, request: gr.Request) -> Any:
        return self._redrawn(self._interrupted(session, request).without_prior(), hanging, request)

    def remove(self, session: Session, hanging: Hanging, event: gr.EventData, request: gr.Request) -> Any:
        left = self._interrupted(session, request).without_film(_text(event, "digest"))
        return self._redrawn(left, hanging, request)

    def clear(self, session: Session, hanging: Hanging, request: gr.Request) -> Any:
        cleared = self._interrupted(session, request).new_study()
        return self._redrawn(self._after(session, cleared), hanging, request)

    # Hanging: writes no session, so an answer goes on, and what was hung meanwhile stays hung.

    def pick(self, session: Session, hanging: Hanging, event: gr.EventData, request: gr.Request) -> Any:
        return self._hung(session, hanging.pick(_text(event, "digest")), request)

    def hang(self, session: Session, hanging: Hanging, event: gr.EventData, request: gr.Request) -> Any:
        return self._hung(session, hanging.hang(_text(event, "digest"), _number(event, "pane")), request)

    def activate(self, session: Session, hanging: Hanging, event: gr.EventData, request: gr.Request) -> Any:
        hanging = hanging.activate(_number(event, "pane"))
        return hanging, self.strip_view(session, hanging, _visitor(request))

    def pair(self, session: Session, hanging: Hanging, request: gr.Request) -> Any:
        return self._hung(session, hanging.pair(session), request)

    def move(self, session: Session, hanging: Hanging, event: gr.EventData, request: gr.Request) -> Any:
        hanging = hanging.move(_text(event, "digest"), _number(event, "place"))
        return hanging, self.strip_view(session, hanging, _visitor(request))

    def choose(self, session: Session, event: gr.EventData, request: gr.Request) -> Any:
        # An answer that goes on would put back the session it began with, and with it the old model.
        session = self._interrupted(session, request)
        session = self._study.choose(session, _text(event, "name"), _text(event, "precision"))
        return session, self.menu_view(session), self.chat_view(session)

    def make(self, session: Session, hanging: Hanging, event: gr.EventData, request: gr.Request) -> Any:
        wishes = {name: _text(event, name) for name in ("finding", "side", "severity", "view", "seed")}
        made = self._study.make(self._interrupted(session, request), wishes)
        return self._redrawn(self._after(session, made), hanging, request)

    def demonstrate(self, session: Session, hanging: Hanging, request: gr.Request) -> Any:
        made = self._study.demonstrate(self._interrupted(session, request))
        drawn = self._redrawn(self._after(session, made), hanging, request)
        return (*drawn, self.menu_view(made))

    # Views.

    def menu_view(self, session: Session) -> dict[str, Any]:
        menu = self._assistant.list_checkpoints()
        shelf = cards.Shelf(
            ready=self._ready(),
            may_fetch=self._assistant.may_fetch,
            fits={c.name: self._assistant.list_fits(c.name) for c in menu},
            precision=session.precision,
        )
        return {"html": cards.model_menu(menu, session.checkpoint, shelf), "choices": session.choices}

    def fetch_view(self, view: FetchView | None) -> dict[str, Any]:
        known = {c.name: c for c in self._assistant.list_checkpoints()}
        if view is None or view.checkpoint not in known:
            return cards.fetch_sheet(None, None, ())
        name = view.checkpoint
        sheet = cards.fetch_sheet(view, known[name], self._assistant.list_fits(name))
        # The page hears of changes only, and a sheet that was closed must come back when it is asked for.
        return {**sheet, "tick": time.monotonic()}

    def film_view(self, session: Session, hanging: Hanging, request: gr.Request) -> dict[str, Any]:
        return self.viewer_view(session, hanging, _visitor(request))

    def chat_view(self, session: Session, ready: frozenset[str] | None = None) -> dict[str, Any]:
        current = self._assistant.get_checkpoint(session.checkpoint)
        others = [c for c in self._assistant.list_checkpoints() if c.name != current.name]
        return transcript.chat_view(session, current, others, self._ready() if ready is None else ready)

    def viewer_view(self, session: Session, hanging: Hanging, visitor: str) -> dict[str, Any]:
        current = self._assistant.get_checkpoint(session.checkpoint)
        url_of, frame_of = partial(_url_of, session, visitor), self._assistant.frame_of
        hung = viewbox.viewer_view(session, hanging, current, url_of=url_of, frame_of=frame_of)
        return {**hung, "examples": [] if hung["panes"] else self._offers}

    def picture_as_seen(self, film: Radiograph, name: str) -> bytes | None:
        """A PNG of the film as the checkpoint `name` sees it; None when there is no such checkpoint."""
        if name not in {c.name for c in self._assistant.list_checkpoints()}:
            return None
        return encode_png(self._assistant.model_view(film, name).pixels)

    def example_picture(self, number: int) -> bytes | None:
        return self._study.example_picture(number)

    def strip_view(
        self, session: Session, hanging: Hanging, visitor: str, fates: Sequence[viewbox.Fate] = ()
    ) -> dict[str, Any]:
        strip = viewbox.strip_view(session, hanging, url_of=partial(_url_of, session, visitor), fates=fates)
        # The page hears of changes only, and two uploads may fare alike.
        return {**strip, "tick": time.monotonic() if fates else 0}

    def _redrawn(
        self,
        session: Session,
        hanging: Hanging,
        request: gr.Request,
        fates: Sequence[viewbox.Fate] = (),
    ) -> tuple[Any, ...]:
        """The study changed: what hangs follows it, and everything is drawn again."""
        visitor, hanging = _visitor(request), hanging.follow(session)
        viewer = self.viewer_view(session, hanging, visitor)
        strip = self.strip_view(session, hanging, visitor, fates)
        return session, hanging, viewer, strip, self.chat_view(session)

    def _hung(self, session: Session, hanging: Hanging, request: gr.Request) -> tuple[Any, ...]:
        visitor = _visitor(request)
        viewer, strip = (view(session, hanging, visitor) for view in (self.viewer_view, self.strip_view))
        return hanging, viewer, strip

    def _interrupted(self, session: Session, request: gr.Request) -> Session:
        self._switchboard.dismiss(_visitor(request))
        return session.stopped()

    def _after(self, before: Session, session: Session) -> Session:
        """`session`, after the engine was told to forget a study that it has replaced."""
        if before.name != session.name:
            self._assistant.forget(before.name)
        return session

    def _stream(self, sessions: Iterator[Session]) -> Iterator[Any]:
        ready = self._ready()  # asks the disk: once for an answer, not at each of its words
        for session in sessions:
            yield session, self.chat_view(session, ready)

    def _ready(self) -> frozenset[str]:
        names = (c.name for c in self._assistant.list_checkpoints())
        return frozenset(name for name in names if self._assistant.is_ready(name))


def _url_of(session: Session, visitor: str, film: Radiograph, kind: str) -> str:
    return film_url(session, visitor, film.digest, kind)


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash or "")


def _text(event: gr.EventData, name: str) -> str:
    """A text that the page sent along; anything else counts as empty."""
    value = (event._data or {}).get(name, "")
    return value if isinstance(value, str) else ""


def _flag(event: gr.EventData, name: str) -> bool:
    return (event._data or {}).get(name) is True


def _inquiry(event: gr.EventData) -> Inquiry:
    """A question with all that stood in the composer."""
    return Inquiry(
        task=_text(event, "task"),
        prompt=_text(event, "prompt"),
        indication=_text(event, "indication"),
        decoding={name: _text(event, name) for name in LIMITS},
        rival=_text(event, "rival"),
        is_blind=_flag(event, "is_blind"),
        in_steps=_flag(event, "in_steps"),
    )


def _number(event: gr.EventData, name: str) -> int:
    value = (event._data or {}).get(name, -1)
    return value if isinstance(value, int) else -1
