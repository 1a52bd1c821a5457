"""Request bodies within bounds: read whole when they are small, counted as they stream when they are files.

Knows ASGI messages, sizes and time; knows nothing of what a body says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from cxr_assistant.ui.web.refusals import Refused

__all__ = ["Gone", "check_length", "read_body", "replayed", "stream_body"]

PAUSE_S = 20.0
"""How long a body may make no progress."""

TOTAL_S = 600.0
"""How long a body may take altogether."""


class Gone(Exception):
    """The other side hung up before its body was complete."""


def check_length(headers: Headers, limit: int) -> None:
    """Refuse a body by what it announces, before a byte of it is read."""
    announced = headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced[:20]) > limit:
        raise _too_large(limit)


async def stream_body(receive: Receive, limit: int) -> AsyncIterator[bytes]:
    """The chunks of a body of up to `limit` bytes. Raises Refused (413, 408) and Gone."""
    num_bytes, clock = 0, asyncio.get_running_loop().time
    until = clock() + TOTAL_S
    while True:
        try:
            message = await asyncio.wait_for(receive(), min(PAUSE_S, max(until - clock(), 0.001)))
        except TimeoutError:
            raise Refused(408, "The upload took too long. Try again.") from None
        if message["type"] == "http.disconnect":
            raise Gone
        chunk = message.get("body", b"")
        num_bytes += len(chunk)
        if num_bytes > limit:
            raise _too_large(limit)
        yield chunk
        if not message.get("more_body", False):
            return


async def read_body(receive: Receive, limit: int) -> bytes:
    """A whole body of up to `limit` bytes."""
    return b"".join([chunk async for chunk in stream_body(receive, limit)])


def replayed(body: bytes, receive: Receive) -> Receive:
    """A receive that says `body` again and then what `receive` says: that the other side hung up."""
    is_said = False

    async def again() -> Message:
        nonlocal is_said
        if is_said:
            return await receive()
        is_said = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _too_large(limit: int) -> Refused:
    size = f"{limit // 2**20} MiB" if limit >= 2**20 else f"{limit // 2**10} KiB"
    return Refused(413, f"The request is larger than {size}.")
