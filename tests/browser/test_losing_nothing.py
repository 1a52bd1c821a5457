"""The ear in front of Gradio (ui/web/stream.js): no answer is told on a stream that nobody reads any more.

A page whose connection is cut off goes on with its study when it is back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cxr_assistant.ui.viewer import read_asset
from tests.browser.conftest import OPENING_MS
from tests.browser.pages import ask, demonstrate, last_answer
from tests.ui.doubles import ScriptedWorker

# A server of which a test says what comes when: `say` writes on the stream, `join` answers a question.
SERVER = """() => {
  window.fetch = async (input) => {
    if (String(input.url ?? input).includes("/queue/data?")) {
      input.signal.addEventListener("abort", () => window.writer.error(input.signal.reason));
      const body = new ReadableStream({ start(writer) { window.writer = writer; } });
      return new Response(body);
    }
    if (String(input.url ?? input).includes("/heartbeat/")) {
      window.beats = (window.beats ?? 0) + 1;
      return new Response(new ReadableStream({ start(writer) { window.beat = writer; } }));
    }
    return Response.json({ event_id: "b2" });
  };
  window.say = (words) => window.writer.enqueue(new TextEncoder().encode("data: " + words + "\\n\\n"));
}"""
# A page as Gradio's: it hears the stream, and asks.
PAGE = """async () => {
  window.gradio = new AbortController();
  window.read = [];
  const request = new Request("http://test/queue/data?session_hash=x", { signal: gradio.signal });
  const response = await fetch(request);
  (async () => {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) window.read.push(part.value);
  })().catch(() => {});
  window.replied = false;
  window.join = async () => {
    await fetch("http://test/queue/join?", { method: "POST" });
    window.replied = true;
  };
}"""


@pytest.fixture
def ear(browser: Any) -> Iterator[Any]:
    page = browser.new_page()
    page.set_default_timeout(5_000)
    page.evaluate(SERVER)
    page.evaluate(read_asset("web/stream.js"))
    page.evaluate(PAGE)
    yield page
    page.close()


def replied(page: Any) -> bool:
    page.wait_for_timeout(150)
    return bool(page.evaluate("replied"))


def test_a_reply_waits_until_the_stream_has_spoken_of_it(ear: Any) -> None:
    ear.evaluate("() => { join(); }")
    assert not replied(ear)
    ear.evaluate("""() => { say('{"msg":"estimation","event_id":"b2"}'); }""")
    assert replied(ear)
    assert ear.evaluate("read.join('')") == 'data: {"msg":"estimation","event_id":"b2"}\n\n'


def test_a_reply_that_crosses_the_end_of_the_stream_waits_for_gradio_to_close_it(ear: Any) -> None:
    ear.evaluate("""() => { join(); say('{"msg":"close_stream"}'); }""")
    assert not replied(ear)
    ear.evaluate("gradio.abort()")
    assert replied(ear)


def test_of_a_stream_that_is_cut_off_gradio_hears_that_what_was_open_has_failed(ear: Any) -> None:
    ear.evaluate("""() => { join(); say('{"msg":"process_starts","event_id":"c3","eta":1}'); }""")
    ear.evaluate("writer.error(new TypeError('network'))")
    ear.wait_for_function("replied")
    *_, failed, closed, _ = ear.evaluate("read.join('')").split("\n\n")
    assert '"msg":"process_completed","event_id":"c3","success":false' in failed
    assert '"msg":"close_stream"' in closed


def test_a_sign_of_life_that_is_cut_off_is_taken_up_again(ear: Any) -> None:
    assert ear.evaluate("() => fetch('http://test/heartbeat/abc').then((response) => response.ok)")
    ear.evaluate("beat.error(new TypeError('network'))")
    ear.wait_for_function("beats === 2")
    ear.evaluate("beat.close()")
    ear.wait_for_function("beats === 3")


def cut_off(app: Any) -> None:
    """Every connection to the server breaks, as when a network goes away."""
    for connection in list(app.server.server_state.connections):
        connection.loop.call_soon_threadsafe(connection.transport.abort)


def test_a_page_that_is_cut_off_during_an_answer_goes_on(
    browser: Any, server: str, app: Any, worker: ScriptedWorker
) -> None:
    page = browser.new_page()  # one that may complain of the network
    page.set_default_timeout(15_000)
    page.goto(server, timeout=OPENING_MS)
    demonstrate(page)
    page.evaluate("window.isOld = true")
    worker.word_delay_s = 0.05
    ask(page, "a long story", wait=False)
    page.wait_for_selector(".caret")
    cut_off(app)
    page.wait_for_selector(".connection[data-kind=back]")
    page.wait_for_selector(".log article:last-of-type :text('Stopped.')")
    worker.word_delay_s = 0.0
    ask(page, "Heart?")
    assert "Heart?" in last_answer(page)
    assert page.evaluate("window.isOld") and page.locator(".truth").count()
    page.close()
