"""What a response passes on its way out, each by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cxr_assistant.ui.web.responses import Watched

STALL_S = 0.2
MESSAGE = {"type": "http.response.body", "body": b"data: a word\n\n", "more_body": True}


def run(made: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """In a thread of its own: the driver of browser tests keeps a loop running in this one."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(made())).result()


@pytest.mark.requirement("D4")
def test_a_reader_who_takes_nothing_in_is_told_of_at_once_and_again() -> None:
    told: list[float] = []
    takes = None

    async def send(_: Any) -> None:
        assert takes is not None
        await takes.wait()

    async def stall() -> None:
        nonlocal takes
        takes = asyncio.Event()
        sending = asyncio.ensure_future(
            Watched(send, STALL_S, lambda: told.append(time.monotonic()))(MESSAGE)
        )
        while len(told) < 2:
            await asyncio.sleep(0.01)
        takes.set()
        await sending
        await asyncio.sleep(2 * STALL_S)  # nothing is told of one that reads again

    began = time.monotonic()
    run(stall)
    assert len(told) == 2
    assert told[0] - began >= STALL_S and told[1] - told[0] >= 0.9 * STALL_S


@pytest.mark.requirement("D4")
def test_a_reader_who_reads_is_never_told_of_and_gets_every_message() -> None:
    told: list[None] = []
    sent: list[Any] = []

    async def send(message: Any) -> None:
        await asyncio.sleep(0.01)
        sent.append(message)

    async def read() -> None:
        watched = Watched(send, STALL_S, lambda: told.append(None))
        for _ in range(40):  # for longer than the limit, taken together
            await watched(MESSAGE)

    run(read)
    assert sent == [MESSAGE] * 40 and not told


@pytest.mark.requirement("D4")
def test_a_reader_who_leaves_in_the_middle_is_told_of_no_more() -> None:
    told: list[None] = []

    async def send(_: Any) -> None:
        raise ConnectionResetError

    async def leave() -> None:
        with pytest.raises(ConnectionResetError):
            await Watched(send, STALL_S, lambda: told.append(None))(MESSAGE)
        await asyncio.sleep(2 * STALL_S)

    run(leave)
    assert not told
