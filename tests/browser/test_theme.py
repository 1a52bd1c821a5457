"""Light and dark: the system's wish, the toggle's word, and a film that stays on black in both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.conftest import DESKTOP, PHONE
from tests.browser.pages import answered, demonstrate

LIGHT, DARK = "rgb(255, 255, 255)", "rgb(18, 22, 28)"


def ground(page: Any, selector: str) -> str:
    return str(page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).backgroundColor"))


def test_the_page_follows_the_system(page: Any) -> None:
    for scheme, colour in (("light", LIGHT), ("dark", DARK)):
        page.emulate_media(color_scheme=scheme)
        assert ground(page, "#chat") == colour


def test_the_toggle_wins_over_the_system_and_is_remembered(page: Any) -> None:
    page.emulate_media(color_scheme="dark")
    page.click("[data-do=theme]")
    assert ground(page, "#chat") == LIGHT
    page.reload()
    page.wait_for_selector(".empty-room h2")
    assert ground(page, "#chat") == LIGHT
    page.click("[data-do=theme]")
    assert ground(page, "#chat") == DARK


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["1440", "390"])
def test_the_film_stays_on_black_in_the_light(
    open_page: Callable[..., Any], screenshot: Callable[..., None], size: dict[str, int]
) -> None:
    page = open_page(size)
    page.emulate_media(color_scheme="light")
    demonstrate(page)
    answered(page)
    assert ground(page, ".stage") == "rgb(5, 6, 7)"
    page.evaluate("scrollTo(0, 0)")
    screenshot(page, f"light-{size['width']}")
