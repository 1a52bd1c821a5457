"""The tools for MCP clients, without a server: what goes wrong is a sentence, and places are counted."""

from __future__ import annotations

import base64
import sys
from typing import Any

import pytest

from cxr_assistant.errors import SettingsError
from cxr_assistant.ui.mcp_door import Tools, mcp_routes
from cxr_assistant.ui.programs import Programs
from tests.ui.doubles import FINDINGS, ScriptedAssistant, png_bytes

exceptions = pytest.importorskip(
    "mcp.server.mcpserver.exceptions", reason="requirements-mcp.txt is not installed"
)
FILM = base64.b64encode(png_bytes(1)).decode()


@pytest.fixture
def tools(assistant: ScriptedAssistant) -> Tools:
    return Tools(Programs(assistant), max_calls=1)


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


def test_whoever_comes_when_every_place_is_taken_is_told_so(tools: Tools) -> None:
    with tools._place(), pytest.raises(exceptions.ToolError, match=r"\[busy\]$"):
        tools.draft_findings(FILM)
    assert tools.draft_findings(FILM, model="llava-rad").finish_reason == "stop"


def test_without_the_package_the_setting_is_an_error(
    assistant: ScriptedAssistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    with pytest.raises(SettingsError, match="'mcp' is not installed"):
        mcp_routes(Programs(assistant), max_calls=1)


def test_every_tool_says_what_it_takes(assistant: ScriptedAssistant) -> None:
    from mcp.server import MCPServer

    server = MCPServer("test")
    Tools(Programs(assistant), max_calls=1).offer(server)
    tools: list[Any] = server._tool_manager.list_tools()
    assert all(tool.description for tool in tools)
    assert all("film" in tool.parameters["properties"] for tool in tools if tool.name != "health")
