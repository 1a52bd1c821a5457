"""The README's first command and a browser: the real door, the real model, nothing scripted.

What no scripted model can show is measured here: the time from Send to the first visible token, that the
model looks at the film, and that two visitors with two films get two answers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cxr_assistant.imaging.phantom import (
    FindingKind,
    FindingRequest,
    Severity,
    Side,
    dicom_bytes,
    make_phantom,
)
from cxr_assistant.study import ViewPosition
from tests.browser.conftest import DESKTOP, MODEL, PHONE, OpenPage, opener
from tests.browser.pages import answered, ask, demonstrate, film_is_shown, last_answer, upload
from tests.imaging.builders import dicom

pytestmark = pytest.mark.skipif(not MODEL.exists(), reason="weights/embedded holds no model")
FIRST_TOKEN_S = 2.0  # on two cores that do nothing else


@pytest.fixture
def open_door(browser: Any, address: str) -> Iterator[OpenPage]:
    with opener(browser, address) as opened:
        yield opened


def test_one_click_ends_in_a_draft_of_the_real_model(open_door: OpenPage) -> None:
    page = open_door(DESKTOP)
    demonstrate(page)
    answered(page)
    assert "view" in last_answer(page) or "radiograph" in last_answer(page)
    ask(page, "Which view is this?")
    assert "PA" in last_answer(page)


def seconds_to_the_first_token(page: Any, question: str) -> float:
    """From Send to the first word on the screen; waits for the end of the answer."""
    asked = page.locator("[data-testid=bot]").count()
    started = time.monotonic()
    ask(page, question, wait=False)
    page.wait_for_function(
        f"document.querySelectorAll('[data-testid=bot]').length > {asked}"
        f" && document.querySelectorAll('[data-testid=bot]')[{asked}].innerText.trim().length > 0"
    )
    waited = time.monotonic() - started
    answered(page)
    return waited


def assert_the_median_is_soon(waits: list[float]) -> None:
    """The load of the machine is allowed for, not hidden."""
    print(f"Send to first visible token: {', '.join(f'{wait:.2f}' for wait in waits)} s")
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    assert sorted(waits)[len(waits) // 2] < FIRST_TOKEN_S * max(1.0, load)


def test_the_first_token_is_on_screen_within_two_seconds(open_door: OpenPage) -> None:
    page = open_door(DESKTOP)
    demonstrate(page)
    answered(page)
    questions = ("Is there a pneumothorax?", "Is there a mass?", "Which view is this?")
    assert_the_median_is_soon([seconds_to_the_first_token(page, question) for question in questions])


def test_the_first_token_about_a_new_film_is_on_screen_within_two_seconds(open_door: OpenPage) -> None:
    waits = []
    for seed in range(40_009_910, 40_009_913):
        page = open_door(DESKTOP)
        upload(page, dicom_bytes(make_phantom(seed)))
        film_is_shown(page)
        waits.append(seconds_to_the_first_token(page, "Is there a pneumothorax?"))
    assert_the_median_is_soon(waits)


def test_a_foreign_film_is_declined_and_the_room_goes_on(open_door: OpenPage) -> None:
    page = open_door(DESKTOP)
    upload(page, dicom(), name="IM_0001")
    film_is_shown(page)
    page.locator("[data-task=findings]").click()
    page.wait_for_selector(".card[data-code=foreign_image]")
    assert "phantom" in page.inner_text(".card[data-code=foreign_image]")
    assert page.locator(".card[data-code=foreign_image] [data-model=llava-rad]").count() == 1
    demonstrate(page)
    answered(page)
    assert last_answer(page)


def test_the_real_draft_fits_a_phone(open_door: OpenPage) -> None:
    page = open_door(PHONE)
    demonstrate(page)
    answered(page)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"]


def test_two_visitors_with_two_films_get_two_answers(open_door: OpenPage) -> None:
    """Effusions on opposite sides, asked about at the same time: each answer is about its own film."""
    pages = {side: open_door(DESKTOP) for side in Side}
    for side, page in pages.items():
        request = FindingRequest(FindingKind.PLEURAL_EFFUSION, side, Severity.LARGE)
        upload(page, dicom_bytes(make_phantom(40_009_900, findings=[request], view=ViewPosition.PA)))
        film_is_shown(page)
    for page in pages.values():
        ask(page, "On which side is the pleural effusion?", wait=False)
    for side, page in pages.items():
        answered(page)
        assert side.value in last_answer(page)
        assert side.other.value not in last_answer(page)
