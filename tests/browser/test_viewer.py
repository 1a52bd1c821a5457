from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.browser.conftest import opener
from tests.browser.pages import demonstrate, viewbox
from tests.ui.doubles import ScriptedAssistant


@pytest.fixture(scope="module")
def demonstration(browser: Any, server: str) -> Iterator[Any]:
    with opener(browser, server) as open_page:
        page = open_page()
        demonstrate(page)
        yield page


@pytest.fixture
def film(demonstration: Any) -> Any:
    """A synthetic film as it is first shown."""
    demonstration.focus(".stage")
    demonstration.keyboard.press("Space")
    return demonstration


def middle(page: Any) -> tuple[float, float]:
    box = page.locator(".stage").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_the_value_under_the_cursor_is_the_stored_value(film: Any) -> None:
    seed = int(film.inner_text(".truth .who span").split()[-1])
    stored = ScriptedAssistant().make_phantom(seed).radiograph.stored
    rows, columns = np.random.default_rng(3).integers(0, 480, (2, 200))
    points = [[int(column), int(row)] for column, row in zip(columns, rows, strict=True)]
    seen = film.evaluate(
        """points => { const box = document.querySelector('#viewer [data-state]').viewbox;
             return points.map(([x, y]) => box.valueAt(x, y)); }""",
        points,
    )
    assert seen == [int(stored[row, column]) for column, row in points]


def test_dragging_changes_window_and_level(film: Any) -> None:
    before = viewbox(film, "look()")
    x, y = middle(film)
    film.mouse.move(x, y)
    film.mouse.down()
    film.mouse.move(x + 60, y - 40, steps=6)
    film.mouse.up()
    after = viewbox(film, "look()")
    assert after["width"] > before["width"] and after["center"] < before["center"]
    film.dblclick(".stage")
    assert viewbox(film, "look()")["width"] == before["width"]


