"""Choosing, fetching and comparing, in a real browser: the menu, the sheet with its bar, priors and boxes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.conftest import HURRIED, _free_port, opener
from tests.browser.pages import FILE_INPUT, answered, film_is_shown, upload
from tests.doubles import StoreDouble
from tests.ui.doubles import PUBLISHED, ScriptedAssistant, ScriptedWorker, on_a_loop, png_bytes


@pytest.fixture(scope="module")
def store() -> StoreDouble:
    return StoreDouble()


@pytest.fixture(scope="module")
def fetching_server(store: StoreDouble) -> Iterator[str]:
    from cxr_assistant.settings import read_settings
    from cxr_assistant.ui.app import build_app, launch

    assistant = ScriptedAssistant(ScriptedWorker(), store)
    blocks = on_a_loop(lambda: build_app(assistant, read_settings({})))
    settings = read_settings({"CXR_PORT": str(_free_port()), **HURRIED})
    on_a_loop(lambda: launch(blocks, settings, prevent_thread_lock=True, announce=None))
    yield str(blocks.local_url)
    blocks.close()


@pytest.fixture
def page(browser: Any, fetching_server: str) -> Iterator[Any]:
    with opener(browser, fetching_server) as opened:
        yield opened()


def open_sheet(page: Any) -> None:
    page.click("#menu summary")
    page.click(f"[data-plan={PUBLISHED.name}]")
    page.wait_for_selector("#fetch .fetch")


def test_a_model_is_fetched_after_its_terms_were_accepted_and_then_used(
    page: Any, store: StoreDouble, screenshot: Any
) -> None:
    open_sheet(page)
    assert "Research only." in page.inner_text("#fetch") and not store.ready
    page.click("#fetch [data-do=close]:has-text('Not now')")
    assert page.locator("#fetch .fetch").count() == 0 and not store.accepted

    store.stalls = True
    open_sheet(page)
    page.click("#fetch [data-fetch]")
    page.wait_for_function("document.querySelector('#fetch progress')?.value === 0.25")
    assert "60 s left" in page.inner_text("#fetch .progress-words")
    screenshot(page, "fetching")
    page.click("#fetch [data-do=stop]")
    page.wait_for_selector("#fetch .card:has-text('stopped')")

    store.stalls = False
    page.click("#fetch [data-plan]")
    page.click("#fetch [data-fetch]")
    page.click("#fetch [data-model]", timeout=15_000)
    page.wait_for_selector(f"#menu summary:has-text('{PUBLISHED.title}')")
    page.click("#menu summary")
    page.select_option(".is-chosen [data-precision]", "nf4")
    page.wait_for_function("document.querySelector('.is-chosen [data-precision]').value === 'nf4'")


def test_a_film_is_marked_as_the_prior_and_comparing_is_offered(page: Any, store: StoreDouble) -> None:
    store.ready.add(PUBLISHED.name)
    page.click("#menu summary")
    page.click(f"[data-model={PUBLISHED.name}]")
    upload(page, png_bytes(1), png_bytes(2))
    film_is_shown(page)
    assert page.locator("[data-task=progression]").count() == 0
    page.click("[data-prior]")
    page.wait_for_selector(".thumb.is-prior")
    page.click("[data-task=progression]")
    answered(page)
    page.click(".thumb.is-prior [data-show]")
    page.click("[data-current]")
    page.wait_for_function("!document.querySelector('.thumb.is-prior')")
    assert page.locator(FILE_INPUT).count() == 1
