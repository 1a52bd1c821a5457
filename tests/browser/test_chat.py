from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.conftest import opener
from tests.browser.pages import answered, ask, demonstrate, last_answer, questions
from tests.ui.doubles import EMBEDDED, FINDINGS, ScriptedWorker


@pytest.fixture(scope="module")
def desk(browser: Any, server: str) -> Iterator[Any]:
    """One page for the whole file: a study is begun anew in each test, as a person would."""
    with opener(browser, server) as open_page:
        yield open_page()


@pytest.fixture
def study(desk: Any, worker: ScriptedWorker) -> Any:
    """A page with a synthetic patient whose draft is written."""
    worker.word_delay_s, worker.prefill_delay_s = 0.012, 0.0
    demonstrate(desk)
    return desk


def test_one_click_shows_the_draft_beside_the_truth(study: Any) -> None:
    assert last_answer(study) == FINDINGS
    assert "Moderate left pleural effusion" in study.inner_text(".truth")
    draft, truth = (study.locator(name).bounding_box() for name in (".draft", ".truth"))
    assert truth["x"] > draft["x"] + draft["width"] - 1 and abs(truth["y"] - draft["y"]) < 30


def test_a_task_button_shows_and_sends_its_exact_words(study: Any) -> None:
    button = study.locator("[data-task=view]")
    assert "What is the view of this radiograph?" in button.inner_text()
    is_whole = "words => words.scrollWidth <= words.clientWidth && words.scrollHeight <= words.clientHeight"
    assert all(words.evaluate(is_whole) for words in study.locator(".task span").all()), "cut off"
    button.click()
    study.wait_for_function("document.querySelectorAll('[data-testid=user]').length === 2")
    answered(study)
    assert questions(study)[-1] == "What is the view of this radiograph?"
    assert last_answer(study) == "PA"


def test_the_words_of_a_task_can_be_changed_before_sending(study: Any, worker: ScriptedWorker) -> None:
    study.click(".task:has([data-task=findings]) .pencil")
    assert study.input_value("textarea[name=prompt]") == next(iter(EMBEDDED.tasks.values())).prompt
    study.fill("textarea[name=prompt]", "Describe the heart alone.")
    study.press("textarea[name=prompt]", "Enter")
    study.wait_for_function("document.querySelectorAll('[data-testid=user]').length === 2")
    answered(study)
    assert worker.requests[-1].task == "findings"
    assert worker.requests[-1].conversation.last_question == "Describe the heart alone."


def test_the_indication_goes_with_the_question(study: Any, worker: ScriptedWorker) -> None:
    study.fill("input[name=indication]", "Cough for two weeks")
    ask(study, "Heart?")
    assert worker.requests[-1].study.indication == "Cough for two weeks"


def test_text_appears_while_it_is_written_and_no_film_is_sent_again(
    study: Any, worker: ScriptedWorker
) -> None:
    films: list[str] = []
    study.on("request", lambda request: films.append(request.url) if "/film/" in request.url else None)
    study.evaluate(
        """() => { window.seen = []; new MutationObserver(() => {
             const words = [...document.querySelectorAll('[data-testid=bot]')].pop();
             window.seen.push([performance.now(), words ? words.innerText.length : 0]);
           }).observe(document.querySelector('.log'), {subtree: true, childList: true}); }"""
    )
    ask(study, "a long story", wait=False)
    study.wait_for_timeout(2500)
    study.click(".send.stop")
    answered(study)
    seen = study.evaluate("window.seen")
    lengths = {length for _, length in seen}
    assert 15 <= len(lengths)
    per_second = len({round(at / 5) for at, _ in seen}) / ((seen[-1][0] - seen[0][0]) / 1000)
    assert per_second <= 32
    assert films == []


def test_stop_ends_the_answer_and_the_worker(study: Any, worker: ScriptedWorker) -> None:
    worker.word_delay_s = 0.1  # slow: it is the stop that is looked at, not the stream
    ask(study, "a long story", wait=False)
    study.wait_for_selector(".caret")
    study.click(".send.stop")
    answered(study)
    assert "Stopped." in study.locator(".log article").last.inner_text()
    assert worker.running == 0


def test_stop_before_the_first_word_is_honoured(study: Any, worker: ScriptedWorker) -> None:
    worker.prefill_delay_s = 20.0
    ask(study, "Heart?", wait=False)
    study.wait_for_selector(".pending")
    started = time.monotonic()
    study.click(".send.stop")
    answered(study)
    assert time.monotonic() - started < 10.0  # of 20
    assert "Stopped before the first word." in study.locator(".log article").last.inner_text()


def test_closing_the_tab_ends_the_answer(page: Any, worker: ScriptedWorker) -> None:
    demonstrate(page)
    ask(page, "a long story", wait=False)
    page.wait_for_selector(".caret")
    page.close()
    deadline = time.monotonic() + 5
    while worker.running and time.monotonic() < deadline:
        time.sleep(0.02)
    assert worker.running == 0


def test_retry_edit_and_undo(study: Any) -> None:
    ask(study, "Heart?")
    study.click("[data-act=retry]")
    study.wait_for_selector(".log[aria-busy=true]")
    answered(study)
    assert questions(study)[-1] == "Heart?"
    study.locator("[data-act=edit]").last.click()
    study.fill(".question form textarea", "Lungs?")
    study.click(".question form .primary")
    study.wait_for_function("document.querySelector('.log').innerText.includes('You asked: Lungs?')")
    assert questions(study)[1:] == ["Lungs?"]
    answered(study)
    study.click("[data-act=undo]")
    study.wait_for_function("document.querySelectorAll('[data-testid=user]').length === 1")


def test_copy_takes_the_words_and_nothing_else(study: Any) -> None:
    study.click("[data-act=copy]")
    study.wait_for_selector("text=Copied")
    assert study.evaluate("navigator.clipboard.readText()") == FINDINGS


def test_what_the_model_writes_is_never_markup(study: Any) -> None:
    ask(study, "answer with markup")
    assert last_answer(study).startswith(
        "‹img src=x onerror=alert(1)> **bold** [link] (http: / /example.org) $x$"
    )
    assert "SpO2 <90% & >5 cm" in last_answer(study)
    assert study.locator(".log img, .log a").count() == 0


@pytest.mark.parametrize(
    ("question", "sentence"),
    [("out of memory", "no memory left"), ("explode", "Something went wrong inside the assistant")],
)
def test_a_failure_is_a_card_and_the_session_goes_on(study: Any, question: str, sentence: str) -> None:
    ask(study, question)
    assert sentence in study.locator(".card").last.inner_text()
    assert "secret" not in study.content()
    ask(study, "Heart?")
    assert "Heart?" in last_answer(study)


def test_the_model_can_be_changed_in_mid_study(study: Any, worker: ScriptedWorker) -> None:
    study.click(".model-menu summary")
    study.click("[data-model=llava-rad]")
    study.wait_for_selector(".model-menu summary:has-text('LLaVA-Rad')")
    study.click("[data-task=findings]")
    study.wait_for_function("document.querySelectorAll('[data-testid=user]').length === 2")
    answered(study)
    assert worker.requests[-1].checkpoint == "llava-rad"
    assert "llava-rad" in study.locator(".colophon").last.inner_text()
