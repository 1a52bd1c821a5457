"""The whole site: Gradio mounted in an application of our own, behind the guard, on a server of our own.

Knows Gradio's mounting and the server's switches; what may pass is the guard's business.
"""

from __future__ import annotations

import gc
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio import queueing
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount, Route

from cxr_assistant.errors import Busy, SettingsError
from cxr_assistant.settings import Settings
from cxr_assistant.ui.masthead import page_head
from cxr_assistant.ui.switchboard import CancelFlag, Ending
from cxr_assistant.ui.web.audit import ACTIONS, AuditLog
from cxr_assistant.ui.web.doors import health_routes, login_routes
from cxr_assistant.ui.web.guard import Guard
from cxr_assistant.ui.web.heads import BoundedHeads
from cxr_assistant.ui.web.limits import Admission
from cxr_assistant.ui.web.login import Users
from cxr_assistant.ui.web.metrics import Metrics, serve_metrics
from cxr_assistant.ui.web.ownership import Browsers, Caller, Ledger
from cxr_assistant.ui.web.profiles import check_profile
from cxr_assistant.ui.web.tending import Tending
from cxr_assistant.ui.web.uploads import make_upload_dir

__all__ = ["Site", "launch"]

STOP_S = 3
START_S = 30.0
_SCRIPT = re.compile(r"<script>.*?</script>", re.DOTALL)

_log = logging.getLogger(__name__)


class Site:
    """One app on the web: `asgi` is what a server serves, `start` and `close` frame its life."""

    def __init__(self, blocks: gr.Blocks, settings: Settings) -> None:
        """Raises SettingsError where the profile promises more than the settings keep."""
        check_profile(settings)
        self.blocks, self.settings = blocks, settings
        limits, web, desk = settings.limits, settings.web, blocks.desk
        self.ledger = Ledger(max_pages=limits.max_pages, max_pages_per_address=limits.max_pages_per_address)
        self.browsers = Browsers()
        self.audit = AuditLog(web.audit_log) if web.audit_log else None
        self.metrics = Metrics(self._gauges)
        self.admission = Admission(limits, settings.max_queue, self._caller_of)
        desk.switchboard.guard(self._answer, lasts_s=limits.answer_timeout_s)
        self._desk = desk
        self._metrics_server: ThreadingHTTPServer | None = None
        upload_dir = make_upload_dir()
        self.tending = Tending(limits, self.ledger, desk.boards, upload_dir, forget=self._forget)
        self.asgi = Guard(
            _mounted(blocks, settings, self._own_routes()),
            settings,
            ledger=self.ledger,
            browsers=self.browsers,
            upload_dir=upload_dir,
            public_names=partial(_public_names, blocks),
            early_scripts="".join(_SCRIPT.findall(page_head())),
            when_left=partial(self._stop, ending=Ending.LEFT),  # what is written for nobody ends at once
            when_stalled=partial(self._stop, ending=Ending.STALLED),
            when_acting=self._note_action,
            when_answered=self.metrics.count_response,
        )

    def start(self) -> None:
        web = self.settings.web
        self.tending.start()
        if web.metrics_port:
            self._metrics_server = serve_metrics(self.metrics, web.metrics_host, web.metrics_port)

    def close(self) -> None:
        """End what is being written, and leave nothing of anybody behind."""
        self.tending.close()
        if self._metrics_server:
            self._metrics_server.shutdown()
            self._metrics_server.server_close()
        if self.audit:
            self.audit.close()

    def _own_routes(self) -> list[Route]:
        web, limits = self.settings.web, self.settings.limits
        users = Users(web.users_file) if web.users_file else None
        framed = bool(web.frame_ancestors)
        login = login_routes(users, self.browsers, limits, self.audit, is_framed=framed)
        return [*self.blocks.own_routes, *health_routes(self._readiness), *login]

    def _readiness(self) -> dict[str, bool]:
        health = self._desk.health()
        return {
            "engine": health.state.value == "ready",
            "queue": self.admission.num_open < self.settings.max_queue,
        }

    def _gauges(self) -> dict[str, float]:
        health = self._desk.health()
        return {
            "pages_open": len(self.ledger.pages()),
            "answers_open": self.admission.num_open,
            "engine_ready": float(health.state.value == "ready"),
            "engine_answers": health.num_active,
        }

    def _caller_of(self, visitor: str) -> Caller | None:
        page = self.ledger.find_page(visitor)
        return page.caller if page else None

    @contextmanager
    def _answer(self, visitor: str, flag: CancelFlag) -> Iterator[None]:
        """The gate of the switchboard: a place for the answer, and a count of how it ended."""
        try:
            with self.admission.answer(visitor):
                yield
        except Busy:
            self.metrics.count_answer("busy", 0.0)
            raise
        except GeneratorExit:
            self.metrics.count_answer(Ending.LEFT, flag.age_s)
            raise
        except BaseException:
            self.metrics.count_answer("failed", flag.age_s)
            raise
        else:
            self.metrics.count_answer(_outcome(flag), flag.age_s)

    def _stop(self, name: str, ending: Ending) -> None:
        """End what is being written for a page."""
        for board in self._desk.boards:
            board.stop(name, ending)

    def _note_action(self, caller: Caller, function: str | int) -> None:
        if self.audit is None:
            return
        named = self.blocks.fns.get(function) if isinstance(function, int) else None
        name = getattr(named.fn, "__name__", "") if named else str(function)
        if action := ACTIONS.get(name):
            self.audit.note(action, user=caller.user, visit=caller.owner)

    def _forget(self, name: str) -> None:
        """Drop all that Gradio and the assistant keep for a page."""
        self._desk.forget(name)
        holder, queue = self.blocks.state_holder, self.blocks._queue
        for kept in (
            holder.session_data,
            holder.time_last_used,
            queue.pending_event_ids_session,
            queue.pending_messages_per_session,
        ):
            kept.pop(name, None)


