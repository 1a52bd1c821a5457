"""axe finds no critical and no serious violation, in either theme, on desktop and phone, and on the way."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.conftest import DESKTOP, PHONE, OpenPage
from tests.browser.pages import answered, ask, demonstrate

axe_playwright = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
SIZES = pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["1440", "390"])


def violations(page: Any) -> list[str]:
    """One line for each thing that is wrong: rule, weight, how often and where first."""
    # What still fades is half transparent, and its contrast is measured as such.
    page.wait_for_function(
        "document.getAnimations().every((a) => a.playState !== 'running'"
        " || a.effect.getTiming().iterations === Infinity)"
    )
    found = axe_playwright.Axe().run(page).response["violations"]
    return [
        f"{v['id']} ({v['impact']}) x{len(v['nodes'])}: "
        f"{v['nodes'][0]['target']} {v['nodes'][0]['html'][:160]}"
        for v in found
        if v["impact"] in ("critical", "serious")
    ]


@SIZES
def test_the_empty_room(open_page: OpenPage, size: dict[str, int]) -> None:
    assert violations(open_page(size)) == []


@SIZES
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_in_the_middle_of_a_chat(open_page: OpenPage, size: dict[str, int], scheme: str) -> None:
    page = open_page(size)
    page.emulate_media(color_scheme=scheme)
    demonstrate(page)
    answered(page)
    ask(page, "Is there out of memory?")
    assert violations(page) == []


@SIZES
def test_with_the_model_menu_open(open_page: OpenPage, size: dict[str, int]) -> None:
    page = open_page(size)
    page.click(".model-menu summary")
    page.wait_for_selector(".model-cards")
    assert violations(page) == []


def test_with_the_form_of_the_synthetic_patient_open(open_page: OpenPage) -> None:
    page = open_page(DESKTOP)
    page.click(".synthetic summary")
    assert violations(page) == []


def test_with_the_help_of_the_viewer_open(open_page: OpenPage) -> None:
    page = open_page(DESKTOP)
    demonstrate(page)
    answered(page)
    page.click("[data-tool=help]")
    assert violations(page) == []


@SIZES
def test_everything_that_can_be_used_can_be_reached_by_keyboard(
    open_page: OpenPage, size: dict[str, int]
) -> None:
    """Tab goes round all that can be pressed or typed into; nothing traps it, nothing is left out."""
    page = open_page(size)
    wanted = page.evaluate(
        "[...document.querySelectorAll('#room button, #room summary, #room textarea, #room select')]"
        ".filter((e) => e.checkVisibility({visibilityProperty: true}) && !e.disabled"
        " && !e.closest('#upload')).length"
    )
    page.evaluate("window.reached = new Set()")
    for _ in range(wanted + 25):
        page.keyboard.press("Tab")
        page.evaluate("document.activeElement.closest('#room') && window.reached.add(document.activeElement)")
    usable = "['BUTTON', 'SUMMARY', 'TEXTAREA', 'SELECT'].includes(e.tagName) && e.id !== 'upload'"
    assert page.evaluate(f"[...window.reached].filter((e) => {usable}).length") >= wanted
