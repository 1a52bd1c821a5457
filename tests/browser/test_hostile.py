"""A model that was told what to write, in a real browser: nothing is run, linked or fetched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.conftest import opener
from tests.browser.pages import ask, demonstrate, last_answer
from tests.payloads import PAYLOADS, RADIOLOGY
from tests.ui.doubles import ScriptedWorker


@pytest.fixture
def page(browser: Any, server: str, worker: ScriptedWorker) -> Iterator[Any]:
    """A page with a study; a request to anywhere else, a policy violation or an error fails the test."""
    worker.word_delay_s = 0.0
    with opener(browser, server) as open_page:
        opened = open_page()
        opened.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
        demonstrate(opened)
        yield opened
        worker.says = ""


def hot(page: Any) -> int:
    """Elements in questions and answers that do anything."""
    places = ("[data-testid=bot]", "[data-testid=user] .words")
    names = ("a", "img", "script", "iframe", "svg", "object", "video", "form", "style", "link", "input")
    return int(page.locator(", ".join(f"{place} {name}" for place in places for name in names)).count())


@pytest.mark.requirement("O2", "O4")
def test_nothing_that_a_model_writes_is_run_or_fetched(page: Any, worker: ScriptedWorker) -> None:
    worker.says = "\n".join([*PAYLOADS, RADIOLOGY[0]])
    ask(page, "Heart?")
    assert "SpO2 <90% & >5 cm" in last_answer(page)
    assert "evil" in last_answer(page), "it is shown, as text"
    assert hot(page) == 0


@pytest.mark.requirement("O2")
def test_nothing_that_a_person_writes_is_run_or_fetched(page: Any) -> None:
    payloads = "".join(p for p in PAYLOADS if p.isprintable())[:1900]
    ask(page, payloads)
    assert hot(page) == 0


@pytest.mark.requirement("O4")
def test_the_policy_stops_a_script_a_picture_and_a_request_from_elsewhere(browser: Any, server: str) -> None:
    context = browser.new_context()
    bare = context.new_page()  # one that may complain: it is made to
    bare.goto(server)
    bare.wait_for_selector(".empty-room h2")
    has_run, stopped = bare.evaluate(
        """async () => {
            const stopped = [];
            document.addEventListener('securitypolicyviolation', e => stopped.push(e.effectiveDirective));
            const script = document.createElement('script');
            script.textContent = 'window.ran = true';
            document.body.append(script);
            document.body.setAttribute('onclick', 'window.ran = true');
            document.body.click();
            new Image().src = 'http://evil.invalid/x.png';
            await fetch('http://evil.invalid/').catch(() => null);
            await new Promise(done => setTimeout(done, 200));
            return [window.ran === true, stopped];
        }"""
    )
    context.close()
    assert not has_run
    assert set(stopped) >= {"script-src-elem", "script-src-attr", "img-src", "connect-src"}
