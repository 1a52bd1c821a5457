"""One catalogue: whatever the interface shows is in it, and every language is complete."""

from __future__ import annotations

import re

import pytest

from cxr_assistant.settings import LANGUAGES
from cxr_assistant.ui.masthead import masthead, masthead_script
from cxr_assistant.ui.strings import catalogue, languages, translations
from tests.ui.shown_strings import shown_strings, texts_of_markup, texts_of_python, texts_of_script


def test_every_text_that_is_shown_is_in_the_catalogue() -> None:
    """A script's text that goes on with a value is there with {} in the place of the value."""
    known = catalogue()
    begun = tuple(key for key in known if "{}" in key)
    missing = {
        text: where
        for text, where in shown_strings().items()
        if text not in known and not any(key.startswith(text) for key in begun)
    }
    assert missing == {}, "add these to cxr_assistant/ui/strings.json"


def test_the_sources_show_something() -> None:
    assert len(shown_strings()) > 200


@pytest.mark.parametrize("code", [code for code in LANGUAGES if code != "en"])
def test_a_language_is_complete(code: str) -> None:
    assert [english for english, said in catalogue().items() if not said.get(code, "").strip()] == []


def test_a_translation_puts_in_what_the_english_text_does() -> None:
    for words in translations().values():
        assert [english for english, said in words.items() if english.count("{}") != said.count("{}")] == []


def test_the_languages_are_those_of_the_setting() -> None:
    assert tuple(languages()) == LANGUAGES
    assert all(f'value="{code}"' in masthead() for code in LANGUAGES)


def test_the_setting_reaches_the_page() -> None:
    assert 'SETTING = "de"' in masthead_script("de")


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ("x = f'<b title=\"Go on\">Use {name}</b> {rest}'", ["Go on", "Use {}"]),
        ('problem = Problem("It broke.", "Try again.", "code")', ["It broke.", "Try again."]),
        ('"""<b>A docstring</b> is not shown."""', ["A docstring", "is not shown."]),
    ],
    ids=["markup", "problem", "a-tag-in-a-docstring-counts"],
)
def test_texts_are_found_in_python(source: str, texts: list[str]) -> None:
    assert sorted(set(texts_of_python(source))) == sorted(texts)


def test_texts_are_found_in_templates_and_scripts() -> None:
    assert list(texts_of_markup('<p aria-label="Study">New<br>film &times; <i>x</i></p>')) == [
        "Study",
        "New",
        "film ×",
    ]
    script = 'a.textContent = "Reading the file"; // "A comment"\nif (event.key === "Escape") b();'
    assert list(texts_of_script(script)) == ["Reading the file"]


def test_no_sheet_says_anything() -> None:
    """A text in a style sheet could not be translated, and no screen reader need read it."""
    from cxr_assistant.ui.masthead import STYLES
    from cxr_assistant.ui.viewer import read_asset

    sheets = "\n".join(read_asset(name) for name in STYLES)
    assert re.findall(r'content: "([A-Za-z][^"]*)"', sheets) == []
