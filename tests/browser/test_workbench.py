"""The chat as a workbench in a real browser: settings, two models, steps, boxes, and the keyboard alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cxr_assistant.engine.service import Health, WorkerState
from cxr_assistant.models.precision import Device
from tests.browser.conftest import PHONE, OpenPage, opener
from tests.browser.pages import (
    answered,
    ask,
    choose,
    demonstrate,
    film_is_shown,
    last_answer,
    questions,
    tab_to,
    upload,
)
from tests.ui.doubles import FINDINGS, ScriptedWorker, png_bytes

# The browser's own dialog is out of a page's hands: it is enough that the key asks for it.
CATCH_CHOOSER = """() => document.addEventListener('click', (event) => {
  if (event.target.type === 'file') { event.preventDefault(); window.hasAsked = true; } }, true)"""


@pytest.fixture(scope="module")
def desk(browser: Any, server: str) -> Iterator[Any]:
    with opener(browser, server) as open_page:
        yield open_page()


@pytest.fixture
def study(desk: Any, worker: ScriptedWorker) -> Any:
    """A page with a synthetic patient whose draft is written, and the settings as they are at first."""
    worker.word_delay_s, worker.prefill_delay_s = 0.012, 0.0
    demonstrate(desk)
    desk.select_option("[name=rival]", "")
    return desk


def test_settings_reach_the_model_and_stand_under_the_answer(study: Any, worker: ScriptedWorker) -> None:
    study.click(".settings-button")
    assert study.is_disabled(".drawer [name=seed]")  # greedy draws nothing
    study.fill(".drawer [name=temperature]", "0.7")
    study.fill(".drawer [name=seed]", "12")
    study.fill(".drawer [name=max_new_tokens]", "99999")
    study.press(".drawer [name=max_new_tokens]", "Enter")
    ask(study, "Heart?")
    params = worker.requests[-1].params
    assert (params.temperature, params.seed, params.max_new_tokens) == (0.7, 12, 512)
    assert "temperature 0.7, seed 12" in study.locator(".colophon summary").last.inner_text()
    study.click(".settings-button")
    study.click(".drawer-reset")
    study.press(".drawer [name=temperature]", "Escape")
    assert "greedy" in study.inner_text(".settings-button")


def test_the_record_under_an_answer_says_how_to_get_it_again(study: Any) -> None:
    study.locator(".colophon summary").last.click()
    study.click("[data-act=record]")
    study.wait_for_selector("[data-act=record]:has-text('Copied')")
    record = study.evaluate("navigator.clipboard.readText()")
    for part in (
        "Model: embedded @ 0000",
        "Precision: fp32",
        "Prompt: Describe",
        "Decoding: greedy",
        "dddddddd",
    ):
        assert part in record


def test_two_models_answer_unnamed_until_the_vote(
    study: Any, worker: ScriptedWorker, screenshot: Any
) -> None:
    worker.word_delay_s = 0.2
    study.select_option("[name=rival]", "chexagent")
    study.check("[name=is_blind]")
    ask(study, "Is the heart of this patient enlarged or not?", wait=False)
    study.wait_for_function("document.querySelectorAll('.pair .caret').length === 2")
    study.wait_for_selector("[data-verdict=both-bad]")
    veiled = study.locator(".log article").last.inner_html()
    assert not any(name in veiled for name in ("mbedded", "exagent"))
    screenshot(study, "compare-blind-1440")
    study.focus("[data-verdict=tie]")
    study.keyboard.press("Enter")
    study.wait_for_selector(".is-given:has-text('tie')")
    study.wait_for_function("document.activeElement.closest('.is-given')")
    assert {"A: ", "B: "} == {name[:3] for name in study.locator(".pair .who").all_inner_texts()}


def test_stop_ends_both_models_and_retry_asks_both(study: Any, worker: ScriptedWorker) -> None:
    worker.word_delay_s = 0.2  # slow: it is the stop that is looked at, not the stream
    study.select_option("[name=rival]", "chexagent")
    study.uncheck("[name=is_blind]")
    ask(study, "a long story", wait=False)
    study.wait_for_function("document.querySelectorAll('.pair .caret').length === 2")
    study.click(".send.stop")
    answered(study)
    assert worker.running == 0 and study.locator(".ending:has-text('Stopped.')").count() == 2
    before = len(worker.requests)
    study.click("[data-act=retry]")
    study.wait_for_function("document.querySelectorAll('.pair .caret').length === 2")
    study.keyboard.press("Escape")
    answered(study)
    assert len(worker.requests) == before + 2


def test_a_report_is_written_in_steps_that_can_be_seen_coming(
    study: Any, worker: ScriptedWorker, screenshot: Any
) -> None:
    worker.word_delay_s = 0.1
    choose(study, "chexagent", "CheXagent")
    study.click("[data-task=steps]")
    study.wait_for_selector(".step.is-running ~ .step.is-to-come")
    answered(study)
    assert study.locator(".step.is-done").count() == 5
    assert "PA view, as the file states." in study.inner_text(".step .measured")
    screenshot(study, "steps-1440")


def test_a_request_without_a_button_is_found_among_the_others_and_filled_in(
    study: Any, worker: ScriptedWorker
) -> None:
    choose(study, "chexagent", "CheXagent")
    study.click(".task:has-text('Other requests') button")
    assert study.evaluate("document.activeElement.textContent") == "Binary disease classification"
    study.keyboard.press("Enter")
    study.press("textarea[name=prompt]", "Enter")  # the gap is still open: nothing is sent, it is selected
    study.keyboard.type("pneumothorax")
    study.keyboard.press("Enter")
    study.wait_for_function("document.querySelectorAll('[data-testid=user]').length === 2")
    answered(study)
    assert questions(study)[-1] == "Does this chest X-ray contain a pneumothorax?"


def test_a_follow_up_is_asked_with_one_press(study: Any) -> None:
    offered = study.locator("[data-suggest]").first.get_attribute("data-prompt")
    study.locator("[data-suggest]").first.click()
    study.wait_for_function("document.querySelectorAll('[data-testid=user]').length === 2")
    answered(study)
    assert questions(study)[-1] == offered


@pytest.fixture
def slow_refresh(worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look at what fits takes long, and finds that less memory is free than before."""
    times = iter([1.0])
    found = Health(
        WorkerState.READY, worker.resident, device=Device("cuda", "a GPU", 20 << 30, 24 << 30, (8, 9))
    )

    def look() -> Health:
        time.sleep(next(times, 0.0))
        return found

    monkeypatch.setattr(worker, "health", look)


