"""The smaller parts of the web layer: uploads, profiles, logging in, the audit log, metrics."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
import urllib.request
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from cxr_assistant.errors import SettingsError
from cxr_assistant.settings import Limits, read_settings
from cxr_assistant.ui.web.audit import AuditLog, check_audit_log
from cxr_assistant.ui.web.doors import health_routes, login_routes
from cxr_assistant.ui.web.login import Users, add_user
from cxr_assistant.ui.web.metrics import Metrics, serve_metrics
from cxr_assistant.ui.web.ownership import Browsers
from cxr_assistant.ui.web.profiles import check_profile
from cxr_assistant.ui.web.uploads import UPLOAD_LIFE_S, Sweeper, clear_leftovers, receive_files

# Uploads ------------------------------------------------------------------------------------------------


@pytest.mark.requirement("P6")
def test_files_that_nobody_fetched_and_empty_folders_are_swept(tmp_path: Path) -> None:
    now = [0.0]
    sweeper = Sweeper(tmp_path, lambda: now[0])
    folder, lock = tmp_path / "folder", tmp_path / ".lock"
    folder.mkdir()
    lock.touch()
    old, new = folder / "old", tmp_path / "new"
    old.write_bytes(b"film")
    assert sweeper.sweep() == []
    now[0] += UPLOAD_LIFE_S - 1
    new.write_bytes(b"film")
    assert sweeper.sweep() == []
    now[0] += 1
    assert sweeper.sweep() == [old]
    assert set(tmp_path.iterdir()) == {lock, folder, new}
    sweeper.clear()
    assert list(tmp_path.iterdir()) == [lock]


@pytest.mark.requirement("P6")
def test_an_upload_that_still_grows_stays(tmp_path: Path) -> None:
    now = [0.0]
    sweeper = Sweeper(tmp_path, lambda: now[0])
    film = tmp_path / "film"
    for second in range(3):
        film.write_bytes(b"film" * second)
        os.utime(film, ns=(second, second))
        assert sweeper.sweep() == []
        now[0] += UPLOAD_LIFE_S


@pytest.mark.requirement("D7")
def test_files_that_are_fetched_while_they_are_counted_disturb_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty visitors at once: the film of one is read and gone between two looks of another's upload."""
    listed = os.scandir

    def list_and_lose(directory: Path) -> Any:
        entries = list(listed(directory))
        (tmp_path / "film").unlink(missing_ok=True)
        return nullcontext(entries)

    (tmp_path / "film").write_bytes(b"film")
    monkeypatch.setattr(os, "scandir", list_and_lose)

    async def body() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\nfilm\r\n--b--\r\n'

    kind = "multipart/form-data; boundary=b"
    with ThreadPoolExecutor(1) as thread:  # the browser's driver keeps a loop running in this one
        (path,) = thread.submit(asyncio.run, receive_files(body(), kind, tmp_path, Limits())).result()
    assert path.read_bytes() == b"film"


@pytest.mark.requirement("P6", "D3")
def test_a_clock_that_was_set_makes_no_fresh_upload_old(tmp_path: Path) -> None:
    sweeper = Sweeper(tmp_path, lambda: 0.0)
    film = tmp_path / "film"
    film.write_bytes(b"film")
    os.utime(film, (time.time() - 86_400,) * 2)  # what it looks like once the clock has jumped a day ahead
    assert sweeper.sweep() == [] and film.exists()


