"""What the tests of the web layer share: a guard around a stand-in for Gradio, and its callers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from cxr_assistant.settings import read_settings
from cxr_assistant.ui.web.guard import Guard
from cxr_assistant.ui.web.ownership import Browsers, Ledger

ORIGIN = "http://localhost"
PAGE = '<!doctype html><head><script>one()</script><script src="a.js"></script></head><body></body>'


class StandIn:
    """Answers like Gradio where the guard looks, and remembers what got through."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, Any]] = []
        self.num_events = 0
        routes = [
            Route("/", self.page),
            Route("/gradio_api/queue/join", self.begin, methods=["POST"]),
            Route("/gradio_api/call/{api}", self.begin, methods=["POST"]),
            Route("/{path:path}", self.anything, methods=["GET", "POST", "PUT", "DELETE", "OPTIONS"]),
        ]
        self.app = Starlette(routes=routes)

    def page(self, request: Request) -> Response:
        return HTMLResponse(PAGE)

    async def begin(self, request: Request) -> Response:
        said = json.loads(await request.body())
        self.seen.append((request.method, request.url.path, said))
        self.num_events += 1
        return JSONResponse({"event_id": f"{self.num_events:032x}"})

    async def anything(self, request: Request) -> Response:
        self.seen.append((request.method, request.url.path, await request.body()))
        if "data" in request.url.path or "heartbeat" in request.url.path:
            return StreamingResponse(iter([b"data: {}\n\n"]), media_type="text/event-stream")
        return PlainTextResponse("secret")


class World:
    """A guard with its tables, and as many callers as a test needs."""

    def __init__(self, directory: Path, **environ: str) -> None:
        self.settings = read_settings({"CXR_REQUESTS_PER_MINUTE": "100000", **environ})
        self.inner, self.upload_dir = StandIn(), directory
        limits = self.settings.limits
        self.ledger = Ledger(max_pages=limits.max_pages, max_pages_per_address=limits.max_pages_per_address)
        self.browsers = Browsers()
        self.left: list[str] = []
        self.stalled: list[str] = []
        self.acted: list[str | int] = []
        self.guard = Guard(
            self.inner.app,
            self.settings,
            ledger=self.ledger,
            browsers=self.browsers,
            upload_dir=directory,
            public_names=lambda: frozenset({"draft_findings", 7}),
            when_left=self.left.append,
            when_stalled=self.stalled.append,
            when_acting=lambda caller, function: self.acted.append(function),
            early_scripts="<script>early()</script>",
        )

    def program(self, address: str = "192.0.2.1", **options: Any) -> TestClient:
        """A caller without a cookie."""
        return TestClient(self.guard, base_url=ORIGIN, client=(address, 4), follow_redirects=False, **options)

    def browser(self, address: str = "192.0.2.1") -> TestClient:
        """A caller that opened the page and was given the cookie."""
        client = self.program(address)
        assert client.get("/").status_code == 200
        return client

    def join(self, client: TestClient, page: str, **said: Any) -> Any:
        body = {"session_hash": page, "fn_index": 3, "data": [], **said}
        return client.post("/gradio_api/queue/join", json=body)


MakeWorld = Callable[..., World]
