"""A running app with a scripted model, and pages that notice every error and every request that leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT_ROOT
from tests.ui.doubles import BENCH, UNFETCHED, ScriptedAssistant, ScriptedWorker, on_a_loop

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

DESKTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
MODEL = PROJECT_ROOT / "weights" / "embedded" / "model.safetensors"
HURRIED = {  # nobody asks as fast as a test: on a quick machine the usual limits would be what is tested
    "CXR_ANSWERS_PER_MINUTE": "10000",
    "CXR_ANSWERS_PER_MINUTE_PER_ADDRESS": "10000",
    "CXR_REQUESTS_PER_MINUTE": "100000",
}
OPENING_MS = 60_000  # the first page of a run waits for the server and for the browser to warm up


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def worker() -> ScriptedWorker:
    return ScriptedWorker(word_delay_s=0.012)


@pytest.fixture(scope="session")
def app(worker: ScriptedWorker) -> Iterator[Any]:
    """The app, as it is served."""
    from cxr_assistant.settings import read_settings
    from cxr_assistant.ui.app import build_app, launch

    assistant = ScriptedAssistant(worker, menu=(*BENCH, UNFETCHED))
    blocks = on_a_loop(lambda: build_app(assistant, read_settings({})))
    settings = read_settings({"CXR_PORT": str(_free_port()), **HURRIED})
    on_a_loop(lambda: launch(blocks, settings, prevent_thread_lock=True, announce=None))
    yield blocks
    blocks.close()


@pytest.fixture(scope="session")
def server(app: Any) -> str:
    """The address of the app."""
    return str(app.local_url)


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """`python app.py`, in a process of its own, ready to answer."""
    port = _free_port()
    environ = {**os.environ, "CXR_PORT": str(port), "HF_HUB_OFFLINE": "1", **HURRIED}
    with subprocess.Popen([sys.executable, "app.py"], cwd=PROJECT_ROOT, env=environ) as app:
        url = f"http://127.0.0.1:{port}/"
        _wait_until_up(url, app)
        yield url
        app.terminate()


def _wait_until_up(url: str, app: subprocess.Popen[bytes], patience_s: float = 120.0) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and app.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail("python app.py did not answer.")


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Any]:
    with playwright_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium)
        yield launched
        launched.close()


@dataclass
class Witness:
    """What a page did that it should not have done."""

    origin: str
    complaints: list[str] = field(default_factory=list)

    def watch(self, page: Any) -> None:
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("console", self._console)
        page.on("request", self._request)

    def _console(self, message: Any) -> None:
        url = message.location.get("url", "")
        if message.type == "error" and "film/" not in url and "app_id" not in url:
            self.complaints.append(f"console: {message.text}")

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.origin, "data:", "blob:")):
            self.complaints.append(f"request: {request.url}")


OpenPage = Callable[..., Any]


@contextmanager
def opener(browser: Any, server: str) -> Iterator[OpenPage]:
    """Opens the app in a browser of its own each time it is called; no page may complain."""
    contexts, witness = [], Witness(server.rstrip("/"))

    def opened(size: dict[str, int] = DESKTOP, **options: Any) -> Any:
        is_phone = size["width"] < 600
        context = browser.new_context(viewport=size, is_mobile=is_phone, has_touch=is_phone, **options)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)  # a fault is told soon
        witness.watch(page)
        page.goto(server, timeout=OPENING_MS)
        page.wait_for_selector(".empty-room h2", timeout=OPENING_MS)
        page.wait_for_function("document.querySelector('.tasks')?.childElementCount > 0", timeout=OPENING_MS)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert witness.complaints == []


@pytest.fixture
def open_page(browser: Any, server: str, worker: ScriptedWorker) -> Iterator[OpenPage]:
    worker.word_delay_s, worker.prefill_delay_s = 0.012, 0.0
    with opener(browser, server) as opened:
        yield opened


@pytest.fixture
def page(open_page: OpenPage) -> Any:
    return open_page()


@pytest.fixture
def screenshot(tmp_path: Path) -> Callable[[Any, str], None]:
    """Takes a picture of a page to look at, into the folder CXR_LOOK_AT; those of docs/ are made by
    test_screenshots.py alone."""
    folder = Path(os.environ.get("CXR_LOOK_AT") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return lambda page, name: page.screenshot(path=folder / f"{name}.png") and None


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