@pytest.mark.requirement("P6")
def test_the_directory_of_a_process_that_died_is_removed_at_the_next_start(tmp_path: Path) -> None:
    for name in ("dead", "alive"):
        directory = tmp_path / f"cxr-uploads-{name}"
        directory.mkdir()
        (directory / ".lock").touch()
        (directory / "film").write_bytes(b"film")
    with (tmp_path / "cxr-uploads-alive" / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert clear_leftovers(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cxr-uploads-alive"]


# Profiles -----------------------------------------------------------------------------------------------

LOGIN = {"CXR_USERS_FILE": "users"}
PROXY = {"CXR_USER_HEADER": "X-User", "CXR_TRUSTED_PROXIES": "10.0.0.1"}
TLS = {"CXR_PUBLIC_URL": "https://cxr.example"}
LOG = {"CXR_AUDIT_LOG": "audit.jsonl"}


@pytest.mark.requirement("A1")
@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        ({"CXR_HOST": "127.0.0.1"}, ""),
        ({"CXR_HOST": "0.0.0.0"}, "nobody has to log in"),
        ({"CXR_HOST": "10.0.0.5", **TLS, **LOG}, "nobody has to log in"),
        ({"CXR_HOST": "0.0.0.0", **LOGIN}, "unencrypted"),
        ({"CXR_HOST": "0.0.0.0", **LOGIN, **TLS}, "no audit log"),
        ({"CXR_HOST": "0.0.0.0", **LOGIN, **TLS, **LOG}, ""),
        ({"CXR_HOST": "0.0.0.0", **PROXY, **LOG}, ""),
    ],
    ids=["loopback", "open", "tls-only", "no-tls", "no-log", "users", "proxy"],
)
def test_a_hospital_does_not_start_with_a_door_open(environ: dict[str, str], missing: str) -> None:
    settings = read_settings({"CXR_PROFILE": "onprem", **environ})
    if not missing:
        check_profile(settings)
        return
    with pytest.raises(SettingsError, match=missing):
        check_profile(settings)


def test_the_demonstration_starts_anywhere() -> None:
    check_profile(read_settings({"CXR_HOST": "0.0.0.0"}))


@pytest.mark.parametrize(
    "environ",
    [
        {"CXR_PROFILE": "clinic"},
        {"CXR_PUBLIC_URL": "cxr.example"},
        {"CXR_TRUSTED_PROXIES": "everybody"},
        {"CXR_USER_HEADER": "X-User"},
        {"CXR_API_TOKEN": "short"},
        {"CXR_MAX_TURNS": "0"},
        {"CXR_METRICS_PORT": "-1"},
    ],
    ids=lambda environ: next(iter(environ)),
)
def test_a_setting_that_makes_no_sense_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError):
        read_settings(environ)


def test_the_token_is_never_shown() -> None:
    assert "t" * 40 not in repr(read_settings({"CXR_API_TOKEN": "t" * 40}))


# Logging in ---------------------------------------------------------------------------------------------

PASSWORD = "correct horse battery"


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    add_user(path, "ann", PASSWORD)
    return path


@pytest.fixture
def audit(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit.jsonl")


@pytest.fixture
def door(users: Path, audit: AuditLog) -> TestClient:
    limits = Limits(logins_per_minute=3)
    routes = login_routes(Users(users), Browsers(), limits, audit, is_framed=False)
    return TestClient(Starlette(routes=routes), base_url="https://cxr.example", follow_redirects=False)


def _log_in(door: TestClient, name: str, password: str) -> int:
    return door.post("/login", data={"name": name, "password": password}).status_code


def test_the_right_password_opens_and_the_wrong_one_does_not(door: TestClient) -> None:
    assert _log_in(door, "ann", "wrong wrong wrong") == 401
    assert _log_in(door, "bob", PASSWORD) == 401
    response = door.post("/login", data={"name": "ann", "password": PASSWORD})
    assert response.status_code == 303 and "__Host-cxr=" in response.headers["set-cookie"]
    assert door.post("/logout").headers["set-cookie"].endswith("Max-Age=0")


def test_guessing_is_slowed_down(door: TestClient) -> None:
    statuses = [_log_in(door, "ann", f"guess number {n}") for n in range(5)]
    assert statuses == [401, 401, 401, 429, 429]
    assert _log_in(door, "ann", PASSWORD) == 429


def test_the_file_of_users_holds_no_password_and_is_the_owners_alone(users: Path) -> None:
    assert PASSWORD not in users.read_text() and users.stat().st_mode & 0o777 == 0o600
    add_user(users, "ann", "another long password")
    assert not Users(users).check("ann", PASSWORD)
    assert Users(users).check("ann", "another long password")
    assert len(users.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "password"), [("ann:x", PASSWORD), ("", PASSWORD), ("a" * 65, PASSWORD), ("ann", "short")]
)
def test_a_user_that_cannot_be_is_refused(tmp_path: Path, name: str, password: str) -> None:
    with pytest.raises(SettingsError):
        add_user(tmp_path / "users", name, password)


