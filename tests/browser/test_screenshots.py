"""The pictures of docs/screenshots, of the real app with its own model and computed patients alone.

`make screenshots` writes all of them anew (CXR_WRITE_SCREENSHOTS=1);
without it they go nowhere, and what is shown is still checked: nothing is wider than the page.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cxr_assistant.imaging.phantom import dicom_bytes, make_phantom
from cxr_assistant.study import ViewPosition
from tests.browser.conftest import DESKTOP, MODEL, PHONE, OpenPage, opener
from tests.browser.pages import answered, ask, film_is_shown, upload
from tests.conftest import PROJECT_ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.exists(), reason="weights/embedded holds no model"),
]
SIZES = {"1440": DESKTOP, "390": PHONE}
Take = Callable[[str], None]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = PROJECT_ROOT / "docs" / "screenshots" if os.environ.get("CXR_WRITE_SCREENSHOTS") else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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
    page.wait_for_selector(".truth")
    film_is_shown(page)
    answered(page)
    page.click(".synthetic summary")


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("size", SIZES)
def test_the_reading_room(open_door: OpenPage, album: Path, size: str, scheme: str) -> None:
    page = open_door(SIZES[size], color_scheme=scheme, reduced_motion="reduce")

    def take(name: str) -> None:
        page.mouse.move(5, 5)
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"], name
        page.screenshot(path=album / f"{name}-{size}-{scheme}.png")

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
def test_two_films(open_door: OpenPage, album: Path, size: str, scheme: str) -> None:
    page = open_door(SIZES[size], color_scheme=scheme, locale="de-DE", reduced_motion="reduce")
    films = [
        make_phantom(seed, findings=[], view=view)
        for seed, view in ((21, ViewPosition.PA), (22, ViewPosition.LATERAL))
    ]
    upload(page, *(dicom_bytes(film) for film in films))
    page.wait_for_function("document.querySelectorAll('.thumb').length === 2")
    film_is_shown(page)
    page.wait_for_timeout(200)
    page.screenshot(path=album / f"two-films-german-{size}-{scheme}.png")
