"""The wiring of the app: which panel's event calls which verb, and which panels are drawn again.

Knows Gradio and the handlers (room.py); knows nothing of how a panel looks or what a verb does.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import gradio as gr

from cxr_assistant.assistant import Assistant
from cxr_assistant.settings import Settings
from cxr_assistant.ui import render
from cxr_assistant.ui.api import open_api, shut_the_rest
from cxr_assistant.ui.examples import read_examples
from cxr_assistant.ui.hanging import Hanging
from cxr_assistant.ui.masthead import masthead, masthead_script
from cxr_assistant.ui.mcp_door import mcp_routes
from cxr_assistant.ui.programs import Programs
from cxr_assistant.ui.room import ReadingRoom
from cxr_assistant.ui.session import Session
from cxr_assistant.ui.viewer import read_asset, viewer_script, viewer_template
from cxr_assistant.ui.web import Desk, example_routes, film_routes, launch, make_upload_dir

__all__ = ["build_app", "launch"]

WORKBENCH = ("log", "tasks", "composer", "connection")
# Nothing of the interface is an API; every event goes through the queue, whose side door is shut.
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": True}
_QUICK: dict[str, Any] = {**_PRIVATE, "concurrency_limit": None}


class _Panels(NamedTuple):
    """What stands on the page, and the two values that every visitor has an own copy of."""

    session: gr.State
    hanging: gr.State
    menu: gr.HTML
    fetch: gr.HTML
    viewer: gr.HTML
    strip: gr.HTML
    synthetic: gr.HTML
    chat: gr.HTML
    upload: gr.UploadButton


def build_app(assistant: Assistant, settings: Settings | None = None) -> gr.Blocks:
    """The whole page around one assistant; nothing is loaded and nothing is fetched to build it."""
    if settings:
        assistant.bound(settings.limits)
    room = ReadingRoom(assistant, read_examples())
    make_upload_dir()
    with gr.Blocks(
        title="CXR Assistant", analytics_enabled=False, fill_width=True, delete_cache=(60, 600)
    ) as blocks:
        panels = _lay_out(assistant, room, settings.language if settings else "")
        _wire(room, panels)
        if settings and settings.idle_reset_s:
            _start_anew_when_idle(room, panels, settings.idle_reset_s)
        blocks.unload(room.leave)
        programs = Programs(assistant, room.switchboard)
        open_api(programs, blocks)
    shut_the_rest(blocks)
    find_session = partial(_find_session, blocks, panels.session._id)
    blocks.desk = Desk(room.switchboard, room.fetches, assistant, find_session)
    blocks.own_routes = [
        *film_routes(find_session, room.picture_as_seen),
        *example_routes(room.example_picture),
    ]
    limit = settings.max_queue if settings else 24
    if settings and settings.open_mcp:
        blocks.own_routes += mcp_routes(programs)
    return blocks.queue(api_open=False, max_size=None, default_concurrency_limit=limit)


def _lay_out(assistant: Assistant, room: ReadingRoom, language: str) -> _Panels:
    """Every panel as a visitor finds it who has no film yet."""
    empty = Session(assistant.checkpoint)
    session, hanging = gr.State(partial(Session, assistant.checkpoint)), gr.State(Hanging())
    with gr.Column(elem_id="room"):
        _panel("masthead", masthead(), masthead_script(language))
        return _Panels(
            session,
            hanging,
            menu=_panel("menu", room.menu_view(empty), *_files("panels/menu")),
            fetch=_panel("fetch", room.fetch_view(None), *_files("panels/fetch")),
            viewer=_panel(
                "viewer", room.viewer_view(empty, Hanging(), ""), viewer_script(), viewer_template()
            ),
            strip=_panel("study", room.strip_view(empty, Hanging(), ""), *_files("panels/study")),
            synthetic=_panel(
                "synthetic",
                render.synthetic_form(assistant.phantom_menu()),
                read_asset("panels/synthetic.js"),
            ),
            chat=_panel("chat", room.chat_view(empty), workbench_script(), read_asset("workbench/chat.html")),
            upload=gr.UploadButton("Add films", file_count="multiple", file_types=None, elem_id="upload"),
        )


def _panel(name: str, view: Any, script: str, template: str | None = None) -> gr.HTML:
    """A panel under an element of that name: HTML as it is, or a view that fills a template."""
    filled = {} if template is None else {"html_template": template}
    return gr.HTML(view, js_on_load=script, elem_id=name, apply_default_css=False, **filled)


def _files(name: str) -> tuple[str, str]:
    """Script and template of a panel."""
    return read_asset(f"{name}.js"), read_asset(f"{name}.html")


def _start_anew_when_idle(room: ReadingRoom, panels: _Panels, seconds: int) -> None:
    idle = _panel("idle", {"seconds": seconds}, *_files("theme/idle"))
    taken_down = [panels.session, panels.hanging, panels.viewer, panels.strip, panels.chat]
    idle.reset(room.clear, [panels.session, panels.hanging], taken_down, **_QUICK)


def _wire(room: ReadingRoom, panels: _Panels) -> None:
    session, hanging, menu, fetch, viewer, strip, synthetic, chat, upload = panels
    seen, streamed = [session, hanging], [session, chat]
    everything, hung = [session, hanging, viewer, strip, chat], [hanging, viewer, strip]
    for name in ("send", "retry", "edit"):
        asked = getattr(chat, name)(getattr(room, name), seen, streamed, **_PRIVATE)
        asked.success(room.film_view, seen, [viewer], **_QUICK)  # the boxes of the answer
    chat.undo(room.undo, [session], streamed, **_QUICK)
    chat.settle(room.settle, [session], streamed, **_QUICK)
    chat.judge(room.judge, [session], streamed, **_QUICK)
    chat.stop(room.stop, None, None, **_QUICK)
    menu.refresh(room.menu_view, [session], [menu], **_QUICK)
    for source in (menu, chat, fetch):
        source.plan(room.plan, None, [fetch], **_QUICK)
        chosen = source.choose(room.choose, [session], [session, menu, chat], **_QUICK)
        chosen.success(room.film_view, seen, [viewer], **_QUICK)  # another model sees another crop
    fetched = fetch.fetch(room.fetch, None, [fetch], **_PRIVATE)
    fetched.then(room.menu_view, [session], [menu], **_QUICK)
    fetch.stop(room.stop_fetch, None, None, **_QUICK)
    for name in ("prior", "current", "remove", "clear"):
        getattr(strip, name)(getattr(room, name), seen, everything, **_QUICK)
    for source in (strip, viewer):
        source.pick(room.pick, seen, hung, **_QUICK)
    viewer.hang(room.hang, seen, hung, **_QUICK)
    viewer.pair(room.pair, seen, hung, **_QUICK)
    viewer.activate(room.activate, seen, [hanging, strip], **_QUICK)
    strip.move(room.move, seen, [hanging, strip], **_QUICK)
    viewer.example(room.example, seen, everything, **_QUICK)
    upload.upload(room.add, [session, hanging, upload], everything, **_PRIVATE)
    made = synthetic.make(room.make, seen, everything, **_PRIVATE)
    shown = viewer.demonstrate(room.demonstrate, seen, [*everything, menu], **_PRIVATE)
    for event in (made, shown):
        event.success(room.answer, seen, streamed, **_PRIVATE).success(
            room.film_view, seen, [viewer], **_QUICK
        )


def _find_session(blocks: gr.Blocks, state_id: int, visitor: str) -> Session | None:
    """The session of one visitor, out of Gradio's own keeping; None when there is none."""
    kept = blocks.state_holder.session_data.get(visitor)
    found = kept.state_data.get(state_id) if kept else None
    return found if isinstance(found, Session) else None


def workbench_script() -> str:
    """The chat panel's script: its files share one scope, in this order."""
    return "\n".join(read_asset(f"workbench/{name}.js") for name in WORKBENCH)
