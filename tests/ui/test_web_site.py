"""The real app over HTTP: what Gradio brings along stays shut, visitors stay apart, nothing stays behind."""

from __future__ import annotations

import gc
import json
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from cxr_assistant.settings import read_settings
from cxr_assistant.ui.app import build_app, launch
from cxr_assistant.ui.switchboard import Ending
from cxr_assistant.ui.web import heads, make_upload_dir, site
from cxr_assistant.ui.web.allowlist import find_rule
from tests.ui.doubles import FINDINGS, ScriptedAssistant, ScriptedWorker, on_a_loop, png_bytes

ROUTES = Path(__file__).parent / "gradio_routes.txt"
BROWSERS, PROGRAMS, TURNS = 2, 20, 2
PATIENCE_S = 250.0  # of any request: a machine may be loaded
LIMITS = {
    name: "10000"
    for name in ("CXR_ANSWERS_PER_MINUTE", "CXR_ANSWERS_PER_MINUTE_PER_ADDRESS", "CXR_REQUESTS_PER_MINUTE")
}


class App:
    """A running app with a scripted model."""

    def __init__(self) -> None:
        self.worker = ScriptedWorker()
        settings = read_settings(
            {
                **LIMITS,
                "CXR_PORT": "0",
                "CXR_MAX_ANSWERS_PER_ADDRESS": "100",
                "CXR_MAX_QUEUE": "60",
                "CXR_MAX_PAGES": "2000",
                "CXR_MAX_PAGES_PER_ADDRESS": "2000",
                "CXR_PAGE_GRACE_S": "300",  # on a loaded machine minutes pass between two requests
                "CXR_STALL_S": "300",
            }
        )
        self.blocks = on_a_loop(lambda: build_app(ScriptedAssistant(self.worker), settings))
        self.site = on_a_loop(lambda: launch(self.blocks, settings, prevent_thread_lock=True, announce=None))
        self.url = str(self.blocks.local_url)
        self.clients: list[httpx.Client] = []

    def number_of(self, handler: str) -> int:
        """The number of the first event that is handled by a method of that name."""
        return next(n for n, fn in self.blocks.fns.items() if getattr(fn.fn, "__name__", "") == handler)


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    running = App()
    yield running
    for client in running.clients:
        client.close()
    running.blocks.close(verbose=False)


