"""Running the app where it matters: who may start it, what it says of itself, what it writes down."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from cxr_assistant.errors import SettingsError
from cxr_assistant.settings import read_settings
from cxr_assistant.ui.api import ENDPOINTS
from cxr_assistant.ui.room import ReadingRoom
from cxr_assistant.ui.web.audit import ACTIONS, AuditLog, check_audit_log
from cxr_assistant.ui.web.profiles import check_profile

SECRET = "canary-secret-canary-secret-canary-secret"


@pytest.mark.requirement("A1")
@pytest.mark.parametrize(
    ("environment", "may_start"),
    [
        ({"CXR_PROFILE": "demo", "CXR_HOST": "0.0.0.0"}, True),
        ({"CXR_PROFILE": "onprem", "CXR_HOST": "127.0.0.1"}, True),
        ({"CXR_PROFILE": "onprem", "CXR_HOST": "0.0.0.0"}, False),
        ({"CXR_PROFILE": "onprem", "CXR_HOST": "::"}, False),
        ({"CXR_PROFILE": "onprem", "CXR_HOST": "10.0.0.7", "CXR_AUDIT_LOG": "audit.jsonl"}, False),
    ],
)
def test_a_hospital_app_that_others_reach_needs_a_login(environment: dict[str, str], may_start: bool) -> None:
    settings = read_settings(environment)
    if may_start:
        check_profile(settings)
        return
    with pytest.raises(SettingsError, match="log in"):
        check_profile(settings)


@pytest.mark.requirement("A4")
def test_a_secret_of_the_settings_is_in_no_description_of_them() -> None:
    settings = read_settings({"CXR_API_TOKEN": SECRET})
    assert settings.web.api_token == SECRET
    assert SECRET not in repr(settings)


@pytest.mark.requirement("A6")
def test_an_audit_log_is_a_chain_that_tells_of_tampering(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for user in ("ada", "ben"):  # the app was restarted in between
        log = AuditLog(path)
        log.note("add film", user=user, visit="0123456789abcdef")
        log.note("ask", user=user)
        log.close()
    check_audit_log(path)
    assert path.stat().st_mode & 0o077 == 0
    whole = path.read_bytes()
    keys = {key for line in whole.splitlines() for key in json.loads(line)}
    assert keys == {"time", "user", "action", "outcome", "visit", "before"}
    for damaged in (
        whole.replace(b'"ada"', b'"eve"', 1),
        b"".join(whole.splitlines(keepends=True)[:1] + whole.splitlines(keepends=True)[2:]),
    ):
        path.write_bytes(damaged)
        with pytest.raises(SettingsError, match="Line"):
            check_audit_log(path)


def test_every_action_of_the_audit_log_is_one_that_can_be_taken() -> None:
    verbs = {name for name in vars(ReadingRoom) if not name.startswith("_")}
    assert sorted(set(ACTIONS) - verbs - set(ENDPOINTS)) == ["mcp"]
    assert set(ENDPOINTS) - set(ACTIONS) == {"health"}  # asks nothing about anybody


@pytest.mark.requirement("D8", "P4")
def test_the_app_says_that_it_is_well_and_nothing_else(address: str) -> None:
    for page in ("healthz", "readyz"):
        answer = httpx.get(address + page, timeout=30)
        assert answer.status_code == 200, page
        assert all(isinstance(value, bool) for value in answer.json().values())


@pytest.mark.requirement("A3", "P8")
@pytest.mark.parametrize(
    "path",
    ["openapi.json", "docs", "monitoring", "gradio_api/openapi.json", "gradio_api/file=http://127.0.0.1:9/",
     "gradio_api/proxy=http://127.0.0.1:9/", "gradio_api/component_server", "gradio_api/deep_link",
     "gradio_api/file=/etc/passwd", "gradio_api/run/add", "gradio_api/vibe-starter-queries"],
)  # fmt: skip
def test_what_gradio_would_serve_beside_the_page_is_not_there(address: str, path: str) -> None:
    assert httpx.get(address + path, timeout=30).status_code in (401, 404, 405)


@pytest.mark.requirement("A8")
def test_every_page_says_what_this_is_not(address: str) -> None:
    assert "Not a medical device" in httpx.get(address + "config", timeout=30).text
