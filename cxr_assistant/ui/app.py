"""The wiring of the app: which panel's event calls which verb, and which panels are drawn again.

Knows Gradio and the handlers (room.py); knows nothing of how a panel looks or what a verb does.
"""

from __future__ import annotations

from functools import partial
from typing import Any

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


def build_app(assistant: Assistant, settings: Settings | None = None) -> gr.Blocks:
    """The whole page around one assistant; nothing is loaded and nothing is fetched to build it."""
    if settings:
        assistant.bound(settings.limits)
    room = ReadingRoom(assistant, read_examples())
    make_upload_dir()
    with gr.Blocks(
        title="CXR Assistant", analytics_enabled=False, fill_width=True, delete_cache=(60, 600)
    ) as blocks:
        session = gr.State(partial(Session, assistant.checkpoint))
        hanging = gr.State(Hanging())
        empty = Session(assistant.checkpoint)
        with gr.Column(elem_id="room"):
            panel = partial(gr.HTML, apply_default_css=False)
            panel(
                masthead(),
                elem_id="masthead",
                js_on_load=masthead_script(settings.language if settings else ""),
            )
            menu = panel(
                room.menu_view(empty),
                html_template=read_asset("panels/menu.html"),
                js_on_load=read_asset("panels/menu.js"),
                elem_id="menu",
            )
            fetch = panel(
                room.fetch_view(None),
                html_template=read_asset("panels/fetch.html"),
                js_on_load=read_asset("panels/fetch.js"),
                elem_id="fetch",
            )
            viewer = panel(
                room.viewer_view(empty, Hanging(), ""),
                html_template=viewer_template(),
                js_on_load=viewer_script(),
                elem_id="viewer",
            )
            strip = panel(
                room.strip_view(empty, Hanging(), ""),
                html_template=read_asset("panels/study.html"),
                js_on_load=read_asset("panels/study.js"),
                elem_id="study",
            )
            form = render.synthetic_form(assistant.phantom_menu())
            synthetic = panel(form, elem_id="synthetic", js_on_load=read_asset("panels/synthetic.js"))
            chat = panel(
                room.chat_view(empty),
                html_template=read_asset("workbench/chat.html"),
                js_on_load=workbench_script(),
                elem_id="chat",
            )
            upload = gr.UploadButton("Add films", file_count="multiple", file_types=None, elem_id="upload")
        _wire(
            room,
            session,
            hanging,
            menu=menu,
            fetch=fetch,
            viewer=viewer,
            strip=strip,
            chat=chat,
            synthetic=synthetic,
            upload=upload,
        )
        if settings and settings.idle_reset_s:
            idle = panel(
                {"seconds": settings.idle_reset_s},
                html_template=read_asset("theme/idle.html"),
                js_on_load=read_asset("theme/idle.js"),
                elem_id="idle",
            )
            taken_down = [session, hanging, viewer, strip, chat]
            idle.reset(room.clear, [session, hanging], taken_down, **_QUICK)
        blocks.unload(room.leave)
        programs = Programs(assistant, room.switchboard)
        open_api(programs, blocks)
    shut_the_rest(blocks)
    find_session = partial(_find_session, blocks, session._id)
    blocks.desk = Desk(room.switchboard, room.fetches, assistant, find_session)
    blocks.own_routes = [
        *film_routes(find_session, room.picture_as_seen),
        *example_routes(room.example_picture),
    ]
    limit = settings.max_queue if settings else 24
    if settings and settings.open_mcp:
        blocks.own_routes += mcp_routes(programs)
    return blocks.queue(api_open=False, max_size=None, default_concurrency_limit=limit)


def _wire(
    room: ReadingRoom,
    session: gr.State,
    hanging: gr.State,
    upload: gr.UploadButton,
    *,
    menu: gr.HTML,
    fetch: gr.HTML,
    viewer: gr.HTML,
    strip: gr.HTML,
    chat: gr.HTML,
    synthetic: gr.HTML,
) -> None:
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
