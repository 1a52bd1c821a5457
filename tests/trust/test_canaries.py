"""A study full of markers on its whole way: upload, chat, refusal, crash and restart. None is found."""

from __future__ import annotations

import html
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from benchmarks.scripted_app import LAST_WORDS
from benchmarks.served import GENEROUS, Served, free_port
from benchmarks.visitor import Refused, Visitor
from tests.figures import Figure
from tests.imaging import builders
from tests.trust import canaries
from tests.trust.canaries import MARKERS, TAG

CHAT = "CHATMARK"  # what a person typed: the engine hears it, nobody else
REASON = "REASONMARK"
ALL = (*MARKERS, CHAT, REASON)


def hits(where: str, text: str, *needles: str) -> list[str]:
    return [f"{needle} in {where}" for needle in needles if needle in text]


def test_the_films_hold_their_markers() -> None:
    assert all(canaries.has_marker_inside(film) for film in canaries.films().values())
    assert canaries.PIXEL.encode() in canaries.films()[f"{canaries.FILE_NAME}.dcm"]
    assert canaries.films()[f"{canaries.FILE_NAME}.dcm"].count(TAG.encode()) > 500


@pytest.mark.requirement("P1", "P4", "P5", "P6", "O1")
@pytest.mark.timeout(900)
def test_no_marker_is_kept_or_told(tmp_path: Path, figure: Figure) -> None:
    folder, prompts, metrics = tmp_path / "app", tmp_path / "prompts", free_port()
    environment = {
        **GENEROUS,
        "CXR_SCRIPT_PROMPTS": str(prompts),
        "CXR_SCRIPT_DELAY_MS": "5",
        "CXR_METRICS_PORT": str(metrics),
    }
    served, found = Served.start(folder, environment), []
    try:
        with Visitor(served.address) as alice, Visitor(served.address) as bob:
            found += _a_visit(alice, bob)
            _upload_half(alice)
            found += hits("another's page", "".join(bob.pieces), *ALL)
            found += hits("the answers of the app", html.unescape("".join(alice.pieces)), *MARKERS)
            found += hits("the metrics", _metrics(metrics), *ALL)
            found += hits("what the app says of itself", _public_pages(served.address), *ALL)
        found += hits("the prompts", prompts.read_text("utf-8"), *MARKERS)
        assert CHAT in prompts.read_text("utf-8") and REASON in prompts.read_text("utf-8")
        _crash_while_busy(served)
    finally:
        served.kill()

    served = Served.start(folder, environment, port=served.port)
    found += [f"after a crash and a restart: {hit}" for hit in served.search(*ALL)]
    assert served.stop() in (0, -15)
    found += [f"after shutdown: {hit}" for hit in served.search(*ALL)]
    found += [f"left after shutdown: {path}" for path in served.files()]
    assert found == []
    figure("markers in one study", canaries.films()[f"{canaries.FILE_NAME}.dcm"].count(TAG.encode()), "")
    figure("found", len(found), "")


def _a_visit(alice: Visitor, bob: Visitor) -> list[str]:
    """All that a visit can meet; what is wrong with it."""
    wrong = []
    for name, film in canaries.films().items():
        if "/thumbnail" not in alice.add(film, name):
            wrong.append(f"{name.rpartition('.')[2]} was not read")
    for name, film in canaries.broken_films().items():
        alice.add(film, name)
    if LAST_WORDS not in alice.ask(f"{CHAT}: is there an effusion?", indication=REASON):
        wrong.append("no answer")
    bob.add(builders.dicom(), "film.dcm")
    bob.ask("What do you see?")
    for misfortune in ("crash", "die", "memory"):
        alice.ask(f"{misfortune} {CHAT}")
        bob.ask("And now?")
    return wrong


def _upload_half(visitor: Visitor) -> None:
    """Begin an upload and hang up: what arrived must not stay."""
    url = httpx.URL(visitor.address)
    film = canaries.films()[f"{canaries.FILE_NAME}.dcm"]
    cookies = "; ".join(f"{name}={value}" for name, value in visitor.http.cookies.items())
    head = (
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: {url.host}:{url.port}\r\nOrigin: {visitor.address}\r\n"
        f"Cookie: {cookies}\r\nContent-Length: {2 * len(film)}\r\n"
        "Content-Type: multipart/form-data; boundary=edge\r\n\r\n"
        f'--edge\r\nContent-Disposition: form-data; name="files"; filename="{canaries.FILE_NAME}"\r\n\r\n'
    )
    with socket.create_connection((url.host, url.port or 80), timeout=10) as line:
        line.sendall(head.encode() + film)
        time.sleep(0.3)


def _metrics(port: int) -> str:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    except httpx.HTTPError:
        return ""


def _public_pages(address: str) -> str:
    paths = ("/", "/config", "/healthz", "/readyz", "/gradio_api/info", "/nothing")
    return "".join(httpx.get(address + path, timeout=30).text for path in paths)


def _crash_while_busy(served: Served) -> None:
    """kill -9 the app while one person uploads and another reads an answer."""

    def work() -> None:
        try:
            with Visitor(served.address) as visitor:
                visitor.add(canaries.films()[f"{canaries.FILE_NAME}.dcm"], f"{canaries.FILE_NAME}.dcm")
                visitor.ask(f"{CHAT} again?")
        except (httpx.HTTPError, Refused, OSError, ValueError):
            pass  # the server is gone, which is the point

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    served.kill()
    for thread in threads:
        thread.join()