def test_a_choice_is_not_undone_by_the_menu_that_was_drawn_before_it(page: Any, slow_refresh: None) -> None:
    """Opening the menu asks for its newest state; that reply comes after the reply to a quick choice."""
    page.focus(".model-menu summary")
    page.keyboard.press("Enter")
    page.click("#menu [data-model=chexagent]")
    page.wait_for_selector(".model-menu summary:has-text('CheXagent')")
    page.wait_for_timeout(1500)
    assert "CheXagent" in page.inner_text(".model-menu summary")


def test_a_menu_that_is_drawn_anew_leaves_the_keyboard_where_it_was(page: Any, slow_refresh: None) -> None:
    tab_to(page, ".model-menu summary")
    page.keyboard.press("Enter")
    tab_to(page, "#menu [data-model=chexagent]")
    page.evaluate("document.querySelector('#menu details').isOld = true")
    page.wait_for_function("!document.querySelector('#menu details').isOld")
    assert page.evaluate("document.activeElement.matches('#menu [data-model=chexagent]')")


def test_upload_ask_box_and_copy_by_keyboard_alone(page: Any, screenshot: Callable[[Any, str], None]) -> None:
    tab_to(page, ".empty-room [data-do=choose]")
    page.evaluate(CATCH_CHOOSER)
    page.keyboard.press("Enter")
    page.wait_for_function("window.hasAsked")
    upload(page, png_bytes())
    film_is_shown(page)
    tab_to(page, ".model-menu summary")
    page.keyboard.press("Enter")
    tab_to(page, "#menu [data-model=chexagent]")
    page.keyboard.press("Enter")
    page.wait_for_selector(".model-menu summary:has-text('CheXagent')")
    tab_to(page, "[data-task=grounding]")
    page.keyboard.press("Enter")
    page.keyboard.type("left pleural effusion")
    page.keyboard.press("Enter")
    page.wait_for_selector(".phrase")
    answered(page)
    assert questions(page) == ["Please locate: left pleural effusion"]
    tab_to(page, ".phrase", back=True)
    page.keyboard.press("Enter")
    lit = "document.querySelector('#viewer [data-state]').viewbox.pane().highlight?.label"
    page.wait_for_function(f"{lit} === 'left pleural effusion'")
    screenshot(page, "box-1440")
    tab_to(page, "[data-act=copy]")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "The left pleural effusion is marked."


def test_editing_and_taking_back_by_keyboard(study: Any) -> None:
    ask(study, "Heart?")
    study.keyboard.press("ArrowUp")  # in the empty question: the last one is edited where it stands
    study.wait_for_function("document.activeElement.getAttribute('aria-label') === 'Edit the question'")
    study.keyboard.press("Escape")
    assert study.evaluate("document.activeElement.dataset.act") == "edit"
    study.keyboard.press("Enter")
    study.keyboard.press("Control+A")
    study.keyboard.type("Lungs?")
    study.keyboard.press("Enter")
    study.wait_for_function("document.querySelector('.log').innerText.includes('You asked: Lungs?')")
    answered(study)
    assert study.evaluate("document.activeElement.classList.contains('send')")
    tab_to(study, "[data-act=undo]", back=True)
    study.keyboard.press("Enter")
    study.wait_for_function("document.querySelectorAll('[data-testid=user]').length === 1")
    assert study.evaluate("document.activeElement.name") == "prompt"


def test_a_lost_connection_is_said_and_so_is_its_return(page: Any) -> None:
    page.route("**/app_id", lambda route: route.abort())
    page.evaluate("dispatchEvent(new Event('offline'))")
    page.wait_for_selector(".connection[data-kind=lost]:has-text('trying again')")
    page.unroute("**/app_id")
    page.evaluate("dispatchEvent(new Event('online'))")
    page.wait_for_selector(".connection[data-kind=back]")


def test_a_server_that_was_started_anew_is_said_to_be(page: Any) -> None:
    page.wait_for_timeout(200)
    page.route("**/app_id", lambda route: route.fulfill(json={"app_id": 1}))
    page.evaluate("dispatchEvent(new Event('online'))")
    page.wait_for_selector(".connection[data-kind=restarted] button")


def test_the_workbench_on_a_phone(open_page: OpenPage, screenshot: Callable[[Any, str], None]) -> None:
    page = open_page(PHONE)
    demonstrate(page)
    page.tap(".settings-button")
    assert page.locator(".drawer").is_visible()
    page.tap(".settings-button")
    page.select_option("[name=rival]", "chexagent")
    page.tap("[name=is_blind]")
    page.tap("[data-task=findings]")
    page.wait_for_selector("[data-verdict=a]")
    screenshot(page, "compare-blind-390")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.tap("[data-verdict=a]")
    page.wait_for_selector(".is-given")
    assert last_answer(page) == FINDINGS