def _outcome(flag: CancelFlag) -> str:
    return {None: "stop", Ending.STOPPED: "cancelled", Ending.SUPERSEDED: "cancelled"}.get(
        flag.ending, flag.ending.value if flag.ending else "stop"
    )


def _say_address(url: str) -> None:
    print(f"CXR Assistant listens on {url}", flush=True)


def launch(
    blocks: gr.Blocks,
    settings: Settings,
    *,
    prevent_thread_lock: bool = False,
    announce: Callable[[str], None] | None = _say_address,
) -> Site:
    """Serve the page until the process ends (or at once return, with `prevent_thread_lock=True`).

    `announce` is told the address once it is taken.
    """
    site = Site(blocks, settings)
    server = _Server(site, _bound(settings))
    site.start()
    blocks.server = server
    blocks.local_url = server.url
    if announce is not None:
        announce(server.url)
    if prevent_thread_lock:
        server.run_in_thread()
    else:
        # What was built lasts as long as the process. Looking through it for garbage stops the server for a
        # fifth of a second each time.
        gc.collect()
        gc.freeze()
        server.run_here()
    return site


def _mounted(blocks: gr.Blocks, settings: Settings, routes: list[Route]) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, routes=list(routes))
    # Without an origin it adds no header at all; its being there keeps Gradio from adding its own.
    app.add_middleware(CORSMiddleware, allow_origins=[])
    _silence_tracebacks()
    blocks.state_session_capacity = settings.limits.max_pages + 1
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=settings.host,
        server_port=settings.port,
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        head=_SCRIPT.sub("", page_head()),  # scripts are in the page itself, see `early_scripts`
        max_file_size=f"{settings.limits.max_file_mib}mb",
        run_history=False,
        footer_links=[],
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
    )
    # Gradio checks that a file was uploaded only when it believes to have been launched by itself, and ends
    # its streams only in the application that it believes to be the one that is served.
    blocks.has_launched = True
    blocks.app = blocks.server_app = next(r.app for r in app.routes if isinstance(r, Mount))
    return app


def _public_names(blocks: gr.Blocks) -> frozenset[str | int]:
    public = [fn for fn in blocks.fns.values() if fn.api_visibility == "public"]
    return frozenset(name for fn in public for name in (fn._id, fn.api_name) if name not in (None, False))


def _silence_tracebacks() -> None:
    """Gradio prints the traceback of a failed event, and with it what was in the request."""
    queueing.traceback = SimpleNamespace(print_exc=_log_class_only)


def _log_class_only() -> None:
    import sys

    kind = sys.exc_info()[0]
    _log.error("an event failed: %s", kind.__name__ if kind else "unknown")


def _bound(settings: Settings) -> socket.socket:
    """A listening socket; raises SettingsError when the address cannot be used."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where it reads "TCP" on the socket; without, every response
    # waits some 40 ms between its head and its body for the other side's delayed acknowledgement.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except OSError as error:
        bound.close()
        raise SettingsError(
            f"Port {settings.port} of {settings.host} cannot be used.",
            hint="Choose another with --port, or stop what listens there.",
        ) from error
    return bound


class _Server(uvicorn.Server):
    """uvicorn with its chatter off: no access log (addresses hold names), no name of the software."""

    def __init__(self, site: Site, bound: socket.socket) -> None:
        config = uvicorn.Config(
            site.asgi,
            log_level="critical",  # its error log prints tracebacks, and with them what was in a request
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            http=BoundedHeads,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=STOP_S,
            limit_concurrency=site.settings.limits.max_pages * 4 + 100,
            h11_max_incomplete_event_size=64 * 1024,
        )
        super().__init__(config)
        self._site = site
        self._bound = bound
        host, port = bound.getsockname()[:2]
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        self.url = f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"

    def run_here(self) -> None:
        try:
            self.run(sockets=[self._bound])
        finally:
            self._site.close()

    def run_in_thread(self) -> None:
        self.install_signal_handlers = lambda: None
        thread = threading.Thread(target=self.run_here, name="cxr-web", daemon=True)
        thread.start()
        until = time.monotonic() + START_S
        while not self.started:
            if not thread.is_alive() or time.monotonic() > until:
                raise SettingsError("The web server did not start.", hint="See the lines above.")
            time.sleep(0.005)
        self._thread = thread

    def close(self) -> None:
        """Called by `blocks.close()`."""
        self.should_exit = True
        self._thread.join(STOP_S + 5)

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._site.blocks.app.stop_event.set()  # open heartbeats would hold the server up
        super().handle_exit(sig, frame)
