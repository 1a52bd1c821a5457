"""What a response passes on its way out: our headers, a rewritten body, a look at a reader who reads no more.

Each wraps the `send` of an ASGI application. Knows no page and nobody who owns one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

from cxr_assistant.ui.web.headers import secured

__all__ = ["Outward", "Rewritten", "Watched"]


class Outward:
    """The last thing that a response passes: it puts our headers on."""

    def __init__(self, send: Send, ancestors: str, *, is_https: bool, count: Callable[[int], None]) -> None:
        self._send = send
        self._count = count
        self._ancestors = ancestors
        self._is_https = is_https
        self.nonce = ""
        self.may_cache = False
        self.has_started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            self._count(message["status"])
            message = secured(
                message,
                ancestors=self._ancestors,
                is_https=self._is_https,
                nonce=self.nonce,
                may_cache=self.may_cache,
            )
        await self._send(message)


class Rewritten:
    """Holds a response back until it is whole, and sends what `rewrite` makes of its body."""

    def __init__(self, send: Send, rewrite: Callable[[bytes], bytes]) -> None:
        self._send = send
        self._rewrite = rewrite
        self._start: Message = {}
        self._parts: list[bytes] = []
        self._added: list[tuple[str, str]] = []

    def add_header(self, name: str, value: str) -> None:
        self._added.append((name, value))

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = {**message, "headers": list(message.get("headers", []))}
            return
        self._parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = self._rewrite(b"".join(self._parts))
        headers = MutableHeaders(raw=self._start["headers"])
        if body:
            headers["content-length"] = str(len(body))
        for name, value in self._added:
            headers.append(name, value)
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": body})


class Watched:
    """Passes a stream on, and tells at once when its reader has taken nothing in for `stall_s` seconds, and
    again after each further `stall_s`: what such a reader asks for next must not run on either."""

    def __init__(self, send: Send, stall_s: float, when_stalled: Callable[[], None]) -> None:
        self._send = send
        self._stall_s = stall_s
        self._when_stalled = when_stalled
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, message: Message) -> None:
        self._wait()
        try:
            await self._send(message)
        finally:
            assert self._timer is not None
            self._timer.cancel()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._stall_s, self._stalled)

    def _stalled(self) -> None:
        self._when_stalled()
        self._wait()
