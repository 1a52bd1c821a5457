from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from cxr_assistant.settings import read_settings
from cxr_assistant.tasks import Task
from cxr_assistant.ui.api import ENDPOINTS
from cxr_assistant.ui.app import build_app
from cxr_assistant.ui.room import ReadingRoom
from cxr_assistant.ui.session import Session
from cxr_assistant.ui.viewer import read_asset, viewer_template
from cxr_assistant.ui.web import film_routes, film_url
from tests.ui.doubles import ScriptedAssistant, make_radiograph, on_a_loop


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return on_a_loop(lambda: build_app(ScriptedAssistant(), read_settings({})).get_config_file())


def test_the_page_is_built_in_less_than_a_second() -> None:
    started = time.process_time()
    on_a_loop(lambda: build_app(ScriptedAssistant(), read_settings({})))
    assert time.process_time() - started < 1.0


def test_no_event_of_the_page_is_an_api(config: dict[str, Any]) -> None:
    public = [d["api_name"] for d in config["dependencies"] if d["api_visibility"] != "private"]
    assert tuple(public) == ENDPOINTS


def test_every_event_goes_through_the_queue(config: dict[str, Any]) -> None:
    own = [d for d in config["dependencies"] if all(t[1] not in ("load", "unload") for t in d["targets"])]
    assert len(own) > 10
    assert all(dependency["queue"] for dependency in own)


def test_files_without_an_extension_may_be_chosen(config: dict[str, Any]) -> None:
    (upload,) = [c for c in config["components"] if c["type"] == "uploadbutton"]
    assert upload["props"].get("file_types") is None


@pytest.mark.requirement("P8")
def test_nothing_is_reported_to_anyone(config: dict[str, Any]) -> None:
    assert config["analytics_enabled"] is False


@pytest.mark.parametrize("name", ["viewer/viewer.html", "workbench/chat.html"])
def test_templates_hold_nothing_that_gradio_would_run(name: str) -> None:
    text = read_asset(name)
    assert not any(sign in text for sign in ("${", "{{", "`"))


@pytest.mark.requirement("O4")
@pytest.mark.parametrize(
    "name",
    [
        "theme/style.css",
        "workbench/chat.html",
        "workbench/composer.js",
        "workbench/connection.js",
        "panels/study.js",
        "viewer/viewer.html",
        "viewer/viewer.js",
    ],
)
def test_no_asset_points_outside(name: str) -> None:
    assert "http" not in read_asset(name)


def test_the_viewer_names_its_tools() -> None:
    assert 'role="toolbar"' in viewer_template()


@pytest.fixture
def sessions() -> dict[str, Session]:
    return {name: Session("embedded").with_film(make_radiograph(n)) for n, name in enumerate(("ann", "bob"))}


@pytest.fixture
def client(sessions: dict[str, Session]) -> TestClient:
    assistant = ScriptedAssistant()
    return TestClient(Starlette(routes=film_routes(sessions.get, ReadingRoom(assistant).picture_as_seen)))


@pytest.mark.requirement("P7")
@pytest.mark.parametrize("kind", ["pixels", "thumbnail", "as-seen-by-llava-rad"])
def test_a_film_is_served_to_its_owner_and_never_cached(
    client: TestClient, sessions: dict[str, Session], kind: str
) -> None:
    response = client.get("/" + film_url(sessions["ann"], "ann", sessions["ann"].shown, kind))
    assert response.status_code == 200 and len(response.content) > 500
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.requirement("P7")
def test_a_token_is_worth_nothing_to_somebody_else(client: TestClient, sessions: dict[str, Session]) -> None:
    stolen = sessions["ann"].film_token(sessions["ann"].shown)
    assert client.get(f"/film/bob/{stolen}/pixels").status_code == 404
    assert client.get(f"/film/nobody/{stolen}/pixels").status_code == 404
    assert client.get(f"/film/ann/{'0' * 64}/pixels").status_code == 404
    assert client.get(f"/film/ann/{'é' * 64}/pixels").status_code == 404
    assert client.get(f"/film/ann/{stolen}/header").status_code == 404
    assert client.get(f"/film/bob/{stolen}/as-seen-by-llava-rad").status_code == 404
    assert client.get(f"/film/ann/{stolen}/as-seen-by-nobody").status_code == 404


def test_a_film_that_was_taken_down_is_gone(client: TestClient, sessions: dict[str, Session]) -> None:
    url = "/" + film_url(sessions["ann"], "ann", sessions["ann"].shown, "pixels")
    sessions["ann"] = sessions["ann"].new_study()
    assert client.get(url).status_code == 404


def test_gradio_is_told_before_it_is_imported() -> None:
    import os

    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert gr.__version__.startswith("6.")
    queue = on_a_loop(gr.Blocks)._queue
    queue.events_recorded = 10**9
    assert queue.ANALYTICS_MAX_EVENTS == 1
    assert queue.compute_analytics_summary([{"function": "send"}]) == {"functions": {}}  # no table is made


def test_another_model_chosen_while_one_answers_ends_the_answer_and_stays_chosen() -> None:
    """The answer would otherwise put back the session it began with, and with it the old model."""
    room = ReadingRoom(ScriptedAssistant())
    session = Session("embedded").with_film(make_radiograph()).ask(Task.QUESTION, "Heart?")
    event = SimpleNamespace(name="llava-rad", precision="", _data={"name": "llava-rad", "precision": ""})
    request = SimpleNamespace(session_hash="ann")
    with room._switchboard.running("ann") as flag:
        chosen, *_ = room.choose(session, event, request)  # type: ignore[arg-type]
        assert flag.is_set()
    assert chosen.checkpoint == "llava-rad"
