"""From the first request to the last, everything comes from the page's own origin; films are sent once."""

from __future__ import annotations

from typing import Any

from tests.browser.conftest import DESKTOP, OpenPage
from tests.browser.pages import answered, ask, demonstrate, film_is_shown, upload
from tests.ui.doubles import ScriptedWorker, png_bytes


def test_nothing_leaves_the_origin_on_the_whole_path(open_page: OpenPage, server: str) -> None:
    """Open, example, synthetic patient, upload, ask, copy, models, what fetching takes, theme, language."""
    page = open_page(DESKTOP)
    asked: list[str] = []
    page.context.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.reload()
    page.wait_for_selector(".empty-room h2")
    page.wait_for_function("document.querySelector('.tasks')?.childElementCount > 0")
    page.locator(".examples button").first.click()
    film_is_shown(page)
    demonstrate(page)
    answered(page)
    ask(page, "Is there a mass?")
    page.locator("[data-act=copy]").first.click()
    upload(page, png_bytes(3))
    film_is_shown(page)
    page.click(".model-menu summary")
    page.wait_for_selector(".model-cards")
    page.keyboard.press("Escape")
    page.click("[data-do=theme]")
    page.select_option("[data-do=language]", "de")
    own = (server.rstrip("/"), "data:", "blob:")
    assert len(asked) > 20
    assert [url for url in asked if not url.startswith(own)] == []


def test_no_film_is_sent_while_text_streams(page: Any, worker: ScriptedWorker) -> None:
    demonstrate(page)
    answered(page)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    ask(page, "a long story", wait=False)
    page.wait_for_function("document.querySelectorAll('[data-testid=bot]')[1]?.innerText.length > 200")
    assert [url for url in sent if "/film/" in url or "/example/" in url] == []
    page.click(".send.stop")
    answered(page)
