"""axe finds no critical and no serious violation: every state of the page, both themes, wide and narrow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.browser.conftest import DESKTOP, PHONE, opener
from tests.browser.pages import answered, ask, demonstrate, start_anew, upload
from tests.ui.doubles import UNFETCHED, ScriptedWorker, png_bytes

axe_playwright = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
SIZES = {"1440": DESKTOP, "390": PHONE}


@pytest.fixture(scope="module")
def room_at(browser: Any, server: str) -> Iterator[Callable[[str], Any]]:
    """One page for each size; every state begins with an empty room."""
    pages: dict[str, Any] = {}
    with opener(browser, server) as open_page:

        def opened(size: str) -> Any:
            if size not in pages:
                pages[size] = open_page(SIZES[size])
            start_anew(pages[size])
            return pages[size]

        yield opened


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


def empty(page: Any, worker: ScriptedWorker) -> None:
    """As it is opened."""


def model_menu(page: Any, worker: ScriptedWorker) -> None:
    page.click(".model-menu summary")
    page.wait_for_selector(".model-cards")


def fetch_sheet(page: Any, worker: ScriptedWorker) -> None:
    model_menu(page, worker)
    page.click(f"[data-plan={UNFETCHED.name}]")
    page.wait_for_selector("#fetch .fetch")


def synthetic_form(page: Any, worker: ScriptedWorker) -> None:
    page.click(".synthetic summary")


def study(page: Any, worker: ScriptedWorker) -> None:
    demonstrate(page)
    answered(page)
    page.click("[data-act=boxes]")
    page.locator(".colophon summary").last.click()


def help_card(page: Any, worker: ScriptedWorker) -> None:
    demonstrate(page)
    answered(page)
    page.click("[data-tool=help]")


def settings(page: Any, worker: ScriptedWorker) -> None:
    page.click(".settings-button")


def fates(page: Any, worker: ScriptedWorker) -> None:
    upload(page, png_bytes(1), b"no film")
    page.wait_for_selector(".fates:not([hidden])")


def streaming(page: Any, worker: ScriptedWorker) -> None:
    demonstrate(page)
    answered(page)
    worker.word_delay_s = 0.3
    ask(page, "a long story", wait=False)
    page.wait_for_selector(".caret")


def waiting(page: Any, worker: ScriptedWorker) -> None:
    demonstrate(page)
    answered(page)
    worker.prefill_delay_s = 20.0
    ask(page, "Does it wait?", wait=False)
    page.wait_for_selector(".pending")


def error(page: Any, worker: ScriptedWorker) -> None:
    demonstrate(page)
    answered(page)
    ask(page, "Is there out of memory?")
    page.wait_for_selector(".card.is-error")


def blind_comparison(page: Any, worker: ScriptedWorker) -> None:
    demonstrate(page)
    answered(page)
    page.select_option("[name=rival]", "chexagent")
    page.check("[name=is_blind]")
    ask(page, "Heart?")
    page.wait_for_selector("[data-verdict=a]")


def lost_connection(page: Any, worker: ScriptedWorker) -> None:
    page.route("**/app_id", lambda route: route.abort())
    page.evaluate("dispatchEvent(new Event('offline'))")
    page.wait_for_selector(".connection[data-kind=lost]")


def back_to_rest(page: Any) -> None:
    """Whatever a state has opened is closed."""
    page.unroute("**/app_id")
    page.evaluate("dispatchEvent(new Event('online'))")
    page.wait_for_function("!document.documentElement.dataset.offline")
    if page.locator(".send.stop").count():
        page.click(".send.stop")
        answered(page)
    for opened, closer in (
        ("#fetch [data-do=close]", "#fetch [data-do=close]"),
        (".fates:not([hidden])", "[data-do=close-fates]"),
        (".model-menu[open]", ".model-menu summary"),
        (".synthetic[open]", ".synthetic summary"),
        (".help-card:not([hidden])", "[data-tool=help]"),
        (".drawer:not([hidden])", ".settings-button"),
    ):
        if page.locator(f"{opened} >> visible=true").count():
            page.locator(closer).first.click()
    page.select_option("[name=rival]", "")


STATES = (
    empty,
    model_menu,
    fetch_sheet,
    synthetic_form,
    settings,
    fates,
    study,
    help_card,
    waiting,
    streaming,
    error,
    blind_comparison,
    lost_connection,
)


@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        ("1440", "dark"),
        ("390", "light"),
        pytest.param("1440", "light", marks=pytest.mark.slow),
        pytest.param("390", "dark", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_axe_finds_nothing_that_keeps_anybody_out(
    room_at: Callable[[str], Any],
    worker: ScriptedWorker,
    state: Callable[[Any, ScriptedWorker], None],
    size: str,
    scheme: str,
) -> None:
    worker.word_delay_s, worker.prefill_delay_s = 0.0, 0.0
    page = room_at(size)
    page.emulate_media(color_scheme=scheme)
    state(page, worker)
    try:
        assert violations(page) == []
    finally:
        back_to_rest(page)


@pytest.mark.parametrize("size", SIZES)
def test_everything_that_can_be_used_can_be_reached_by_keyboard(
    room_at: Callable[[str], Any], size: str
) -> None:
    """Tab goes round all that can be pressed or typed into; nothing traps it, nothing is left out."""
    page = room_at(size)
    wanted = page.evaluate(
        "[...document.querySelectorAll('#room button, #room summary, #room textarea, #room select')]"
        ".filter((e) => e.checkVisibility({visibilityProperty: true}) && !e.disabled"
        " && !e.closest('#upload')).length"
    )
    page.evaluate(
        """() => { window.reached = new Set();
             document.addEventListener('focusin', (event) => {
               if (event.target.closest('#room')) window.reached.add(event.target); }); }"""
    )
    for _ in range(wanted + 25):
        page.keyboard.press("Tab")
    usable = "['BUTTON', 'SUMMARY', 'TEXTAREA', 'SELECT'].includes(e.tagName) && e.id !== 'upload'"
    assert page.evaluate(f"[...window.reached].filter((e) => {usable}).length") >= wanted
