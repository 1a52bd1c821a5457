"""Two films at once, thumbnails, folders and fingers: what hangs, by mouse, by keys and by touch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser.conftest import PHONE, opener
from tests.browser.pages import FILE_INPUT, answered, ask, film_is_shown, start_anew, upload, viewbox
from tests.imaging.builders import dicom, thorax
from tests.ui.doubles import ScriptedWorker, png_bytes

COUNT = "n => document.querySelectorAll('.thumb').length === n"


@pytest.fixture(scope="module")
def room(browser: Any, server: str) -> Iterator[Any]:
    with opener(browser, server) as open_page:
        yield open_page()


@pytest.fixture
def page(room: Any, worker: ScriptedWorker) -> Any:
    """An empty room."""
    worker.word_delay_s = 0.012
    start_anew(room)
    return room


def chest(day: str, view: str = "PA", size: tuple[int, int] = (96, 80)) -> bytes:
    header = {"PatientID": "one", "StudyDate": day, "ViewPosition": view}
    film = thorax(*size) + np.uint16(int(day[-1]))  # the same pixels would be the same film
    return dicom(film, **header, WindowCenter=1000, WindowWidth=3000)


def hung(page: Any, *contents: bytes) -> Any:
    upload(page, *contents)
    page.wait_for_function(COUNT, arg=len(contents))
    film_is_shown(page)
    return page


def captions(page: Any) -> list[str]:
    return list(page.locator(".thumb .caption").all_inner_texts())


def digests(page: Any) -> list[str]:
    return [str(thumb.get_attribute("data-digest")) for thumb in page.locator(".thumb").all()]


def test_a_prior_hangs_beside_the_current_film_with_the_days_between(page: Any) -> None:
    hung(page, chest("20250401"), chest("20240214"))
    page.click("[data-prior]")
    page.wait_for_selector(".panes[data-count='2']")
    film_is_shown(page)
    assert page.locator(".hud-title").all_inner_texts() == ["Current", "Prior, 412 days earlier"]
    assert captions(page) == ["PA", "Prior"]
    words = page.inner_text("body") + " ".join(page.locator("[aria-label]").all_inner_texts())
    assert "2024" not in words and "2025" not in words


def test_frontal_and_lateral_hang_side_by_side_and_move_together_on_request(page: Any) -> None:
    hung(page, chest("20250401"), chest("20250401", "LL", (128, 70)))
    page.wait_for_selector(".panes[data-count='2']")
    film_is_shown(page)
    first, second = (lambda what, n=n: viewbox(page, f"pane({n}).{what}") for n in (0, 1))
    page.locator(".stage").nth(0).focus()
    page.keyboard.press("i")
    assert first("look.invert") and not second("look.invert")
    page.keyboard.press("i")
    page.click("[data-tool=link]")
    page.locator(".stage").nth(0).focus()
    page.keyboard.press("+")
    page.keyboard.press("2")
    page.keyboard.press("i")
    assert first("look.name") == second("look.name") == "Auto" and second("look.invert")
    assert first("gaze()")["zoom"] == pytest.approx(second("gaze()")["zoom"]) == pytest.approx(1.25)
    page.click("[data-tool=pair]")
    page.wait_for_selector(".panes[data-count='1']")


def test_the_film_that_is_clicked_is_the_one_that_is_meant(page: Any, worker: ScriptedWorker) -> None:
    hung(page, png_bytes(1), png_bytes(2))
    page.click("[data-tool=pair]")
    page.wait_for_selector(".panes[data-count='2']")
    film_is_shown(page)
    page.locator(".stage").nth(1).click()
    page.wait_for_selector(".thumb:first-child.is-shown")
    page.locator(".stage").nth(0).click()
    page.wait_for_selector(".thumb:last-child.is-shown")


def test_thumbnails_are_moved_by_keys_and_by_hand(page: Any) -> None:
    hung(page, png_bytes(1), png_bytes(2), png_bytes(3))
    one, two, three = digests(page)
    page.locator("[data-show]").nth(2).focus()
    page.keyboard.press("Shift+ArrowLeft")
    page.wait_for_function("d => document.querySelectorAll('.thumb')[1].dataset.digest === d", arg=three)
    assert page.evaluate("document.activeElement.dataset.show") == three
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.dataset.show") == one
    page.locator(".thumb").nth(2).drag_to(page.locator(".thumb").nth(0), target_position={"x": 4, "y": 20})
    page.wait_for_function("d => document.querySelectorAll('.thumb')[0].dataset.digest === d", arg=two)
    assert digests(page) == [two, one, three]


def test_a_thumbnail_dropped_on_the_right_hangs_beside(page: Any) -> None:
    hung(page, png_bytes(1), png_bytes(2))
    box = page.locator(".stage").bounding_box()
    page.locator(".thumb").nth(0).drag_to(
        page.locator(".stage"), target_position={"x": box["width"] - 40, "y": 200}
    )
    page.wait_for_selector(".panes[data-count='2']")
    film_is_shown(page)
    assert page.locator(".thumb.is-hung").count() == 2


def test_a_film_chosen_while_an_answer_streams_stays_and_nothing_is_sent_again(
    page: Any, worker: ScriptedWorker
) -> None:
    hung(page, png_bytes(1), png_bytes(2))
    page.click(".model-menu summary")
    page.click("[data-model=llava-rad]")
    page.wait_for_selector(".model-menu summary:has-text('LLaVA-Rad')")
    page.wait_for_timeout(300)
    films: list[str] = []
    listener = lambda request: "/film/" in request.url and films.append(request.url)  # noqa: E731
    page.on("request", listener)
    bytes_in: list[int] = []
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.on("Network.dataReceived", lambda event: bytes_in.append(event["encodedDataLength"]))
    ask(page, "Quiet?")
    assert films == [] and sum(bytes_in) < 200_000
    worker.word_delay_s = 0.15
    ask(page, "Which one is this, said slowly and with many words?", wait=False)
    page.wait_for_selector(".caret")
    page.locator("[data-show]").nth(0).click()
    page.wait_for_selector(".thumb:first-child.is-shown")
    answered(page)
    film_is_shown(page)
    page.wait_for_timeout(300)
    assert page.locator(".thumb.is-shown").first.get_attribute("data-digest") == digests(page)[0]
    assert viewbox(page, "pane(0).film.id") == digests(page)[0]
    assert len([url for url in films if url.endswith("/pixels")]) == 1  # the film that was chosen
    page.remove_listener("request", listener)


def test_each_file_of_an_upload_is_listed_with_its_fate(page: Any) -> None:
    files = {
        "IM_0001": png_bytes(1),
        "report.txt": b"no film",
        "study.zip": b"PK\x03\x04" + bytes(80),
        "Thumbs.db": b"x",
        "DICOMDIR": b"x",
        "again.png": png_bytes(1),
    }
    page.set_input_files(
        FILE_INPUT,
        [{"name": n, "mimeType": "application/octet-stream", "buffer": b} for n, b in files.items()],
    )
    page.wait_for_selector(".fates:not([hidden])")
    assert page.inner_text(".fates h3") == "1 of 6 files added"
    told = dict(zip(files, page.locator(".fates li").all_inner_texts(), strict=True))
    assert "260 × 300" in told["IM_0001"] and "neither DICOM" in told["report.txt"]
    assert "unpack it" in told["study.zip"] and "operating system" in told["Thumbs.db"]
    assert "index of a disc" in told["DICOMDIR"] and "already" in told["again.png"]
    page.click("[data-do=close-fates]")
    assert page.locator(".fates").is_hidden()


def test_a_renamed_archive_is_refused_by_its_content(page: Any) -> None:
    upload(page, b"PK\x03\x04" + bytes(80), name="film")
    page.wait_for_selector(".card.is-error, .fates:not([hidden])")


def test_a_folder_is_read_with_the_folders_in_it(page: Any, tmp_path: Path) -> None:
    deep = tmp_path / "DICOM" / "S1"
    deep.mkdir(parents=True)
    (deep / "IM_0001").write_bytes(png_bytes(1))
    (deep / "IM_0002").write_bytes(png_bytes(2))
    (tmp_path / "DICOM" / "README.txt").write_text("no film")
    page.set_input_files(".folder-input", str(tmp_path / "DICOM"))
    page.wait_for_function(COUNT, arg=2)
    assert page.inner_text(".fates h3") == "2 of 3 files added"
    assert "DICOM/S1/IM_0001" in page.inner_text(".fates")


@pytest.fixture(scope="module")
def phone(browser: Any, server: str) -> Iterator[Any]:
    with opener(browser, server) as open_page:
        page = open_page(PHONE)
        upload(page, png_bytes(1, size=(560, 480)))
        film_is_shown(page)
        yield page


@pytest.fixture
def touch(phone: Any) -> Callable[..., None]:
    """Fingers on the stage, as the browser itself sends them: each argument is where they are by then."""
    session = phone.context.new_cdp_session(phone)
    box = phone.locator(".stage").bounding_box()

    def send(kind: str, fingers: list[tuple[int, int]]) -> None:
        points = [{"x": box["x"] + x, "y": box["y"] + y, "id": n} for n, (x, y) in enumerate(fingers)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def moved(*steps: list[tuple[int, int]]) -> None:
        send("touchStart", steps[0])
        for step in steps[1:]:
            send("touchMove", step)
        send("touchEnd", [])
        phone.wait_for_timeout(80)

    return moved


def test_two_fingers_zoom_and_one_sets_the_window(phone: Any, touch: Callable[..., None]) -> None:
    phone.tap(".stage")  # from now on one finger is the film's, not the page's
    before = viewbox(phone, "place()")["zoom"]
    touch([(150, 200), (250, 200)], [(125, 200), (275, 200)], [(100, 200), (300, 200)])
    assert viewbox(phone, "place()")["zoom"] == pytest.approx(before * 2, rel=0.06)
    window = viewbox(phone, "look()")
    touch([(120, 150)], [(150, 150)], [(200, 190)], [(220, 210)])
    after = viewbox(phone, "look()")
    assert after["width"] > window["width"] and after["center"] > window["center"]
    assert phone.evaluate("scrollY") == 0


def test_two_fingers_that_move_together_pan(phone: Any, touch: Callable[..., None]) -> None:
    before = viewbox(phone, "place()")
    touch([(150, 200), (250, 200)], [(160, 215), (260, 215)], [(180, 240), (280, 240)])
    after = viewbox(phone, "place()")
    assert after["x"] - before["x"] == pytest.approx(30, abs=4)
    assert after["y"] - before["y"] == pytest.approx(40, abs=4)
    assert after["zoom"] == pytest.approx(before["zoom"], rel=0.03)
