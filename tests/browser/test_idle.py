"""A stand's page: it counts down when nobody touches it, goes on when somebody does, and starts anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cxr_assistant.settings import read_settings
from cxr_assistant.ui.app import build_app, launch
from tests.browser.conftest import OpenPage, _free_port, opener
from tests.browser.pages import answered, demonstrate
from tests.ui.doubles import ScriptedAssistant, ScriptedWorker, on_a_loop

NOTICE = ".idle-place:not([hidden])"
SECONDS = 8


@pytest.fixture(scope="module")
def stand() -> Iterator[str]:
    given = {"CXR_PORT": str(_free_port()), "CXR_IDLE_RESET_SECONDS": str(SECONDS)}
    settings = read_settings(given)
    blocks = on_a_loop(lambda: build_app(ScriptedAssistant(ScriptedWorker()), settings))
    on_a_loop(lambda: launch(blocks, settings, prevent_thread_lock=True, announce=None))
    yield str(blocks.local_url)
    blocks.close()


@pytest.fixture
def open_stand(browser: Any, stand: str) -> Iterator[OpenPage]:
    with opener(browser, stand) as opened:
        yield opened


def test_a_page_that_is_left_starts_anew(open_stand: OpenPage, screenshot: Any) -> None:
    page = open_stand()
    page.click("[data-do=theme]")
    demonstrate(page)
    answered(page)
    page.evaluate("window.isOld = true")
    page.wait_for_selector(NOTICE)
    screenshot(page, "idle-1440")
    page.wait_for_function("window.isOld === undefined && document.querySelector('.empty-room h2')")
    assert page.locator("[data-testid=user]").count() == 0
    assert page.evaluate("localStorage.getItem('cxr-theme')") is None


def test_a_touch_keeps_the_page(open_stand: OpenPage) -> None:
    page = open_stand()
    demonstrate(page)
    answered(page)
    page.wait_for_selector(NOTICE)
    page.mouse.move(300, 300)
    page.wait_for_selector(NOTICE, state="hidden")
    assert page.locator("[data-testid=user]").count() == 1


def test_without_the_setting_nothing_counts(page: Any) -> None:
    assert page.evaluate("document.querySelector('#idle')") is None