def test_what_lasts_is_not_looked_through_for_garbage(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    exempt: list[int] = []

    def run_here(server: site._Server) -> None:
        exempt.append(gc.get_freeze_count())
        server._bound.close()

    monkeypatch.setattr(site._Server, "run_here", run_here)
    settings = read_settings({"CXR_PORT": "0"})
    blocks = on_a_loop(lambda: build_app(ScriptedAssistant(app.worker), settings))
    on_a_loop(lambda: launch(blocks, settings, announce=None)).close()
    gc.unfreeze()
    assert exempt[0] > 100_000


class Visitor:
    """One browser tab, as far as HTTP goes."""

    def __init__(self, app: App) -> None:
        self.app, self.page = app, secrets.token_hex(6)
        self.http = httpx.Client(base_url=app.url, timeout=PATIENCE_S)
        app.clients.append(self.http)
        assert self.http.get("/").status_code == 200

    def begin(self, handler: str, data: list[Any], event: dict[str, Any] | None = None) -> httpx.Response:
        body = {
            "session_hash": self.page,
            "fn_index": self.app.number_of(handler),
            "data": data,
            "event_data": event,
            "trigger_id": None,
        }
        return self.http.post("/gradio_api/queue/join", json=body)

    def said(self) -> Iterator[dict[str, Any]]:
        """What comes down this page's stream until all of its events are over."""
        address = f"/gradio_api/queue/data?session_hash={self.page}"
        with self.http.stream("GET", address) as stream:
            assert stream.status_code == 200
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    message = json.loads(line[6:])
                    yield message
                    if message["msg"] == "close_stream":
                        return

    def do(self, handler: str, data: list[Any], event: dict[str, Any] | None = None) -> str:
        assert self.begin(handler, data, event).status_code == 200
        return json.dumps(list(self.said()))


def until(is_so: Callable[[], bool], patience_s: float = PATIENCE_S) -> float:
    """Seconds until it is so."""
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() - started < patience_s
        time.sleep(0.01)
    return time.monotonic() - started


@pytest.mark.requirement("A3")
def test_every_route_of_gradio_is_known_and_open_only_where_the_list_says(app: App) -> None:
    """A new version that brings another route fails here: look at it, then write it down."""
    found = {
        f"{method} {route.path}"
        for route in _flat(app.blocks.app.routes)
        for method in sorted(getattr(route, "methods", None) or {"ANY"})
    }
    recorded = {}
    for line in ROUTES.read_text("utf-8").splitlines():
        verdict, _, name = line.partition(" ")
        recorded[name] = verdict
    assert found == set(recorded)
    for name, verdict in recorded.items():
        method, _, path = name.partition(" ")
        example = re.sub(r"\{[^}]*\}", "aaaaaaaa", path)
        assert (find_rule(method, example) is not None) is (verdict == "open"), name


def _flat(routes: Iterable[Any]) -> Iterator[Any]:
    for route in routes:
        if hasattr(route, "original_router"):  # FastAPI keeps an included router as one route
            yield from _flat(route.original_router.routes)
        else:
            yield route


@pytest.mark.requirement("P8")
def test_nothing_is_recorded_or_reported(app: App) -> None:
    with httpx.Client(base_url=app.url, timeout=PATIENCE_S) as http:
        http.get("/")
        config = http.get("/config").json()
    assert config["analytics_enabled"] is False
    assert not config.get("run_history") and not config.get("is_space") and config["footer_links"] == []


@pytest.mark.requirement("P7")
def test_visitors_at_the_same_time_see_their_own_answers_alone(app: App, figure: Any) -> None:
    """Two browsers and twenty programs at once, each with a marker of its own in question and answer."""

    def browser(number: int) -> list[str]:
        visitor, seen = Visitor(app), []
        visitor.do("demonstrate", [None, None])
        for turn in range(TURNS):
            mark = f"browser{number}turn{turn}mark"
            event = {"task": "question", "prompt": mark, "indication": ""}
            seen.append(visitor.do("send", [None, None], event))
        return seen

    def program(number: int) -> list[str]:
        seen = []
        with httpx.Client(base_url=app.url, timeout=PATIENCE_S) as http:
            for turn in range(TURNS):
                (path,) = http.post("/gradio_api/upload", files={"files": ("x", png_bytes(number))}).json()
                film = {"path": path, "meta": {"_type": "gradio.FileData"}}
                data = [film, f"program{number}turn{turn}mark", "", "llava-rad"]
                event = http.post("/gradio_api/call/ask", json={"data": data}).json()["event_id"]
                seen.append(http.get(f"/gradio_api/call/ask/{event}").text)
        return seen

    with ThreadPoolExecutor(BROWSERS + PROGRAMS) as threads:
        browsers = [threads.submit(browser, n) for n in range(BROWSERS)]
        programs = [threads.submit(program, n) for n in range(PROGRAMS)]
        told = {f"browser{n}": job.result() for n, job in enumerate(browsers)}
        told |= {f"program{n}": job.result() for n, job in enumerate(programs)}
    crossed = 0
    for name, answers in told.items():
        for turn, answer in enumerate(answers):
            assert f"{name}turn{turn}mark" in answer, (name, answer[:500])
            marks = set(re.findall(r"(?:browser|program)\d+(?=turn\dmark)", answer))
            crossed += len(marks - {name})
    figure("cross-talk in 2 browsers and 20 programs", crossed, "answers")
    assert crossed == 0


@pytest.mark.requirement("P7")
def test_a_thousand_guesses_at_the_real_app_reach_nothing(app: App, figure: Any) -> None:
    ann, bob = Visitor(app), Visitor(app)
    ann.do("demonstrate", [None, None])
    event = ann.begin("stop", []).json()["event_id"]
    statuses = []
    for number in range(250):
        guess = ann.page if number == 0 else secrets.token_hex(6)
        cancel = {"session_hash": guess, "event_id": event, "fn_index": 0}
        statuses.append(bob.http.get(f"/gradio_api/queue/data?session_hash={guess}").status_code)
        statuses.append(bob.http.post("/gradio_api/cancel", json=cancel).status_code)
        statuses.append(bob.http.get(f"/film/{guess}/{secrets.token_hex(32)}/pixels").status_code)
        path = f"/gradio_api/file={make_upload_dir()}/{secrets.token_hex(16)}"
        statuses.append(bob.http.get(path).status_code)
    figure("guesses that reached something of another", sum(s != 404 for s in statuses), "of 1,000")
    assert set(statuses) == {404} and len(statuses) == 1000


@pytest.mark.requirement("P5")
def test_an_error_inside_says_nothing_of_its_text_anywhere(app: App, capfd: Any, caplog: Any) -> None:
    visitor = Visitor(app)
    visitor.do("demonstrate", [None, None])
    event = {"task": "question", "prompt": "explode PHICANARY", "indication": ""}
    assert "secret" not in visitor.do("send", [None, None], event)
    visitor.begin("send", ["not", "what", "it", "takes", "PHICANARY"], {"prompt": "PHICANARY"})
    list(visitor.said())
    output = capfd.readouterr()
    assert "PHICANARY" not in output.out + output.err + caplog.text
    assert "secret" not in output.out + output.err + caplog.text
    assert "Traceback" not in output.err


@pytest.mark.requirement("P6")
def test_a_page_that_was_closed_is_forgotten_and_its_files_with_it(app: App) -> None:
    visitor = Visitor(app)
    with visitor.http.stream("GET", f"/gradio_api/heartbeat/{visitor.page}") as heartbeat:
        beats = heartbeat.iter_lines()  # kept: what is collected is closed
        next(beats)
        visitor.do("demonstrate", [None, None])
        assert visitor.page in app.blocks.state_holder.session_data
    page = app.site.ledger.find_page(visitor.page)
    assert page is not None
    until(lambda: not page.connections)  # a connection that ends later would begin the time of grace anew
    page.left_at -= 301
    page.acted_at -= 301
    until(lambda: app.site.ledger.find_page(visitor.page) is None)
    assert visitor.page not in app.blocks.state_holder.session_data
    assert visitor.page not in app.blocks._queue.pending_messages_per_session
    assert visitor.page not in app.blocks._queue.pending_event_ids_session


def test_a_busy_server_says_so_in_the_chat_at_once(app: App) -> None:
    admission = app.site.admission
    visitor = Visitor(app)
    visitor.do("demonstrate", [None, None])
    kept, admission._max_answers = admission._max_answers, 0
    try:
        event = {"task": "question", "prompt": "Heart?", "indication": ""}
        assert "as many as fit" in visitor.do("send", [None, None], event)
    finally:
        admission._max_answers = kept
    event = {"task": "question", "prompt": "Heart?", "indication": ""}
    assert "You asked: Heart?" in visitor.do("send", [None, None], event)


@pytest.mark.requirement("D8")
def test_the_app_says_that_it_is_well(app: App) -> None:
    with httpx.Client(base_url=app.url, timeout=PATIENCE_S) as http:
        assert http.get("/healthz").json() == {"ok": True}
        assert http.get("/readyz").json() == {"ok": True, "engine": True, "queue": True}
    assert "cxr_answers_open 0" in app.site.metrics.exposition()


# The one cancel flag, over the wire -------------------------------------------------------------------------


@pytest.fixture
def slow(app: App) -> Iterator[ScriptedWorker]:
    yield app.worker
    app.worker.word_delay_s = app.worker.prefill_delay_s = 0.0
    app.worker.says = ""


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


@pytest.mark.requirement("D3")
@pytest.mark.parametrize("moment", ["prefill", "decode"])
@pytest.mark.parametrize("way", ["stop", "close"])
def test_an_answer_ends_when_it_is_stopped_or_its_tab_is_closed(
    app: App, slow: ScriptedWorker, figure: Any, moment: str, way: str
) -> None:
    """The seconds are taken on the server: from the moment the flag can be known until the worker is idle."""
    slow.prefill_delay_s, slow.word_delay_s = (300.0, 0.0) if moment == "prefill" else (0.0, 0.02)
    took = []
    for _ in range(3):
        visitor = Visitor(app)
        _open_film(app, visitor)
        event = {"task": "question", "prompt": "a long story", "indication": ""}
        assert visitor.begin("send", [None, None], event).status_code == 200
        with visitor.http.stream("GET", f"/gradio_api/queue/data?session_hash={visitor.page}") as stream:
            lines = stream.iter_lines()  # kept: what is collected is closed, and its answer with it
            next(lines)
            until(lambda: slow.running == 1)
            if way == "stop":
                app.blocks.desk.switchboard.stop(visitor.page)
                took.append(until(lambda: slow.running == 0))
        if way == "close":
            took.append(until(lambda: slow.running == 0))
    figure(f"{way} to idle in {moment}, p99", _percentile(took, 0.99) * 1000, "ms")
    assert max(took) < 20  # a loaded machine; the figure says what it was


def _open_film(app: App, visitor: Visitor) -> None:
    kept = app.worker.prefill_delay_s, app.worker.word_delay_s
    app.worker.prefill_delay_s = app.worker.word_delay_s = 0.0
    assert visitor.do("demonstrate", [None, None])
    app.worker.prefill_delay_s, app.worker.word_delay_s = kept


@pytest.mark.requirement("D3", "D4")
def test_a_reader_who_takes_nothing_in_ends_the_answer(
    app: App, slow: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.site.asgi, "_limits", replace(app.site.asgi._limits, stall_s=1))
    visitor = Visitor(app)
    _open_film(app, visitor)
    slow.word_delay_s, slow.says = 0.002, " ".join(["loud" * 2_500] * 5_000)  # more than any buffer takes
    event = {"task": "question", "prompt": "tell me", "indication": ""}
    assert visitor.begin("send", [None, None], event).status_code == 200
    until(lambda: slow.running == 1)
    (flag,) = app.blocks.desk.switchboard._flags[visitor.page]
    url = httpx.URL(app.url)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((url.host, url.port or 80))
        cookies = "; ".join(f"{name}={value}" for name, value in visitor.http.cookies.items())
        path = f"/gradio_api/queue/data?session_hash={visitor.page}"
        deaf.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {url.netloc.decode()}\r\nCookie: {cookies}\r\n\r\n".encode()
        )
        assert deaf.recv(4096).startswith(b"HTTP/1.1 200")
        until(lambda: slow.running == 0)
    assert flag.ending is Ending.STALLED


