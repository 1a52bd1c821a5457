"""Settings are read once from the environment, and a bad value is an error that names its variable."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from cxr_assistant.errors import SettingsError
from cxr_assistant.imaging.refusals import MAX_UPLOAD_BYTES
from cxr_assistant.models.precision import Precision
from cxr_assistant.settings import PRECISIONS, PROJECT_ROOT, Limits, read_settings
from cxr_assistant.ui.asking import MAX_PROMPT
from cxr_assistant.ui.decoding import LIMITS


def test_an_empty_environment_gives_the_embedded_model_on_loopback() -> None:
    settings = read_settings({})
    assert (settings.checkpoint, settings.host, settings.port) == ("embedded", "127.0.0.1", 7860)
    assert settings.weights_dir == PROJECT_ROOT / "weights"


def test_each_field_follows_its_variable() -> None:
    settings = read_settings(
        {
            "CXR_WEIGHTS_DIR": "/models",
            "CXR_CHECKPOINT_DIR": "/llava",
            "CXR_DEVICE": "cuda",
            "CXR_WORKER": "inline",
            "CXR_THREADS": "4",
        }
    )
    assert (settings.weights_dir, settings.checkpoint_dir) == (Path("/models"), Path("/llava"))
    assert settings.device == "cuda"
    assert (settings.worker, settings.threads) == ("inline", 4)


def test_an_empty_variable_means_its_default() -> None:
    names = ("CHECKPOINT", "WORKER", "DEVICE", "PRECISION", "ALLOW_FETCH", "WEIGHTS_DIR", "PORT", "MAX_QUEUE")
    assert read_settings({f"CXR_{name}": "" for name in names}) == read_settings({})


def test_our_port_wins_over_the_port_of_a_space() -> None:
    assert read_settings({"GRADIO_SERVER_PORT": "7861"}).port == 7861
    assert read_settings({"GRADIO_SERVER_PORT": "7861", "CXR_PORT": "8000"}).port == 8000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CXR_DEVICE", "tpu"),
        ("CXR_WORKER", "thread"),
        ("CXR_PORT", "99999"),
        ("CXR_MAX_QUEUE", "many"),
        ("CXR_PRECISION", "fp8"),
        ("CXR_ALLOW_FETCH", "maybe"),
        ("CXR_MCP", "on"),
        ("CXR_IDLE_RESET_SECONDS", "-1"),
        ("CXR_LANGUAGE", "tlh"),
        ("CXR_PINS", "chexagent-srrg-impression=main"),
    ],
)
def test_a_bad_value_is_named_with_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is '{value}'; allowed:"):
        read_settings({name: value})


def test_pins_are_names_and_commits() -> None:
    pins = read_settings({"CXR_PINS": f"one={'a' * 40}  two={'b' * 40}"}).pins
    assert pins == (("one", "a" * 40), ("two", "b" * 40))


def test_no_limit_can_be_set_beyond_what_its_room_allows() -> None:
    highest = {limit.name: limit.metadata["high"] for limit in fields(Limits)}
    assert highest["max_file_mib"] == MAX_UPLOAD_BYTES >> 20
    assert highest["max_prompt_chars"] == MAX_PROMPT
    assert highest["max_new_tokens"] == LIMITS["max_new_tokens"][1]


def test_the_precisions_are_those_of_the_models() -> None:
    assert PRECISIONS == ("auto", *Precision)


def test_a_zerogpu_space_is_known_by_its_variable() -> None:
    assert read_settings({"SPACES_ZERO_GPU": "true"}).worker == "zerogpu"
    assert read_settings({"SPACES_ZERO_GPU": "true", "CXR_WORKER": "inline"}).worker == "inline"


@pytest.mark.parametrize(
    ("environment", "may_fetch"),
    [
        ({}, True),
        ({"CXR_HOST": "localhost"}, True),
        ({"CXR_HOST": "0.0.0.0"}, False),
        ({"SPACE_ID": "someone/space"}, False),
        ({"CXR_HOST": "0.0.0.0", "CXR_ALLOW_FETCH": "yes"}, True),
    ],
    ids=["default", "loopback", "public", "space", "opted-in"],
)
def test_a_page_that_others_reach_downloads_only_when_its_owner_opts_in(
    environment: dict[str, str], may_fetch: bool
) -> None:
    assert read_settings(environment).may_fetch is may_fetch
