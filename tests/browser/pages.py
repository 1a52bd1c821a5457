"""What a person does on the page, by the names they would use."""

from __future__ import annotations

from typing import Any

FILE_INPUT = "#room > input[type=file]"


def start_anew(page: Any) -> None:
    """An empty room; the model that was chosen stays."""
    if page.locator("[data-do=new]:visible").count():
        page.click("[data-do=new]")
        page.wait_for_selector(".empty-room h2:visible")


def choose(page: Any, name: str, title: str) -> None:
    """Another model from the menu; nothing is done where it is the chosen one."""
    if title in page.inner_text(".model-menu summary"):
        return
    page.click(".model-menu summary")
    page.click(f"#menu [data-model={name}]")
    page.wait_for_selector(f".model-menu summary:has-text('{title}')")


def demonstrate(page: Any) -> None:
    """One click on the demonstration, until the truth stands beside the draft."""
    start_anew(page)
    page.click("[data-do=demonstrate]")
    page.wait_for_selector(".truth")
    film_is_shown(page)


def film_is_shown(page: Any) -> None:
    page.wait_for_selector("#viewer [data-state=ready]")


def upload(page: Any, *contents: bytes, name: str = "IM_0001") -> None:
    files = [
        {"name": name, "mimeType": "application/octet-stream", "buffer": content} for content in contents
    ]
    page.set_input_files(FILE_INPUT, files, timeout=60_000)  # some are large


def ask(page: Any, question: str, *, wait: bool = True) -> None:
    asked = len(questions(page))
    page.fill("textarea[name=prompt]", question)
    page.press("textarea[name=prompt]", "Enter")
    page.wait_for_function(f"document.querySelectorAll('[data-testid=user]').length === {asked + 1}")
    if wait:
        answered(page)


def answered(page: Any) -> None:
    page.wait_for_selector(".log[aria-busy=false]")


def last_answer(page: Any) -> str:
    return str(page.locator("[data-testid=bot]").last.inner_text()).strip()


def questions(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("[data-testid=user] .words").all_inner_texts()]


def viewbox(page: Any, expression: str) -> Any:
    """A value of the viewer, such as `look()` or `place()`."""
    return page.evaluate(f"document.querySelector('#viewer [data-state]').viewbox.{expression}")


def tab_to(page: Any, selector: str, *, back: bool = False, at_most: int = 80) -> None:
    """Press Tab until what `selector` names has the focus, as a person without a mouse does."""
    for _ in range(at_most):
        if page.evaluate("selector => document.activeElement?.matches(selector) ?? false", selector):
            return
        page.keyboard.press("Shift+Tab" if back else "Tab")
    raise AssertionError(f"{selector} cannot be reached with the keyboard")


def digest_of_values(page: Any) -> str:
    """SHA-256 of what the viewer says is stored at each place, row by row, as int32."""
    return str(
        page.evaluate(
            """async () => { const pane = document.querySelector('#viewer [data-state]').viewbox.pane(0);
             const { width, height } = pane.film, values = new Int32Array(width * height);
             for (let i = 0; i < values.length; i++)
               values[i] = pane.valueAt(i % width, Math.floor(i / width));
             const sum = await crypto.subtle.digest('SHA-256', values.buffer);
             return [...new Uint8Array(sum)].map(b => b.toString(16).padStart(2, '0')).join(''); }"""
        )
    )
