"""The tools for MCP clients, without a server: what goes wrong is a sentence, and places are counted."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep
from typing import Any

import pytest
from starlette.testclient import TestClient

from cxr_assistant.errors import SettingsError
from cxr_assistant.settings import read_settings
from cxr_assistant.ui.app import build_app
from cxr_assistant.ui.mcp_door import MCP_PATH, Tools, mcp_routes
from cxr_assistant.ui.programs import Programs
from cxr_assistant.ui.switchboard import Ending
from cxr_assistant.ui.web.ownership import Caller
from cxr_assistant.ui.web.site import Site
from tests.ui.doubles import FINDINGS, ScriptedAssistant, ScriptedWorker, on_a_loop, png_bytes

exceptions = pytest.importorskip(
    "mcp.server.mcpserver.exceptions", reason="requirements-mcp.txt is not installed"
)
FILM = base64.b64encode(png_bytes(1)).decode()


@pytest.fixture
def tools(assistant: ScriptedAssistant) -> Tools:
    return Tools(Programs(assistant))


def test_a_tool_answers_with_the_whole_reply(tools: Tools) -> None:
    assert tools.draft_findings(FILM, model="llava-rad").text == FINDINGS


@pytest.mark.parametrize(
    ("film", "code"),
    [
        ("not base64!", "bad_header"),
        ("", "bad_type"),
        ("file:///etc/passwd", "bad_header"),
        (FILM, "foreign_image"),
    ],
    ids=["no-base64", "empty", "address", "no-phantom"],
)
def test_a_refusal_is_a_sentence_with_a_code(tools: Tools, film: str, code: str) -> None:
    with pytest.raises(exceptions.ToolError, match=rf"\[{code}\]$"):
        tools.draft_findings(film, model="embedded")


def test_without_the_package_the_setting_is_an_error(
    assistant: ScriptedAssistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    with pytest.raises(SettingsError, match="'mcp' is not installed"):
        mcp_routes(Programs(assistant))


def test_every_tool_says_what_it_takes(assistant: ScriptedAssistant) -> None:
    from mcp.server import MCPServer

    server = MCPServer("test")
    Tools(Programs(assistant)).offer(server)
    tools: list[Any] = server._tool_manager.list_tools()
    assert all(tool.description for tool in tools)
    assert all("film" in tool.parameters["properties"] for tool in tools if tool.name != "health")


# Over the web: who asks is counted ------------------------------------------------------------------------


@pytest.fixture
def worker() -> ScriptedWorker:
    return ScriptedWorker()


@pytest.fixture
def site(worker: ScriptedWorker) -> Iterator[Site]:
    """One answer at a time for one address; the whole has room for many."""
    settings = read_settings({"CXR_MCP": "yes", "CXR_MAX_ANSWERS_PER_ADDRESS": "1"})
    site = on_a_loop(lambda: Site(build_app(ScriptedAssistant(worker), settings), settings))
    yield site
    site.close()


def _ask(site: Site, address: str, question: str) -> str:
    """What a client at that address is told: the text of the answer, or of the refusal."""
    client = TestClient(site.asgi, base_url="http://localhost", client=(address, 4))
    arguments = {"film": FILM, "question": question, "model": "llava-rad"}
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "ask", "arguments": arguments},
    }
    reply = client.post(MCP_PATH, json=call, headers={"accept": "application/json, text/event-stream"})
    return str(reply.json()["result"]["content"][0]["text"])


def _until(is_so: Callable[[], bool], patience_s: float = 30.0) -> None:
    deadline = monotonic() + patience_s
    while not is_so():
        assert monotonic() < deadline
        sleep(0.01)


def test_one_address_is_refused_while_another_gets_its_answer(site: Site, worker: ScriptedWorker) -> None:
    worker.word_delay_s = 0.05
    with ThreadPoolExecutor(1) as greedy:
        long = greedy.submit(_ask, site, "192.0.2.1", "a long story")
        try:
            _until(lambda: worker.running == 1)
            assert "from your address" in _ask(site, "192.0.2.1", "And this?")
            assert "[busy]" not in _ask(site, "192.0.2.2", "And this?")
            assert worker.running == 1, "the first is still being written"
        finally:
            for page in site.ledger.pages():
                site._stop(page.name, Ending.LEFT)
        long.result(30)
    assert "[busy]" not in _ask(site, "192.0.2.1", "And now?")


def test_nothing_is_left_of_a_message_that_was_answered(site: Site) -> None:
    _ask(site, "192.0.2.1", "Is there an effusion?")
    assert (site.ledger.pages(), site.admission.num_open) == ((), 0)


def test_messages_of_one_address_are_as_many_as_its_pages() -> None:
    settings = read_settings({"CXR_MCP": "yes", "CXR_MAX_PAGES_PER_ADDRESS": "1"})
    site = on_a_loop(lambda: Site(build_app(ScriptedAssistant(ScriptedWorker()), settings), settings))
    site.ledger.open_page("a page of it", Caller("ann", "192.0.2.1"))
    client = TestClient(site.asgi, base_url="http://localhost", client=("192.0.2.1", 4))
    assert client.post(MCP_PATH, json={}).status_code == 503
    site.close()