def test_a_file_that_holds_nobody_is_refused(tmp_path: Path) -> None:
    for content in ("", "# nobody\n", "not a line of users\n"):
        (tmp_path / "users").write_text(content)
        with pytest.raises(SettingsError):
            Users(tmp_path / "users")


# The audit log -------------------------------------------------------------------------------------------


@pytest.mark.requirement("A6")
def test_the_audit_log_says_who_when_and_what_kind_and_shows_tampering(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    for action in ("log in", "ask", "log out"):
        log.note(action, user="ann", visit="0123456789abcdef")
    log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["action"] for line in lines] == ["log in", "ask", "log out"]
    assert set(lines[0]) == {"time", "user", "action", "outcome", "visit", "before"}
    check_audit_log(path)
    kept = path.read_bytes()
    for forged in (kept.replace(b"ann", b"bob", 1), b"".join(kept.splitlines(True)[::2])):
        path.write_bytes(forged)
        with pytest.raises(SettingsError, match="Line 2"):
            check_audit_log(path)


@pytest.mark.requirement("A6")
def test_a_line_that_a_crash_cut_off_does_not_keep_the_app_from_starting(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.note("ask", user="ann")
    log.close()
    with path.open("ab") as file:
        file.write(b'{"time": "2026-')
    log = AuditLog(path)
    log.note("ask", user="bob")
    log.close()
    check_audit_log(path)
    assert len(path.read_text().splitlines()) == 2 and path.stat().st_mode & 0o777 == 0o600


def test_a_log_in_leaves_no_password_in_the_audit_log(door: TestClient, tmp_path: Path) -> None:
    _log_in(door, "ann", "typed in haste 123")
    _log_in(door, "my password by mistake", PASSWORD)
    text = (tmp_path / "audit.jsonl").read_text()
    assert "haste" not in text and "mistake" not in text and text.count("refused") == 2


# Metrics and health ---------------------------------------------------------------------------------------


@pytest.mark.requirement("D8")
def test_metrics_hold_numbers_under_names_of_our_own() -> None:
    metrics = Metrics(lambda: {"pages_open": 2})
    for outcome in ("stop", "busy", 'x"} evil 1', "failed"):
        metrics.count_answer(outcome, 0.3)
    metrics.count_response(404)
    text = metrics.exposition()
    assert 'cxr_answers_total{outcome="failed"} 2' in text and "evil" not in text
    assert 'cxr_answer_seconds_bucket{le="0.5"} 4' in text and "cxr_pages_open 2" in text
    assert 'cxr_responses_total{status="4xx"} 1' in text


def test_metrics_have_a_port_of_their_own() -> None:
    server = serve_metrics(Metrics(), "127.0.0.1", 0)
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        with urllib.request.urlopen(f"{address}/metrics", timeout=20) as response:
            assert b"cxr_answers_total" in response.read()
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.requirement("D8")
def test_readiness_is_the_engine_and_room_in_the_queue() -> None:
    state = {"engine": True, "queue": True}
    client = TestClient(Starlette(routes=health_routes(lambda: state)))
    assert client.get("/readyz").status_code == 200
    state["engine"] = False
    assert client.get("/readyz").json() == {"ok": False, "engine": False, "queue": True}
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").json() == {"ok": True}
