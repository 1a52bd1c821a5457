"""The pictures of docs/screenshots, of the real app with its own model and computed patients alone.

`make screenshots` writes all of them anew: it sets CXR_WRITE_SCREENSHOTS=1. Without it they go nowhere, and
what is shown is still checked: nothing is wider than the page.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.browser.conftest import DESKTOP, MODEL, OPENING_MS, PHONE, OpenPage, opener
from tests.browser.pages import answered, ask, film_is_shown
from tests.conftest import PROJECT_ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.exists(), reason="weights/embedded holds no model"),
]
SIZES = {"1440": DESKTOP, "390": PHONE}
Album = Callable[[Any, str], None]
KEPT = {
    *(f"reading-room-{size}-{scheme}" for size in SIZES for scheme in ("dark", "light")),
    "empty-1440-dark",
    "empty-390-light",
    "chat-1440-light",
    "chat-390-dark",
    "models-1440-light",
    "models-view-1440-dark",
    "settings-390-light",
    "help-1440-dark",
    "two-films-german-1440-light",
    "two-films-german-390-dark",
}


@pytest.fixture
def album(tmp_path: Path) -> Album:
    """Puts a picture where it belongs: into docs/ when it is one of those, else where it can be looked at."""
    aside = Path(os.environ.get("CXR_LOOK_AT") or tmp_path)
    docs = PROJECT_ROOT / "docs" / "screenshots" if os.environ.get("CXR_WRITE_SCREENSHOTS") else aside

    def put(page: Any, name: str) -> None:
        folder = docs if name in KEPT else aside
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(page.screenshot())) as picture:
            picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
                folder / f"{name}.png", optimize=True
            )

    return put


@pytest.fixture
def open_door(browser: Any, address: str) -> Iterator[OpenPage]:
    with opener(browser, address) as opened:
        yield opened


def make_patient(page: Any, finding: str, side: str, seed: int) -> None:
    """A computed patient as a person orders one, until the draft stands beside the truth."""
    page.click(".synthetic summary")
    page.select_option(".synthetic [name=finding]", finding)
    page.select_option(".synthetic [name=side]", side)
    page.select_option(".synthetic [name=view]", "PA")
    page.fill(".synthetic [name=seed]", str(seed))
    page.click(".synthetic button[type=submit]")
    page.wait_for_selector(".truth", timeout=OPENING_MS)  # the model is loaded for the first one
    film_is_shown(page)
    answered(page)


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("size", SIZES)
def test_the_reading_room(open_door: OpenPage, album: Album, size: str, scheme: str) -> None:
    page = open_door(SIZES[size], color_scheme=scheme, reduced_motion="reduce")

    def take(name: str) -> None:
        page.mouse.move(5, 5)
        page.wait_for_function("[...document.images].every((picture) => picture.complete)")
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"], name
        album(page, f"{name}-{size}-{scheme}")

    take("empty")
    make_patient(page, "pleural-effusion", "left", 11)
    page.click("[data-act=boxes]")
    page.evaluate("scrollTo(0, 0)")
    take("reading-room")
    page.click("[data-act=boxes]")
    ask(page, "How large is the pleural effusion?")
    ask(page, "Is there a pneumothorax?")
    page.locator(".colophon summary").last.click()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    take("chat")
    page.locator(".colophon summary").last.click()
    page.click(".settings-button")
    take("settings")
    page.click(".settings-button")
    page.click(".model-menu summary")
    page.wait_for_selector(".model-cards")
    take("models")
    page.keyboard.press("Escape")
    page.evaluate("scrollTo(0, 0)")
    page.click("[data-tool=model]")
    page.wait_for_function("document.querySelector('#viewer [data-state]').viewbox.pane(0).picture")
    take("models-view")
    page.click("[data-tool=model]")
    page.click("[data-tool=help]")
    take("help")


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("size", SIZES)
def test_two_films(open_door: OpenPage, album: Album, size: str, scheme: str) -> None:
    page = open_door(SIZES[size], color_scheme=scheme, locale="de-DE", reduced_motion="reduce")
    page.locator(".examples button").last.click()  # a frontal and a lateral film
    page.wait_for_function("document.querySelectorAll('.thumb').length === 2")
    film_is_shown(page)
    page.wait_for_function("[...document.images].every((picture) => picture.complete)")
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(200)
    album(page, f"two-films-german-{size}-{scheme}")
