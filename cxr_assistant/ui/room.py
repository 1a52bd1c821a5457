"""The handlers of the page: each takes a visitor's session, calls one verb, and says what is drawn again.

Knows Gradio's events and every panel's verbs; wires nothing (app.py). Holds no visitor's data: what belongs
to a visitor is the immutable `Session` in `gr.State`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from cxr_assistant.assistant import Assistant
from cxr_assistant.ui import cards, render, transcript
from cxr_assistant.ui.chat import Chat
from cxr_assistant.ui.examples import Example
from cxr_assistant.ui.fetching import Fetcher, FetchView
from cxr_assistant.ui.session import Session
from cxr_assistant.ui.study_panel import StudyPanel
from cxr_assistant.ui.switchboard import Switchboard
from cxr_assistant.ui.viewer.film import describe
from cxr_assistant.ui.web import film_url

__all__ = ["ReadingRoom"]


class ReadingRoom:
    """One for the process; whoever asks is named by Gradio's session hash."""

    def __init__(self, assistant: Assistant, examples: Sequence[Example] = ()) -> None:
        self._assistant = assistant
        self._switchboard = Switchboard()
        self._chat = Chat(assistant, self._switchboard)
        self._fetches = Switchboard()
        self._fetcher = Fetcher(assistant, self._fetches)
        self._study = StudyPanel(assistant, examples)
        self._offers = [
            {"id": str(n), "title": example.title, "picture": f"example/{n}"}
            for n, example in enumerate(examples)
        ]

    # Streams: they draw the chat alone, so no film is sent while text flows.

    def send(self, session: Session, event: gr.EventData, request: gr.Request) -> Iterator[Any]:
        said = {"task": _text(event, "task"), "prompt": _text(event, "prompt")}
        visitor = _visitor(request)
        yield from self._stream(
            self._chat.send(session, visitor, **said, indication=_text(event, "indication"))
        )

    def retry(self, session: Session, event: gr.EventData, request: gr.Request) -> Iterator[Any]:
        indication = _text(event, "indication")
        yield from self._stream(self._chat.retry(session, _visitor(request), indication=indication))

    def edit(self, session: Session, event: gr.EventData, request: gr.Request) -> Iterator[Any]:
        number = _number(event, "number")
        said = {"prompt": _text(event, "prompt"), "indication": _text(event, "indication")}
        yield from self._stream(self._chat.edit(session, _visitor(request), number=number, **said))

    def answer(self, session: Session, request: gr.Request) -> Iterator[Any]:
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

    def add(self, session: Session, paths: list[str] | None, request: gr.Request) -> Any:
        return self._redrawn(
            self._study.add_uploads(self._interrupted(session, request), paths or []), request
        )

    def example(self, session: Session, event: gr.EventData, request: gr.Request) -> Any:
        opened = self._study.add_example(self._interrupted(session, request), _text(event, "id"))
        return self._redrawn(opened, request)

    def pick(self, session: Session, event: gr.EventData, request: gr.Request) -> Any:
        return self._redrawn(session.showing(_text(event, "digest")), request)

    def prior(self, session: Session, event: gr.EventData, request: gr.Request) -> Any:
        marked = self._interrupted(session, request).with_prior(_text(event, "digest"))
        return self._redrawn(marked, request)

    def current(self, session: Session, request: gr.Request) -> Any:
        return self._redrawn(self._interrupted(session, request).without_prior(), request)

    def remove(self, session: Session, event: gr.EventData, request: gr.Request) -> Any:
        left = self._interrupted(session, request).without_film(_text(event, "digest"))
        return self._redrawn(left, request)

    def clear(self, session: Session, request: gr.Request) -> Any:
        return self._redrawn(self._interrupted(session, request).new_study(), request)

    def choose(self, session: Session, event: gr.EventData, request: gr.Request) -> Any:
        # An answer that goes on would put back the session it began with, and with it the old model.
        session = self._interrupted(session, request)
        session = self._study.choose(session, _text(event, "name"), _text(event, "precision"))
        return session, self.menu_view(session), self.chat_view(session)

    def make(self, session: Session, event: gr.EventData, request: gr.Request) -> Any:
        wishes = {name: _text(event, name) for name in ("finding", "side", "severity", "view", "seed")}
        return self._redrawn(self._study.make(self._interrupted(session, request), wishes), request)

    def demonstrate(self, session: Session, request: gr.Request) -> Any:
        session = self._study.demonstrate(self._interrupted(session, request))
        return (*self._redrawn(session, request), self.menu_view(session))

    # Views.

    def menu_view(self, session: Session) -> dict[str, str]:
        menu = self._assistant.list_checkpoints()
        shelf = cards.Shelf(
            ready=frozenset(c.name for c in menu if self._assistant.is_ready(c.name)),
            may_fetch=self._assistant.may_fetch,
            fits={c.name: self._assistant.list_fits(c.name) for c in menu},
            precision=session.precision,
        )
        return {"html": cards.model_menu(menu, session.checkpoint, shelf)}

    def fetch_view(self, view: FetchView | None) -> dict[str, Any]:
        known = {c.name: c for c in self._assistant.list_checkpoints()}
        if view is None or view.checkpoint not in known:
            return cards.fetch_sheet(None, None, ())
        name = view.checkpoint
        sheet = cards.fetch_sheet(view, known[name], self._assistant.list_fits(name))
        # The page hears of changes only, and a sheet that was closed must come back when it is asked for.
        return {**sheet, "tick": time.monotonic()}

    def film_view(self, session: Session, request: gr.Request) -> dict[str, Any]:
        return self.viewer_view(session, _visitor(request))

    def chat_view(self, session: Session) -> dict[str, Any]:
        current = self._assistant.get_checkpoint(session.checkpoint)
        others = [c for c in self._assistant.list_checkpoints() if c.name != current.name]
        return transcript.chat_view(session, current, others)

    def viewer_view(self, session: Session, visitor: str) -> dict[str, Any]:
        film, boxes = None, []
        if shown := session.shown_film:
            words = render.film_facts(shown), render.film_description(shown, session.truth)
            url = film_url(session, visitor, shown.digest, "pixels")
            film = {**describe(shown), "url": url, "facts": words[0], "description": words[1]}
            known = session.truth.findings if session.truth else ()
            boxes = [{**f.box.as_dict(), "label": f.words} for f in known if f.box]
            boxes += [{**g.box.as_dict(), "label": g.phrase, "by": "model"} for g in session.groundings]
        return {
            "film": film,
            "boxes": boxes,
            "examples": [] if film else self._offers,
            "tick": session.counter,
        }

    def example_picture(self, number: int) -> bytes | None:
        return self._study.example_picture(number)

    def strip_view(self, session: Session, visitor: str) -> str:
        films = session.films
        urls = {r.digest: film_url(session, visitor, r.digest, "thumbnail") for r in films}
        return render.study_strip(session, urls)

    def _redrawn(self, session: Session, request: gr.Request) -> tuple[Any, ...]:
        visitor = _visitor(request)
        viewer, strip = self.viewer_view(session, visitor), self.strip_view(session, visitor)
        return session, viewer, strip, self.chat_view(session)

    def _interrupted(self, session: Session, request: gr.Request) -> Session:
        self._switchboard.dismiss(_visitor(request))
        return session.stopped()

    def _stream(self, sessions: Iterator[Session]) -> Iterator[Any]:
        for session in sessions:
            yield session, self.chat_view(session)


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash or "")


def _text(event: gr.EventData, name: str) -> str:
    """A text that the page sent along; anything else counts as empty."""
    value = (event._data or {}).get(name, "")
    return value if isinstance(value, str) else ""


def _number(event: gr.EventData, name: str) -> int:
    value = (event._data or {}).get(name, -1)
    return value if isinstance(value, int) else -1
