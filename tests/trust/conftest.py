"""The app as it is served, with a scripted engine: for tests that look at it from outside."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest

from benchmarks.visitor import Visitor
from cxr_assistant.assistant import Assistant
from cxr_assistant.settings import read_settings
from cxr_assistant.ui.app import build_app, launch
from tests.ui.doubles import ScriptedWorker, on_a_loop

# Tests come from one address and ask more in a minute than a person does.
GENEROUS = {
    "CXR_ANSWERS_PER_MINUTE": "10000",
    "CXR_ANSWERS_PER_MINUTE_PER_ADDRESS": "10000",
    "CXR_REQUESTS_PER_MINUTE": "100000",
    "CXR_MAX_PAGES_PER_ADDRESS": "1000",
    "CXR_MAX_PAGES": "1000",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def worker() -> ScriptedWorker:
    return ScriptedWorker()


@pytest.fixture(scope="module")
def address(worker: ScriptedWorker) -> Iterator[str]:
    settings = read_settings(dict(os.environ) | GENEROUS | {"CXR_PORT": str(free_port())})
    blocks = on_a_loop(lambda: build_app(Assistant(worker), settings))
    on_a_loop(lambda: launch(blocks, settings, prevent_thread_lock=True, announce=None))
    yield str(blocks.local_url)
    blocks.close()


@pytest.fixture
def visitor(address: str) -> Iterator[Visitor]:
    with Visitor(address) as visitor:
        yield visitor


@pytest.fixture
def arrive(address: str) -> Iterator[Callable[[], Visitor]]:
    """Opens another browser at each call."""
    opened: list[Visitor] = []

    def open_one() -> Visitor:
        opened.append(Visitor(address))
        return opened[-1]

    yield open_one
    for visitor in opened:
        visitor.close()
