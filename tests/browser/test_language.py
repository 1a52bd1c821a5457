"""The page in another language: the interface speaks it, the model's text stays English, and both say so."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.conftest import opener
from tests.browser.pages import answered, ask, demonstrate, last_answer
from tests.ui.doubles import FINDINGS


def test_a_german_browser_gets_a_german_page(browser: Any, server: str, screenshot: Any) -> None:
    with opener(browser, server) as opened:
        page = opened(locale="de-DE")
        assert page.evaluate("document.documentElement.lang") == "de"
        assert "Hängen Sie eine Thoraxaufnahme auf" in page.inner_text(".empty-room")
        demonstrate(page)
        answered(page)
        assert page.inner_text(".send") == "Senden"
        assert "Befund entwerfen" in page.inner_text(".tasks")
        assert last_answer(page) == FINDINGS
        assert page.locator("[data-testid=bot]").last.get_attribute("lang") == "en"
        assert page.inner_text(".language-note") == "Die Modelle schreiben Englisch."
        ask(page, "Is there a mass?")
        assert "Is there a mass?" in page.locator("[data-testid=user] .words").last.inner_text()
        screenshot(page, "german-1440")


def test_the_picker_wins_and_goes_both_ways(page: Any) -> None:
    assert page.locator(".language-note").is_hidden()
    page.select_option("[data-do=language]", "de")
    assert page.inner_text(".send") == "Senden"
    page.reload()
    page.wait_for_selector(".empty-room h2")
    page.wait_for_function("document.querySelector('.send').innerText === 'Senden'")
    page.select_option("[data-do=language]", "en")
    assert page.inner_text(".send") == "Send"
    assert page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("language", ["de"])
def test_nothing_of_the_page_stays_english(page: Any, language: str) -> None:
    """What is on the page at rest and in the middle of a chat, but for names and what others wrote."""
    from cxr_assistant.ui.strings import catalogue

    demonstrate(page)
    answered(page)
    page.select_option("[data-do=language]", language)
    shown = page.evaluate(
        "[...document.querySelectorAll('#room *')].flatMap((e) => [...e.childNodes])"
        ".filter((n) => n.nodeType === 3 && !n.parentElement.closest('[data-testid=bot], textarea, script'))"
        ".map((n) => n.data.trim().replace(/\\s+/g, ' ')).filter(Boolean)"
    )
    same = {text for text, said in catalogue().items() if said[language] == text}
    assert [text for text in shown if text in catalogue() and text not in same] == []
