"""The wiring of the app: which panel's event calls which verb, and which panels are drawn again.

Knows Gradio and every other module of this room. Holds no visitor's data: what belongs to a visitor is the
immutable `Session` in `gr.State`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import gradio as gr

from cxr_assistant.assistant import Assistant
from cxr_assistant.settings import Settings
from cxr_assistant.ui import cards, render
from cxr_assistant.ui.chat import Chat
from cxr_assistant.ui.examples import Example, read_examples
from cxr_assistant.ui.fetching import Fetcher, FetchView
from cxr_assistant.ui.session import Session
from cxr_assistant.ui.study_panel import StudyPanel
from cxr_assistant.ui.switchboard import Switchboard
from cxr_assistant.ui.viewer import read_asset, viewer_script, viewer_template
from cxr_assistant.ui.viewer.film import describe
from cxr_assistant.ui.web import example_routes, film_routes, film_url, make_upload_dir

__all__ = ["build_app", "launch"]

MAX_FILE_SIZE = "64mb"
MAX_SESSIONS = 200
# Nothing of the interface is an API; every event goes through the queue, whose side door is shut.
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": True}
_QUICK: dict[str, Any] = {**_PRIVATE, "concurrency_limit": None}


class ReadingRoom:
    """The handlers: each takes a visitor's session, calls one verb, and returns what is to be drawn."""

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
        return render.chat_view(session, current, others)

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


def build_app(assistant: Assistant, settings: Settings | None = None) -> gr.Blocks:
    """The whole page around one assistant; nothing is loaded and nothing is fetched to build it."""
    room = ReadingRoom(assistant, read_examples())
    make_upload_dir()
    with gr.Blocks(
        title="CXR Assistant", analytics_enabled=False, fill_width=True, delete_cache=(60, 600)
    ) as blocks:
        session = gr.State(partial(Session, assistant.checkpoint))
        empty = Session(assistant.checkpoint)
        with gr.Column(elem_id="room"):
            panel = partial(gr.HTML, apply_default_css=False)
            panel(render.header(), elem_id="masthead")
            menu = panel(
                room.menu_view(empty),
                html_template=read_asset("menu.html"),
                js_on_load=read_asset("menu.js"),
                elem_id="menu",
            )
            fetch = panel(
                room.fetch_view(None),
                html_template=read_asset("fetch.html"),
                js_on_load=read_asset("fetch.js"),
                elem_id="fetch",
            )
            viewer = panel(
                room.viewer_view(empty, ""),
                html_template=viewer_template(),
                js_on_load=viewer_script(),
                elem_id="viewer",
            )
            strip = panel(room.strip_view(empty, ""), elem_id="study", js_on_load=read_asset("study.js"))
            form = render.synthetic_form(assistant.phantom_menu())
            synthetic = panel(form, elem_id="synthetic", js_on_load=read_asset("synthetic.js"))
            chat = panel(
                room.chat_view(empty),
                html_template=read_asset("chat.html"),
                js_on_load=read_asset("chat.js"),
                elem_id="chat",
            )
            upload = gr.UploadButton("Add films", file_count="multiple", file_types=None, elem_id="upload")
        _wire(
            room,
            session,
            menu=menu,
            fetch=fetch,
            viewer=viewer,
            strip=strip,
            chat=chat,
            synthetic=synthetic,
            upload=upload,
        )
        blocks.unload(room.leave)
    for event in blocks.fns.values():  # those that Gradio adds by itself, too
        event.api_visibility = "private"
    find_session = partial(_find_session, blocks, session._id)
    blocks.own_routes = [*film_routes(find_session), *example_routes(room.example_picture)]
    limit = settings.max_queue if settings else 24
    return blocks.queue(api_open=False, max_size=None, default_concurrency_limit=limit)


def _wire(
    room: ReadingRoom,
    session: gr.State,
    upload: gr.UploadButton,
    *,
    menu: gr.HTML,
    fetch: gr.HTML,
    viewer: gr.HTML,
    strip: gr.HTML,
    chat: gr.HTML,
    synthetic: gr.HTML,
) -> None:
    streamed = [session, chat]
    everything = [session, viewer, strip, chat]
    for name in ("send", "retry", "edit"):
        asked = getattr(chat, name)(getattr(room, name), [session], streamed, **_PRIVATE)
        asked.success(room.film_view, [session], [viewer], **_QUICK)  # the boxes of the answer
    chat.undo(room.undo, [session], streamed, **_QUICK)
    chat.stop(room.stop, None, None, **_QUICK)
    menu.refresh(room.menu_view, [session], [menu], **_QUICK)
    for source in (menu, chat, fetch):
        source.plan(room.plan, None, [fetch], **_QUICK)
        source.choose(room.choose, [session], [session, menu, chat], **_QUICK)
    fetched = fetch.fetch(room.fetch, None, [fetch], **_PRIVATE)
    fetched.then(room.menu_view, [session], [menu], **_QUICK)
    fetch.stop(room.stop_fetch, None, None, **_QUICK)
    for name in ("pick", "prior", "current", "remove", "clear"):
        getattr(strip, name)(getattr(room, name), [session], everything, **_QUICK)
    viewer.example(room.example, [session], everything, **_QUICK)
    upload.upload(room.add, [session, upload], everything, **_PRIVATE)
    made = synthetic.make(room.make, [session], everything, **_PRIVATE)
    shown = viewer.demonstrate(room.demonstrate, [session], [*everything, menu], **_PRIVATE)
    for event in (made, shown):
        event.success(room.answer, [session], streamed, **_PRIVATE).success(
            room.film_view, [session], [viewer], **_QUICK
        )


def launch(blocks: gr.Blocks, settings: Settings, **options: Any) -> Any:
    """Serve the page until the process ends (or at once return, with `prevent_thread_lock=True`)."""
    return blocks.launch(
        server_name=settings.host,
        server_port=settings.port,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        # As a style element: Gradio's own `css` rewrites selectors and drops container queries.
        head=f"<style>{read_asset('style.css')}</style>",
        app_kwargs={"routes": blocks.own_routes, "docs_url": None, "redoc_url": None},
        max_file_size=MAX_FILE_SIZE,
        run_history=False,
        footer_links=[],
        share=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        strict_cors=True,
        state_session_capacity=MAX_SESSIONS,
        **options,
    )


def _find_session(blocks: gr.Blocks, state_id: int, visitor: str) -> Session | None:
    """The session of one visitor, out of Gradio's own keeping; None when there is none."""
    kept = blocks.state_holder.session_data.get(visitor)
    found = kept.state_data.get(state_id) if kept else None
    return found if isinstance(found, Session) else None


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash or "")


def _text(event: gr.EventData, name: str) -> str:
    """A text that the page sent along; anything else counts as empty."""
    value = (event._data or {}).get(name, "")
    return value if isinstance(value, str) else ""


def _number(event: gr.EventData, name: str) -> int:
    value = (event._data or {}).get(name, -1)
    return value if isinstance(value, int) else -1
