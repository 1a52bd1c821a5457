"""What every test may ask for; and no test may connect to another machine unless it is marked `network`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.figures import (  # noqa: F401  hooks and fixtures for every test
    figure,
    pytest_runtest_logreport,
    pytest_runtest_setup,
    pytest_sessionfinish,
)

# Before gradio, transformers or the Hub client are imported by any test.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_leaving: set[str] = set()  # the test that runs, where it is marked `network`


def _stay_on_this_machine(event: str, arguments: tuple[object, ...]) -> None:
    if event != "socket.connect" or _leaving:
        return
    address = arguments[1]  # a tuple for TCP and UDP, a path for a socket of this machine
    if isinstance(address, tuple) and address[0] not in _LOOPBACK:
        raise ConnectionRefusedError(f"a test that is not marked network wants to reach {address[0]}")


sys.addaudithook(_stay_on_this_machine)


@pytest.fixture(autouse=True)
def _may_leave_when_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("network"):
        _leaving.add(request.node.nodeid)
    yield
    _leaving.clear()


PROJECT_ROOT = Path(__file__).resolve().parent.parent


def shared_directory() -> Path | None:
    """The folder of real radiographs: CXR_SHARED_DIR, or `shared` beside the checkout."""
    directory = Path(os.environ.get("CXR_SHARED_DIR") or PROJECT_ROOT.parent / "shared")
    return directory if directory.is_dir() else None


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    directory = shared_directory()
    if directory is None:
        pytest.skip("real radiographs are not distributed with the project; set CXR_SHARED_DIR")
    return directory


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the system's Chromium."""
    for name in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"):
        if Path(name).exists():
            return name
    pytest.skip("no Chromium on this machine")
