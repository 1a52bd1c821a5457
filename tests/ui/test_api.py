"""The app as gradio_client sees it: the documented examples run, and there are six functions, no more."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from cxr_assistant.settings import read_settings
from cxr_assistant.ui.api import ENDPOINTS
from cxr_assistant.ui.app import build_app, launch
from cxr_assistant.ui.web import make_upload_dir
from tests.conftest import PROJECT_ROOT
from tests.documented import run_section
from tests.ui.doubles import FINDINGS, ScriptedAssistant, ScriptedWorker, on_a_loop, png_bytes

DOCUMENT = PROJECT_ROOT / "docs" / "api.md"


@pytest.fixture(scope="module")
def worker() -> ScriptedWorker:
    return ScriptedWorker()


@pytest.fixture(scope="module")
def address(worker: ScriptedWorker) -> Iterator[str]:
    given = {"CXR_PORT": str(_free_port()), "CXR_ANSWERS_PER_MINUTE": "1000", "CXR_MCP": "yes"}
    settings = read_settings(given)
    blocks = on_a_loop(lambda: build_app(ScriptedAssistant(worker), settings))
    on_a_loop(lambda: launch(blocks, settings, prevent_thread_lock=True, announce=None))
    yield str(blocks.local_url)
    blocks.close()


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    client = Client(address, verbose=False)
    yield client
    client.close()


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "Doe^Jane 1961.png"
    path.write_bytes(png_bytes(7))
    return path


def test_the_documented_examples_run(address: str) -> None:
    health, draft, steps, view, _ = run_section(DOCUMENT, "With gradio_client", address)
    assert "ready" in health
    assert FINDINGS in draft
    assert "turn 1" in steps
    assert view.strip() == "PA"


def test_the_documented_mcp_client_runs(address: str) -> None:
    pytest.importorskip("mcp", reason="requirements-mcp.txt is not installed")
    (printed,) = run_section(DOCUMENT, "With an MCP client", address)
    tools, state, draft, *rest = printed.splitlines()
    assert tools == str(sorted(ENDPOINTS))
    assert (state, draft) == ("ready", FINDINGS)
    assert len(rest) == 4


@pytest.mark.requirement("A3")
def test_six_functions_and_nothing_else_can_be_called(client: Client) -> None:
    info = client.view_api(return_format="dict")
    assert set(info["named_endpoints"]) == {f"/{name}" for name in ENDPOINTS}
    assert not info["unnamed_endpoints"]


def test_every_reply_is_typed(client: Client) -> None:
    info = client.view_api(return_format="dict")["named_endpoints"]
    for endpoint in info.values():
        (returned,) = endpoint["returns"]
        assert "disclaimer: str" in returned["python_type"]["type"]
        assert all(p["python_type"]["type"] in ("str", "filepath") for p in endpoint["parameters"])


@pytest.mark.requirement("P6")
def test_a_film_is_gone_from_the_disk_when_it_was_answered(client: Client, film: Path) -> None:
    client.predict(film=handle_file(film), model="llava-rad", api_name="/draft_findings")
    left = [p for p in make_upload_dir().rglob("*") if p.is_file() and p.stat().st_size > 1000]
    assert left == []


def test_callers_at_the_same_time_get_answers_to_their_own_questions(address: str, film: Path) -> None:
    """With the very same film, too: nobody's upload is another's."""

    def ask(number: int) -> str:
        client = Client(address, verbose=False)
        try:
            reply = client.predict(
                film=handle_file(film), question=f"Number {number}?", model="llava-rad", api_name="/ask"
            )
        finally:
            client.close()
        return str(reply["text"])

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(ask, range(4)))
    assert [f"Number {n}?" in answer for n, answer in enumerate(answers)] == [True] * 4


def test_a_job_that_is_cancelled_ends_its_answer(client: Client, film: Path, worker: ScriptedWorker) -> None:
    worker.word_delay_s = 0.05
    try:
        job = client.submit(
            film=handle_file(film), question="a long story", model="llava-rad", api_name="/ask"
        )
        next(job)
        job.cancel()
        _until(lambda: worker.running == 0)
    finally:
        worker.word_delay_s = 0.0
    assert worker.running == 0


@pytest.mark.requirement("A3")
@pytest.mark.parametrize(
    "film",
    [
        {"path": "http://127.0.0.1:9/film.png", "meta": {"_type": "gradio.FileData"}},
        {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}},
        {"path": "/etc/hostname"},
        {"path": f"{PROJECT_ROOT}/README.md"},
        {"path": 5},
        {},
        "film.png",
        None,
    ],
    ids=["address", "foreign", "bare", "project", "number", "empty", "text", "nothing"],
)
def test_only_an_uploaded_file_is_read(address: str, film: Any) -> None:
    """Raw requests, as no client would send them: refused, and the file that was named is still there."""
    body = {"data": [film, "", ""]}
    with httpx.Client(base_url=address, timeout=20) as http:
        http.get("/config")
        begun = http.post("/gradio_api/call/draft_findings", json=body)
        if begun.status_code == 200:
            answer = http.get(f"/gradio_api/call/draft_findings/{begun.json()['event_id']}").text
            assert "event: error" in answer
            assert "finish_reason" not in answer
    assert os.path.exists("/etc/hostname")
    assert (PROJECT_ROOT / "README.md").exists()


def test_a_refusal_reaches_the_program_as_a_sentence(client: Client, film: Path) -> None:
    with pytest.raises(AppError, match=r"knows computed phantoms alone.*\[foreign_image\]"):
        client.predict(film=handle_file(film), model="embedded", api_name="/draft_findings")


@pytest.mark.requirement("P5")
def test_what_went_wrong_inside_stays_inside(client: Client, film: Path) -> None:
    with pytest.raises(AppError, match=r"Something went wrong.*\[unexpected\]") as refusal:
        client.predict(film=handle_file(film), question="explode", model="llava-rad", api_name="/ask")
    assert "secret" not in str(refusal.value)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _until(is_so: Any, patience_s: float = 10.0) -> None:
    deadline = time.monotonic() + patience_s
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.02)