def test_the_wheel_zooms_at_the_cursor(film: Any) -> None:
    x, y = middle(film)
    box = film.locator(".stage").bounding_box()
    film.mouse.move(x + 80, y + 50)
    film.wait_for_function("document.querySelector('.hud-value').textContent")
    before = film.inner_text(".hud-value")
    film.mouse.wheel(0, -400)
    film.wait_for_timeout(150)
    film.mouse.move(x + 81, y + 50)
    film.mouse.move(x + 80, y + 50)
    after = film.inner_text(".hud-value")
    assert viewbox(film, "place()")["zoom"] > 1.5
    here, there = ([int(part) for part in text.split("   ")[0].split(",")] for text in (before, after))
    assert abs(here[0] - there[0]) <= 1 and abs(here[1] - there[1]) <= 1 and box["width"] > 0


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["i"], {"invert": True}),
        (["i", " "], {"invert": False}),
        (["h"], {"flip": True, "quarter": 0}),
        (["v"], {"flip": True, "quarter": 2}),
        (["r", "r"], {"flip": False, "quarter": 2}),
        (["2"], {"name": "Auto"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_keys_do_what_the_help_card_says(film: Any, keys: list[str], expected: dict[str, Any]) -> None:
    for key in keys:
        film.keyboard.press("Space" if key == " " else key)
    state = {**viewbox(film, "look()"), **viewbox(film, "place()")}
    assert {name: state[name] for name in expected} == expected


def test_side_marks_follow_flips_and_turns(film: Any) -> None:
    def marks() -> list[str]:
        film.wait_for_timeout(80)
        return [film.inner_text(f".mark-{edge}") for edge in ("left", "top", "right", "bottom")]

    assert marks() == ["R", "H", "L", "F"]
    film.keyboard.press("r")
    assert marks() == ["F", "R", "H", "L"]
    film.keyboard.press("r")
    film.keyboard.press("h")
    assert marks() == ["R", "F", "L", "H"]


@pytest.mark.parametrize("keys", ["", "h", "v", "r", "rh", "rrv"], ids=lambda keys: keys or "as-is")
def test_a_left_sided_box_lies_where_the_patients_left_is(film: Any, keys: str) -> None:
    for key in keys:
        film.keyboard.press(key)
    film.wait_for_timeout(80)
    center = viewbox(film, "toStage(0.73 * 480, 0.5 * 560)")
    box = film.locator(".stage").bounding_box()
    edge = next(e for e in ("left", "top", "right", "bottom") if film.inner_text(f".mark-{e}") == "L")
    across, down = center["x"] - box["width"] / 2, center["y"] - box["height"] / 2
    assert {"left": -across, "right": across, "top": -down, "bottom": down}[edge] > 50


def test_boxes_are_drawn_over_the_film_and_never_into_it(film: Any) -> None:
    def yellow() -> int:
        film.wait_for_timeout(120)
        return int(
            film.evaluate(
                """() => { const c = document.querySelector('#viewer canvas');
                     const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
                     let n = 0;
                     for (let i = 0; i < d.length; i += 4) if (d[i] > 200 && d[i + 2] < 120) n++;
                     return n; }"""
            )
        )

    value = viewbox(film, "valueAt(300, 400)")
    assert yellow() == 0
    film.click("[data-act=boxes]")
    assert yellow() > 500
    assert viewbox(film, "valueAt(300, 400)") == value
    film.click("[data-act=boxes]")
    assert yellow() == 0


def test_the_names_of_boxes_do_not_cover_each_other(film: Any) -> None:
    """The truth and what the model marked lie on each other, as they should: both names can be read."""
    plates = film.evaluate(
        """async () => { const pane = document.querySelector('#viewer [data-state]').viewbox.pane(0);
             const [truth] = pane.boxes, near = { ...truth, by: 'model', label: 'left pleural effusion' };
             const known = pane.boxes;
             pane.boxes = [truth, near, { ...near, label: 'fluid' }, { ...near, y_max: 0.99, label: 'base' }];
             pane.showsBoxes = true; pane.redraw();
             await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
             const seen = pane.plates, size = pane.size();
             pane.boxes = known; pane.showsBoxes = false; pane.redraw();
             return seen.map(p => ({ ...p, isInside: p.left >= 0 && p.top >= 0
               && p.left + p.length <= size.width && p.top + 18 <= size.height })); }"""
    )
    assert len(plates) == 4 and plates[0]["text"].startswith("Truth: ")
    assert all(plate["isInside"] for plate in plates)
    for n, one in enumerate(plates):
        for other in plates[n + 1 :]:
            apart = (
                one["left"] + one["length"] <= other["left"] or other["left"] + other["length"] <= one["left"]
            )
            assert apart or abs(one["top"] - other["top"]) >= 18


def test_a_length_is_given_in_millimetres(film: Any) -> None:
    film.keyboard.press("m")
    x, y = middle(film)
    film.mouse.move(x, y)
    film.mouse.down()
    film.mouse.move(x + 100, y, steps=3)
    film.mouse.up()
    length = viewbox(film, "length()")
    film.keyboard.press("m")
    assert length == f"{100 / viewbox(film, 'place()')['zoom'] * 0.7:.1f} mm at the detector"


def test_two_fingers_zoom(film: Any) -> None:
    before = viewbox(film, "place()")["zoom"]
    film.evaluate(
        """() => { const stage = document.querySelector('.stage'), box = stage.getBoundingClientRect();
             stage.setPointerCapture = () => {};
             const send = (type, id, x) => stage.dispatchEvent(new PointerEvent(type, {
               pointerId: id, pointerType: 'touch', button: 0, bubbles: true,
               clientX: box.left + x, clientY: box.top + 200}));
             send('pointerdown', 11, 150); send('pointerdown', 12, 250);
             send('pointermove', 11, 100); send('pointermove', 12, 300);
             send('pointerup', 11, 100); send('pointerup', 12, 300); }"""
    )
    assert viewbox(film, "place()")["zoom"] == pytest.approx(before * 2, rel=0.05)


def test_the_film_is_described_for_a_screen_reader(film: Any) -> None:
    assert film.get_attribute(".stage", "aria-describedby") == "film-description-0"
    film.keyboard.press("i")
    film.wait_for_function("document.querySelector('#film-description-0').textContent.includes('inverted')")
    words = film.text_content("#film-description-0")
    assert "Synthetic chest radiograph, PA" in words and "Window Standard" in words
