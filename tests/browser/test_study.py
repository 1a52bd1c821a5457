from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.browser.conftest import PHONE, OpenPage, opener
from tests.browser.pages import (
    answered,
    ask,
    choose,
    demonstrate,
    film_is_shown,
    last_answer,
    start_anew,
    upload,
)
from tests.ui.doubles import ScriptedWorker, png_bytes


@pytest.fixture(scope="module")
def room(browser: Any, server: str) -> Iterator[Any]:
    with opener(browser, server) as open_page:
        yield open_page()


@pytest.fixture
def page(room: Any, worker: ScriptedWorker) -> Any:
    """An empty room, and the embedded model: one page for the whole file."""
    worker.word_delay_s, worker.prefill_delay_s = 0.012, 0.0
    start_anew(room)
    choose(room, "embedded", "Embedded model")
    return room


def test_a_file_without_extension_is_read_and_its_name_never_leaves_the_browser(page: Any) -> None:
    sent: list[bytes] = []

    def heard(request: Any) -> None:
        if "upload" in request.url:
            sent.append(request.post_data_buffer or b"")

    page.on("request", heard)
    upload(page, png_bytes(), name="SMITH^JOHN")
    film_is_shown(page)
    page.remove_listener("request", heard)
    assert sent and all(b"SMITH" not in body for body in sent)
    assert "260 × 300" in page.inner_text(".hud-facts")


def test_a_film_can_be_dropped_and_pasted(page: Any) -> None:
    for kind, event in (("DragEvent", "drop"), ("ClipboardEvent", "paste")):
        page.evaluate(
            """([kind, event, bytes]) => {
                 const transfer = new DataTransfer();
                 transfer.items.add(new File([new Uint8Array(bytes)], "scan.png"));
                 const options = {bubbles: true, cancelable: true,
                                  dataTransfer: transfer, clipboardData: transfer};
                 document.querySelector("#viewer").dispatchEvent(new window[kind](event, options)); }""",
            [kind, event, list(png_bytes(1 if event == "drop" else 2))],
        )
        count = 1 if event == "drop" else 2
        page.wait_for_function(f"document.querySelectorAll('.thumb').length === {count}")


def test_a_bad_file_is_one_sentence_in_the_chat_and_the_session_goes_on(page: Any) -> None:
    upload(page, b"no radiograph at all", name="film.dcm")
    page.wait_for_selector(".card.is-error")
    assert "neither DICOM nor PNG nor JPEG" in page.inner_text(".card")
    upload(page, b"EXPLODE")
    page.wait_for_function("document.querySelectorAll('.card').length === 2")
    assert "secret" not in page.content()
    demonstrate(page)


def test_the_embedded_model_refuses_a_foreign_film_and_names_another(page: Any) -> None:
    upload(page, png_bytes())
    film_is_shown(page)
    page.click("[data-task=findings]")
    page.wait_for_selector("[data-code=foreign_image]")
    assert page.locator("[data-testid=bot]").count() == 0
    page.click("[data-code=foreign_image] [data-model=llava-rad]")
    page.wait_for_selector(".model-menu summary:has-text('LLaVA-Rad')")
    page.click("[data-act=retry]")
    page.wait_for_selector("[data-testid=bot]")
    answered(page)
    assert "pleural effusion" in last_answer(page)


def test_films_are_shown_and_taken_down(page: Any) -> None:
    upload(page, png_bytes(1), png_bytes(2))
    page.wait_for_function("document.querySelectorAll('.thumb').length === 2")
    page.locator("[data-show]").first.click()
    page.wait_for_selector(".thumb:first-child.is-shown")
    film_is_shown(page)
    page.locator(".thumb").first.hover()
    page.locator("[data-remove]").first.click()
    page.wait_for_function("document.querySelectorAll('.thumb').length === 1")
    page.click("[data-do=new]")
    page.wait_for_selector(".empty-room h2:visible")


def test_a_new_study_forgets_the_patient(page: Any) -> None:
    demonstrate(page)
    page.fill("input[name=indication]", "Cough")
    ask(page, "Heart?")
    page.click("[data-do=new]")
    page.wait_for_selector(".empty-room h2:visible")
    page.wait_for_function("document.querySelectorAll('.log article').length === 0")
    assert page.input_value("input[name=indication]") == ""


def test_the_synthetic_panel_makes_the_patient_that_was_asked_for(page: Any) -> None:
    page.click(".synthetic summary")
    assert page.is_disabled(".synthetic [name=side]")
    page.select_option(".synthetic [name=finding]", "pleural-effusion")
    page.select_option(".synthetic [name=side]", "left")
    page.select_option(".synthetic [name=finding]", "cardiomegaly")
    assert page.is_disabled(".synthetic [name=side]") and page.is_enabled(".synthetic [name=severity]")
    page.select_option(".synthetic [name=finding]", "pleural-effusion")
    page.fill(".synthetic [name=seed]", "77")
    page.click(".synthetic button[type=submit]")
    page.wait_for_selector(".truth")
    assert "seed 77" in page.inner_text(".truth")


def test_two_browsers_never_share_anything(open_page: OpenPage, worker: ScriptedWorker) -> None:
    ann, bob = open_page(), open_page()
    demonstrate(ann)
    upload(bob, png_bytes(9))
    film_is_shown(bob)
    ask(ann, "Question of Ann?", wait=False)
    bob.click(".model-menu summary")
    bob.click("[data-model=llava-rad]")
    bob.wait_for_selector(".model-menu summary:has-text('LLaVA-Rad')")
    ask(bob, "Question of Bob?")
    answered(ann)
    assert "Question of Bob" not in ann.content() and "Question of Ann" not in bob.content()
    assert "Embedded" in ann.inner_text(".model-menu summary")
    films = {
        person.evaluate(
            "performance.getEntriesByType('resource').map(e => e.name).find(n => n.includes('/pixels'))"
        )
        for person in (ann, bob)
    }
    assert len(films) == 2
    for request in worker.requests[-2:]:
        told = " ".join(turn.text for turn in request.conversation.turns)
        assert ("Ann" in told) != ("Bob" in told)


def test_the_page_on_a_desktop(page: Any, screenshot: Callable[[Any, str], None]) -> None:
    screenshot(page, "empty-1440")
    demonstrate(page)
    page.click("[data-act=boxes]")
    page.wait_for_selector("text=Hide on the film")
    page.mouse.move(5, 5)
    screenshot(page, "reading-room-1440")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_the_page_on_a_phone(open_page: OpenPage, screenshot: Callable[[Any, str], None]) -> None:
    page = open_page(PHONE)
    screenshot(page, "empty-390")
    demonstrate(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click("[data-act=boxes]")
    page.evaluate("scrollTo(0, 0)")
    screenshot(page, "reading-room-390")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    screenshot(page, "chat-390")
    box = page.locator(".composer").bounding_box()
    assert box["y"] + box["height"] <= 845
    assert page.locator(".ribbon").inner_text().startswith("Research preview")
