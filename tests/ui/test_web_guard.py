"""What the guard lets through: allowed addresses, from their owners, within bounds, and nothing else."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest

from cxr_assistant.ui.web.ownership import Caller
from tests.ui.webworld import ORIGIN, MakeWorld, World

ANN, BOB = "annannann", "bobbobbob"


@pytest.fixture
def make_world(tmp_path: Path) -> MakeWorld:
    return lambda **environ: World(tmp_path, **environ)


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


# What is answered at all --------------------------------------------------------------------------------


@pytest.mark.requirement("A3")
@pytest.mark.parametrize(
    "path",
    [
        "/openapi.json",
        "/docs",
        "/monitoring",
        "/login_check",
        "/svelte/",
        "/gradio_api/run/predict",
        "/gradio_api/api/predict",
        "/gradio_api/component_server",
        "/gradio_api/proxy=https://example.org",
        "/gradio_api/file=https://example.org/x.png",
        "/gradio_api/deep_link",
        "/gradio_api/runs",
        "/gradio_api/vibe-edit",
        "/gradio_api/profiling/summary",
        "/gradio_api/openapi.json",
        "/gradio_api/queue/join/more",
        "/gradio_api/uploads",
        "/gradio_api/mcp/sse",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_not_on_the_list_is_not_there(world: World, method: str, path: str) -> None:
    response = world.browser().request(method, path)
    assert response.status_code == 404
    assert world.inner.seen == []


def test_a_method_that_is_not_on_the_list_is_not_there(world: World) -> None:
    assert world.browser().put("/gradio_api/upload").status_code == 404


@pytest.mark.requirement("A2")
@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "169.254.169.254.nip.io"])
def test_a_foreign_host_name_is_refused(world: World, host: str) -> None:
    assert world.program().get("/", headers={"host": host}).status_code == 400


def test_with_a_public_address_only_its_name_counts(make_world: MakeWorld) -> None:
    world = make_world(CXR_PUBLIC_URL="https://cxr.hospital.example", CXR_HOST="0.0.0.0")
    ask = world.program().get
    assert ask("/healthz", headers={"host": "cxr.hospital.example"}).status_code == 200
    assert ask("/healthz", headers={"host": "10.1.2.3"}).status_code == 400


def test_forwarding_headers_of_strangers_count_for_nothing(world: World) -> None:
    forged = {"x-forwarded-host": "evil.example", "x-forwarded-proto": "https", "x-gradio-server": "http://e"}
    response = world.program().get("/", headers=forged)
    assert response.status_code == 200
    assert "__Host-" not in response.headers["set-cookie"]


def test_the_word_of_a_trusted_proxy_counts(make_world: MakeWorld) -> None:
    world = make_world(CXR_TRUSTED_PROXIES="10.0.0.0/8", CXR_PUBLIC_URL="https://cxr.example")
    told = {
        "x-forwarded-host": "cxr.example",
        "x-forwarded-proto": "https",
        "x-forwarded-for": "198.51.100.7",
    }
    response = world.program("10.0.0.1").get("/", headers=told)
    assert response.headers["set-cookie"].startswith("__Host-cxr=")
    assert "Secure" in response.headers["set-cookie"]
    assert "strict-transport-security" in response.headers


# The cookie and the headers ----------------------------------------------------------------------------


@pytest.mark.requirement("A2")
def test_the_cookie_is_random_and_out_of_reach_of_scripts(world: World) -> None:
    cookies = [world.program().get("/").headers["set-cookie"] for _ in range(3)]
    assert len(set(cookies)) == 3
    assert all("HttpOnly" in cookie and "SameSite=Lax" in cookie for cookie in cookies)
    assert all(len(cookie.split("=", 1)[1].split(";")[0]) >= 43 for cookie in cookies)  # 256 bits


def test_a_page_in_a_frame_of_a_space_gets_a_partitioned_cookie(make_world: MakeWorld) -> None:
    world = make_world(SPACE_ID="a/b", SPACE_HOST="a-b.hf.space")
    told = {"host": "a-b.hf.space", "x-forwarded-proto": "https"}
    response = world.program("10.0.0.1").get("/", headers=told)
    assert "SameSite=None; Partitioned; Secure" in response.headers["set-cookie"]
    assert "frame-ancestors https://huggingface.co" in response.headers["content-security-policy"]
    assert "x-frame-options" not in response.headers


def test_the_page_is_given_one_cookie_and_keeps_it(world: World) -> None:
    browser = world.browser()
    assert "set-cookie" not in browser.get("/").headers


def test_every_inline_script_carries_the_nonce_of_this_very_page(world: World) -> None:
    first, second = world.program().get("/"), world.program().get("/")
    nonce = first.text.split('nonce="')[1].split('"')[0]
    assert f"'nonce-{nonce}'" in first.headers["content-security-policy"]
    assert first.text.count(f'nonce="{nonce}"') == 2  # the page's own and the early one
    assert nonce not in second.text
    assert "'unsafe-inline'" not in first.headers["content-security-policy"].split("style-src")[0]


@pytest.mark.requirement("O4")
@pytest.mark.parametrize("path", ["/", "/gradio_api/nowhere", "/healthz", "/assets/a.js", "/config"])
def test_every_response_has_the_headers(world: World, path: str) -> None:
    headers = world.browser().get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers
    assert ("no-store" in headers.get("cache-control", "")) is (path != "/assets/a.js")


# Whose is what -----------------------------------------------------------------------------------------


def test_the_owner_joins_listens_and_cancels(world: World) -> None:
    ann = world.browser()
    event = world.join(ann, ANN).json()["event_id"]
    assert ann.get(f"/gradio_api/queue/data?session_hash={ANN}").status_code == 200
    assert _cancel(ann, ANN, event).status_code == 200


def _cancel(client: Any, page: str, event: str) -> Any:
    body = {"session_hash": page, "event_id": event, "fn_index": 3}
    return client.post("/gradio_api/cancel", json=body)


@pytest.mark.requirement("P7")
@pytest.mark.parametrize("who", ["browser", "program"])
def test_nobody_else_listens_joins_or_cancels(world: World, who: str) -> None:
    ann = world.browser()
    event = world.join(ann, ANN).json()["event_id"]
    bob = world.browser() if who == "browser" else world.program()
    world.join(bob, BOB)
    reached = len(world.inner.seen)
    assert bob.get(f"/gradio_api/queue/data?session_hash={ANN}").status_code == 404
    assert bob.get(f"/gradio_api/heartbeat/{ANN}").status_code == 404
    assert world.join(bob, ANN, fn_index=7).status_code == 404
    assert _cancel(bob, ANN, event).status_code == 404
    assert _cancel(bob, BOB, event).status_code == 404, "Gradio would end Ann's answer for her event alone"
    assert bob.get(f"/gradio_api/call/draft_findings/{event}").status_code == 404
    assert bob.get(f"/film/{ANN}/{'0' * 64}/pixels").status_code == 404
    assert len(world.inner.seen) == reached


@pytest.mark.requirement("P7")
def test_a_thousand_guesses_reach_nothing(world: World, tmp_path: Path) -> None:
    ann, bob = world.browser("192.0.2.1"), world.browser("192.0.2.2")
    event = world.join(ann, ANN).json()["event_id"]
    path = ann.post("/gradio_api/upload", files={"files": ("a", b"x")}).json()[0]
    reached = len(world.inner.seen)
    guesses = [event, ANN, path, Path(path).name, *(secrets.token_hex(16) for _ in range(196))]
    statuses = set()
    for guess in guesses:
        statuses.add(bob.get(f"/gradio_api/queue/data?session_hash={guess}").status_code)
        statuses.add(bob.get(f"/gradio_api/file={guess}").status_code)
        statuses.add(bob.get(f"/gradio_api/file={tmp_path}/{guess}").status_code)
        statuses.add(_cancel(bob, guess, event).status_code)
        statuses.add(bob.get(f"/gradio_api/call/draft_findings/{guess}").status_code)
    assert statuses == {404}
    assert len(world.inner.seen) == reached


def test_without_a_cookie_only_the_typed_api_can_be_called(world: World) -> None:
    program = world.program()
    assert world.join(program, ANN, fn_index=3).status_code == 404
    assert world.join(program, ANN, fn_index=7).status_code == 200
    assert program.post("/gradio_api/call/draft_findings", json={"data": []}).status_code == 200
    assert program.post("/gradio_api/call/send", json={"data": []}).status_code == 404


def test_a_call_without_a_session_is_given_one_that_cannot_be_guessed(world: World) -> None:
    program = world.program()
    event = program.post("/gradio_api/call/draft_findings", json={"data": []}).json()["event_id"]
    assert len(world.inner.seen[-1][2]["session_hash"]) == 32
    assert program.get(f"/gradio_api/call/draft_findings/{event}").status_code == 200
    assert world.program("198.51.100.9").get(f"/gradio_api/call/draft_findings/{event}").status_code == 404


def test_the_last_connection_that_closes_is_told(world: World) -> None:
    ann = world.browser()
    ann.get(f"/gradio_api/heartbeat/{ANN}")
    assert world.left == [ANN]


def test_a_stream_that_ends_late_does_not_end_the_next_answer(world: World) -> None:
    """A program asks again while the stream of its last answer is still being closed."""
    program = world.program()
    world.join(program, ANN, fn_index=7)

    async def asks_again(scope: Any, receive: Any, send: Any) -> None:
        page = world.ledger.find_page(ANN)
        assert page is not None
        world.ledger.begin(page)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data: {}"})

    world.guard._app = asks_again
    assert program.get(f"/gradio_api/queue/data?session_hash={ANN}").status_code == 200
    assert world.left == []


# Files -------------------------------------------------------------------------------------------------


@pytest.mark.requirement("U8")
def test_an_upload_gets_a_random_name_from_the_first_byte(world: World, tmp_path: Path) -> None:
    answer = world.browser().post("/gradio_api/upload", files={"files": ("DOE^JANE.dcm", b"film")})
    (path,) = map(Path, answer.json())
    assert path.parent == tmp_path and path.read_bytes() == b"film"
    assert "DOE" not in answer.text and path.stat().st_mode & 0o777 == 0o600


@pytest.mark.requirement("U8")
def test_a_file_that_came_in_is_handed_out_to_nobody_not_even_its_owner(world: World) -> None:
    ann = world.browser()
    (path,) = ann.post("/gradio_api/upload", files={"files": ("a", b"film")}).json()
    assert ann.get(f"/gradio_api/file={path}").status_code == 404


@pytest.mark.parametrize("path", ["/etc/passwd", "https://example.org/film.png", "of another"])
def test_a_request_that_names_a_file_which_is_not_its_own_is_refused(world: World, path: str) -> None:
    ann, bob = world.browser(), world.browser()
    if path == "of another":
        (path,) = ann.post("/gradio_api/upload", files={"files": ("a", b"film")}).json()
    named = [{"deep": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}]
    assert world.join(bob, BOB, data=named).status_code == 404
    assert world.inner.seen == []


def test_whoever_acts_is_told_of_by_whichever_door(world: World) -> None:
    ann = world.browser()
    world.join(ann, ANN)
    ann.post("/gradio_api/call/draft_findings", json={"data": []})
    ann.post("/gradio_api/mcp", json={"method": "tools/call", "params": {"name": "ask"}})
    ann.get("/gradio_api/mcp")
    assert world.acted == [3, "draft_findings", "mcp"]


# Bodies ------------------------------------------------------------------------------------------------


def _in_pieces(num_bytes: int) -> Any:
    return (b" " * 4096 for _ in range(num_bytes // 4096 + 1))


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/call/ask"])
@pytest.mark.parametrize("is_announced", [True, False], ids=["announced", "streamed"])
def test_a_large_body_is_refused(world: World, path: str, is_announced: bool) -> None:
    size = 300 * 1024
    content = b" " * size if is_announced else _in_pieces(size)
    path = path.replace("ask", "draft_findings")
    response = world.browser().post(path, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert response.json()["detail"] == "The request is larger than 256 KiB."
    assert world.inner.seen == []


@pytest.mark.requirement("D7")
@pytest.mark.parametrize("is_file", [True, False], ids=["file", "field"])
def test_an_upload_within_its_bounds_only(make_world: MakeWorld, tmp_path: Path, is_file: bool) -> None:
    world = make_world(CXR_MAX_FILE_MIB="1", CXR_MAX_UPLOAD_MIB="2")
    size = 3 * 2**20
    part = {"files": ("a", b"x" * size)} if is_file else {"files": (None, b"x" * size)}
    assert world.browser().post("/gradio_api/upload", files=part).status_code == 413
    assert list(tmp_path.iterdir()) == []


def test_a_body_that_is_no_json_object_is_refused(world: World) -> None:
    ann = world.browser()
    for body in (b"", b"[]", b"{", b"[" * 50_000):
        assert ann.post("/gradio_api/queue/join", content=body).status_code == 400


# Other sites and many requests ---------------------------------------------------------------------------


@pytest.mark.requirement("A2")
@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}],
    ids=["foreign", "null", "fetch"],
)
def test_another_site_can_change_nothing(world: World, headers: dict[str, str]) -> None:
    body = {"session_hash": ANN, "fn_index": 3}
    response = world.browser().post("/gradio_api/queue/join", json=body, headers=headers)
    assert response.status_code == 403
    assert world.inner.seen == []


def test_the_own_page_can(world: World) -> None:
    headers = {"origin": ORIGIN, "sec-fetch-site": "same-origin"}
    body = {"session_hash": ANN, "fn_index": 3}
    assert world.browser().post("/gradio_api/queue/join", json=body, headers=headers).status_code == 200


@pytest.mark.requirement("D1")
def test_an_address_that_asks_too_often_is_told_when_to_come_back(make_world: MakeWorld) -> None:
    world = make_world(CXR_REQUESTS_PER_MINUTE="10")
    busy, calm = world.program("192.0.2.1"), world.program("192.0.2.2")
    statuses = [busy.get("/config").status_code for _ in range(11)]
    assert statuses == [200] * 10 + [429]
    assert int(busy.get("/config").headers["retry-after"]) >= 1
    assert calm.get("/config").status_code == 200


def test_pages_are_bounded_by_address_and_altogether(make_world: MakeWorld) -> None:
    world = make_world(CXR_MAX_PAGES="3", CXR_MAX_PAGES_PER_ADDRESS="2")
    ann, bob = world.browser("192.0.2.1"), world.browser("192.0.2.2")
    assert [world.join(ann, f"annannann{n}").status_code for n in range(3)] == [200, 200, 503]
    assert [world.join(bob, f"bobbobbob{n}").status_code for n in range(2)] == [200, 503]


# A hospital --------------------------------------------------------------------------------------------


@pytest.fixture
def hospital(make_world: MakeWorld, tmp_path: Path) -> World:
    return make_world(CXR_PROFILE="onprem", CXR_USERS_FILE=str(tmp_path / "users"), CXR_API_TOKEN="t" * 40)


@pytest.mark.requirement("A1")
def test_nothing_but_the_login_is_open_in_a_hospital(hospital: World) -> None:
    stranger = hospital.program()
    page = stranger.get("/")
    assert (page.status_code, page.headers["location"]) == (303, "/login")
    for path in ("/config", "/gradio_api/info", f"/gradio_api/heartbeat/{ANN}", "/example/0"):
        assert stranger.get(path).status_code == 401
    assert hospital.join(stranger, ANN, fn_index=7).status_code == 401
    assert stranger.get("/healthz").status_code == 200


@pytest.mark.requirement("A4")
def test_a_program_needs_the_token_in_a_hospital(hospital: World) -> None:
    good, bad = ({"authorization": f"Bearer {letter * 40}"} for letter in "tu")
    body = {"session_hash": ANN, "fn_index": 7}
    assert hospital.program(headers=bad).post("/gradio_api/queue/join", json=body).status_code == 401
    assert hospital.program(headers=good).post("/gradio_api/queue/join", json=body).status_code == 200


def test_the_name_that_a_trusted_proxy_gives_counts_and_nobody_elses(make_world: MakeWorld) -> None:
    world = make_world(CXR_PROFILE="onprem", CXR_USER_HEADER="X-Remote-User", CXR_TRUSTED_PROXIES="10.0.0.1")
    named = {"X-Remote-User": "ann"}
    assert world.program("10.0.0.1").get("/", headers=named).status_code == 200
    assert world.program("192.0.2.1").get("/", headers=named).status_code == 401


def test_nothing_but_http_is_spoken(world: World) -> None:
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), world.program().websocket_connect("/gradio_api/queue/join"):
        pass


@pytest.mark.requirement("D7", "P6")
def test_an_upload_that_was_cut_off_leaves_nothing(world: World, tmp_path: Path) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    cut = [b"--b\r\nContent-Disposition: form-data; name=files; filename=x\r\n\r\nhalf a film"]
    response = world.browser().post("/gradio_api/upload", content=iter(cut), headers=headers)
    assert response.status_code == 400
    assert list(tmp_path.iterdir()) == []


@pytest.mark.requirement("D4")
def test_a_stream_that_a_cut_network_left_behind_ends_nothing(make_world: MakeWorld) -> None:
    world = make_world()
    caller = Caller("ann", "192.0.2.1", is_browser=True)
    page = world.ledger.open_page("ann-page-1", caller)
    for _ in range(2):  # the page came back while the server still holds its first stream
        world.ledger.connect(page, listens=True)
    world.guard._stalled(page, 1)
    assert world.stalled == []
    world.guard._stalled(page, 2)
    assert world.stalled == ["ann-page-1"]