@pytest.mark.requirement("D3", "D4")
def test_an_answer_that_nobody_listens_to_ends(app: App, slow: ScriptedWorker) -> None:
    visitor = Visitor(app)
    _open_film(app, visitor)
    slow.word_delay_s = 0.05
    event = {"task": "question", "prompt": "a long story", "indication": ""}
    assert visitor.begin("send", [None, None], event).status_code == 200
    until(lambda: slow.running == 1)
    (flag,) = app.blocks.desk.switchboard._flags[visitor.page]
    page = app.site.ledger.find_page(visitor.page)
    assert page is not None
    flag.born_at -= 301
    page.left_at -= 301
    until(lambda: slow.running == 0)


@pytest.mark.requirement("D7")
@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: "], ids=["nothing", "half a head"])
def test_a_client_that_never_finishes_the_head_of_a_request_is_let_go(
    app: App, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(heads, "HEAD_S", 0.3)
    whole = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(app.url).port or 80), timeout=20) as connection:
        connection.sendall(sent)
        assert connection.recv(1) == b""  # closed by the server, without a word
    with socket.create_connection(("127.0.0.1", httpx.URL(app.url).port or 80), timeout=20) as connection:
        connection.sendall(whole)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")
        time.sleep(0.5)
        connection.setblocking(False)
        with suppress(BlockingIOError):
            assert connection.recv(65_536)  # the rest of the first answer
        connection.settimeout(20)
        connection.sendall(whole)  # a connection that rests between two requests is kept
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.requirement("D7")
def test_a_body_that_was_refused_and_never_ends_is_let_go(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal leaves its body unread, and a byte of it must not stop the last clock that is running."""
    monkeypatch.setattr(heads, "HEAD_S", 0.3)
    with socket.create_connection(("127.0.0.1", httpx.URL(app.url).port or 80), timeout=20) as connection:
        head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 4")
        connection.sendall(b"x")
        while connection.recv(65_536):
            pass  # the rest of the refusal; then the server hangs up


def test_what_was_found_is_what_the_demonstration_says(app: App) -> None:
    visitor = Visitor(app)
    visitor.do("demonstrate", [None, None])
    assert FINDINGS[:40] in visitor.do("answer", [None, None])
