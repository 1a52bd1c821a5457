"""The wall around Gradio: every request passes here first, and only what is allowed and owned gets through.

Knows HTTP, the rules (allowlist.py) and who owns what (ownership.py); knows no study, no text and no model.
Pure ASGI, so that streams pass unbuffered.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from cxr_assistant.settings import Settings
from cxr_assistant.ui.web.allowlist import Match, find_rule
from cxr_assistant.ui.web.bodies import Gone, check_length, read_body, replayed, stream_body
from cxr_assistant.ui.web.cookies import read_cookie, write_cookie
from cxr_assistant.ui.web.headers import with_nonces
from cxr_assistant.ui.web.hosts import Front, Hosts
from cxr_assistant.ui.web.limits import Rates
from cxr_assistant.ui.web.ownership import Browsers, Caller, Full, Ledger, NotYours, Page
from cxr_assistant.ui.web.refusals import Refused, not_found, refuse
from cxr_assistant.ui.web.responses import Outward, Rewritten, Watched
from cxr_assistant.ui.web.uploads import MIB, receive_files

__all__ = ["CALLER", "VISITOR", "Guard", "PublicNames"]

CALLER = "cxr.caller"  # the key in the scope under which the app behind finds the Caller
VISITOR = "cxr.visitor"  # and the name of the page that a message of an MCP client is counted by
PublicNames = Callable[[], "frozenset[str | int]"]
"""The names and numbers of the functions that programs may call."""

PROGRAM = "program"  # the owner of what is done with the token, and its name in the audit log
_UNEXPECTED = "Something went wrong inside the app. Try again."
_log = logging.getLogger(__name__)
_PAGE_NAME = re.compile(r"[\w-]{8,64}")
_NO_BODY = frozenset({"GET", "HEAD", "DELETE"})


@dataclass(frozen=True)
class _Request:
    """One request on its way in."""

    scope: Scope
    receive: Receive
    send: Send
    front: Front
    match: Match
    caller: Caller

    @property
    def headers(self) -> Headers:
        return Headers(scope=self.scope)

    def query(self, name: str) -> str:
        values = parse_qs(self.scope.get("query_string", b"").decode("latin-1")).get(name, [""])
        return str(values[0])


class Guard:
    """ASGI application around `app`; the only one that the server sees."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        *,
        ledger: Ledger,
        browsers: Browsers,
        upload_dir: Path,
        public_names: PublicNames,
        when_left: Callable[[str], None],
        when_stalled: Callable[[str], None],
        when_acting: Callable[[Caller, str | int], None] = lambda caller, function: None,
        when_answered: Callable[[int], None] = lambda status: None,
        early_scripts: str = "",
    ) -> None:
        """`when_left` is told the name of a page whose last connection was closed, `when_stalled` that of one
        that takes nothing in, `when_acting` who calls which function, `when_answered` the status of each
        response; `early_scripts` are put into the page's head, to run before anything is painted."""
        self._app = app
        self._web, self._limits = settings.web, settings.limits
        self._hosts = Hosts(settings)
        self._rates = Rates(self._limits)
        self._ledger, self._browsers = ledger, browsers
        self._upload_dir = upload_dir
        self._public_names = public_names
        self._when_left, self._when_stalled = when_left, when_stalled
        self._when_acting, self._when_answered = when_acting, when_answered
        self._early_scripts = early_scripts.encode()
        self._checks: dict[str, Callable[[_Request], Awaitable[None]]] = {
            "page": self._page,
            "heartbeat": self._heartbeat,
            "stream": self._stream,
            "upload": self._upload,
            "join": self._join,
            "call": self._call,
            "cancel": self._cancel,
            "result": self._result,
            "film": self._film,
            "file": self._file,
            "mcp": self._mcp,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":  # nothing here speaks it
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        front = self._hosts.front(scope)
        outward = Outward(send, self._web.frame_ancestors, is_https=front.is_https, count=self._when_answered)
        try:
            request = self._admit(scope, receive, outward, front)
            outward.may_cache = request.match.rule.may_cache
            await self._checks.get(request.match.rule.name, self._pass)(request)
        except Refused as refused:
            if refused.status == 401 and scope["path"] == "/" and self._web.users_file:
                await RedirectResponse("/login", status_code=303)(scope, receive, outward)
            else:
                await self._refuse(refused, scope, receive, outward)
        except NotYours:
            await self._refuse(not_found(), scope, receive, outward)
        except Full as full:
            await self._refuse(Refused(503, str(full), retry_after_s=60), scope, receive, outward)
        except Gone:
            pass  # nobody is left to answer
        except Exception as error:  # the outermost edge: the class is logged, never its text
            _log.error("a request failed: %s", type(error).__name__)
            await self._refuse(Refused(500, _UNEXPECTED), scope, receive, outward)

    async def _refuse(self, refused: Refused, scope: Scope, receive: Receive, outward: Outward) -> None:
        outward.may_cache = False
        if not outward.has_started:
            await refuse(refused, scope, receive, outward)

    def _admit(self, scope: Scope, receive: Receive, send: Send, front: Front) -> _Request:
        """Who asks for what; raises Refused where the answer is no whoever it is."""
        if not self._hosts.is_ours(front.host):
            raise Refused(400, "This app is not known under that name.")
        match = find_rule(scope["method"], scope["path"])
        if match is None:
            raise not_found()
        scope = self._hosts.behind(scope, front)
        headers = Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD") and not self._hosts.may_change(headers, front):
            raise Refused(403, "The request came from another site.")
        if match.rule.name != "health":
            self._rates.check_request(front.address)
        caller = self._identify(headers, front)
        if self._web.has_login and not match.rule.is_open and not caller.user:
            raise Refused(401, "Log in first: open the page of this app and log in there.")
        if self._web.is_onprem and not match.rule.is_open and not caller.is_browser:
            self._check_program(caller, match)
        scope[CALLER] = caller
        return _Request(scope, receive, send, front, match, caller)

    def _check_program(self, caller: Caller, match: Match) -> None:
        if match.rule.name != "page" and caller.user != PROGRAM:
            raise Refused(401, "A program must send the token of this app.")

    def _identify(self, headers: Headers, front: Front) -> Caller:
        named = headers.get(self._web.user_header, "") if self._web.user_header and front.is_proxied else ""
        known = self._browsers.find(read_cookie(headers, is_https=front.is_https))
        if known is not None:
            user = named or known[1]
            return Caller(f"{known[0]} {user}", front.address, user=user, is_browser=True)
        if named:
            return Caller(f"user {named}", front.address, user=named)
        given, expected = headers.get("authorization", ""), self._web.api_token
        if expected and hmac.compare_digest(given.encode(), f"Bearer {expected}".encode()):
            return Caller(PROGRAM, front.address, user=PROGRAM)
        return Caller(f"anonymous {front.address}", front.address)

    # What each kind of request must pass ------------------------------------------------------------

    async def _pass(self, request: _Request) -> None:
        if request.scope["method"] in _NO_BODY:
            await self._app(request.scope, request.receive, request.send)
            return
        await self._forward(request, await self._small_body(request))

    async def _page(self, request: _Request) -> None:
        """The page itself, with a nonce of its own, and with the cookie where there is none yet."""
        nonce = secrets.token_urlsafe(16)
        page = Rewritten(request.send, lambda body: with_nonces(body, nonce, self._early_scripts))
        if not request.caller.is_browser:
            cookie = write_cookie(
                self._browsers.issue(request.caller.user),
                is_https=request.front.is_https,
                is_framed=bool(self._web.frame_ancestors),
            )
            page.add_header("set-cookie", cookie)
        assert isinstance(request.send, Outward)
        request.send.nonce = nonce
        await self._app(_unpacked(request.scope), request.receive, page)

    async def _heartbeat(self, request: _Request) -> None:
        page = self._ledger.open_page(request.match.parts["page"], request.caller)
        await self._attached(request, page, listens=False)

    async def _stream(self, request: _Request) -> None:
        page = self._ledger.page(request.query("session_hash"), request.caller)
        await self._attached(request, page, listens=True)

    async def _result(self, request: _Request) -> None:
        page = self._ledger.page_of_event(request.match.parts["event"], request.caller)
        await self._attached(request, page, listens=True)

    async def _attached(self, request: _Request, page: Page, *, listens: bool) -> None:
        """Pass a stream on, and know for how long somebody is there and takes in what is sent.

        A heartbeat that ends is a tab that was closed. So is the end of a page's only stream, unless another
        answer was begun after it: that one has a listener of its own, or is soon known to have none.
        """
        num_begun = page.num_begun
        self._ledger.connect(page, listens=listens)
        send = request.send
        if listens:
            send = Watched(send, self._limits.stall_s, partial(self._stalled, page, page.num_streams))
        try:
            await self._app(request.scope, request.receive, send)
        finally:
            self._ledger.disconnect(page, listens=listens)
            if not listens or (not page.connections and page.num_begun == num_begun):
                self._when_left(page.name)

    def _stalled(self, page: Page, stream: int) -> None:
        """An older stream may be one that a cut network left behind: the page listens to another by now."""
        if page.num_streams == stream:
            self._when_stalled(page.name)

    async def _upload(self, request: _Request) -> None:
        limit = self._limits.max_upload_mib * MIB
        check_length(request.headers, limit)
        body = stream_body(request.receive, limit)
        kind = request.headers.get("content-type", "")
        paths = [str(path) for path in await receive_files(body, kind, self._upload_dir, self._limits)]
        for path in paths:
            self._ledger.add_file(path, request.caller)
        await JSONResponse(paths)(request.scope, request.receive, request.send)

    async def _join(self, request: _Request) -> None:
        body = await self._small_body(request)
        said = _json_object(body)
        if not _PAGE_NAME.fullmatch(_text(said, "session_hash")):
            raise Refused(400, "The request names no session.")
        if not request.caller.is_browser and said.get("fn_index") not in self._public_names():
            raise not_found()
        self._check_files(said, request.caller)
        page = self._ledger.open_page(_text(said, "session_hash"), request.caller)
        self._when_acting(request.caller, said.get("fn_index", -1))
        await self._begin(request, page, body)

    async def _call(self, request: _Request) -> None:
        """A call of the typed API; one that brings no session of its own is given one."""
        if request.match.parts["api"] not in self._public_names():
            raise not_found()
        said = _json_object(await self._small_body(request))
        self._check_files(said, request.caller)
        name = _text(said, "session_hash")
        name = name if _PAGE_NAME.fullmatch(name) else secrets.token_hex(16)
        page = self._ledger.open_page(name, request.caller)
        self._when_acting(request.caller, request.match.parts["api"])
        await self._begin(request, page, json.dumps({**said, "session_hash": name}).encode())

    async def _begin(self, request: _Request, page: Page, body: bytes) -> None:
        self._ledger.begin(page)
        answer = Rewritten(request.send, lambda reply: self._note_event(reply, page))
        scope = _unpacked(request.scope)
        await self._app(_with_length(scope, body), replayed(body, request.receive), answer)

    async def _cancel(self, request: _Request) -> None:
        body = await self._small_body(request)
        said = _json_object(body)
        page = self._ledger.page(_text(said, "session_hash"), request.caller)
        if self._ledger.page_of_event(_text(said, "event_id"), request.caller) is not page:
            raise NotYours
        await self._forward(request, body)

    async def _film(self, request: _Request) -> None:
        self._ledger.act(self._ledger.page(request.match.parts["page"], request.caller))
        await self._app(request.scope, request.receive, request.send)

    async def _file(self, request: _Request) -> None:
        path = request.match.parts["path"]
        self._ledger.check_file(path, request.caller)
        if Path(path).parent == self._upload_dir:
            raise not_found()  # what came in is never handed out again
        await self._app(request.scope, request.receive, request.send)

    async def _mcp(self, request: _Request) -> None:
        """A message of an MCP client; what it asks for is not looked up in what may be 96 MiB.

        It is given a page for as long as it lasts, by which it is counted like any other of its address.
        """
        page = self._ledger.open_page(f"mcp-{secrets.token_hex(16)}", request.caller)
        self._ledger.connect(page, listens=True)
        request.scope[VISITOR] = page.name
        try:
            if request.scope["method"] == "POST":
                self._when_acting(request.caller, "mcp")
            await self._pass(request)
        finally:
            self._ledger.close_page(page.name)
            self._when_left(page.name)

    # Helpers ----------------------------------------------------------------------------------------

    async def _small_body(self, request: _Request) -> bytes:
        limit = self._limits.max_body_kib * 1024
        if request.match.rule.name == "mcp":  # tools are handed films in their messages
            limit = self._limits.max_file_mib * MIB * 3 // 2  # in base64, with some words
        check_length(request.headers, limit)
        return await read_body(request.receive, limit)

    async def _forward(self, request: _Request, body: bytes) -> None:
        scope = _with_length(request.scope, body)
        await self._app(scope, replayed(body, request.receive), request.send)

    def _check_files(self, said: dict[str, Any], caller: Caller) -> None:
        """Raise NotYours where a request names a file that its sender did not upload, an address included."""
        for path in _paths_in(said):
            self._ledger.check_file(path, caller)

    def _note_event(self, reply: bytes, page: Page) -> bytes:
        try:
            event = json.loads(reply)["event_id"]
        except (ValueError, KeyError, TypeError):
            return reply  # it was refused
        self._ledger.add_event(str(event), page)
        return reply


def _unpacked(scope: Scope) -> Scope:
    """The scope without the browser's wish for compression: the body is to be read here."""
    return {**scope, "headers": [(n, v) for n, v in scope["headers"] if n.lower() != b"accept-encoding"]}


def _with_length(scope: Scope, body: bytes) -> Scope:
    kept = [(n, v) for n, v in scope["headers"] if n.lower() not in (b"content-length", b"transfer-encoding")]
    return {**scope, "headers": [*kept, (b"content-length", str(len(body)).encode())]}


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise Refused(400, "The request is no JSON object.")
    return said


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    return value if isinstance(value, str) else ""


def _paths_in(value: object) -> Iterator[str]:
    """Every path of a file in a request, however deep."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if isinstance(part.get("path"), str):
                yield part["path"]
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
