"""One palette for the whole page, and a masthead that says what this is."""

from __future__ import annotations

import re

import pytest

from cxr_assistant.ui.masthead import STYLES, masthead, page_head
from cxr_assistant.ui.viewer import read_asset

COLOUR = re.compile(r"#[0-9a-fA-F]{3,8}\b|rgba?\([^)]*\)")
ON_FILM = ("#000", "rgba(0, 0, 0")  # what lies over a film is black in both themes


@pytest.mark.parametrize("name", [name for name in STYLES if name != "theme/palette.css"])
def test_a_sheet_takes_its_colours_from_the_palette(name: str) -> None:
    rules = re.sub(r"[^{}]*(?={)", "", read_asset(name))  # an id in a selector is no colour
    assert [c for c in COLOUR.findall(rules) if not c.startswith(ON_FILM)] == []


def test_every_colour_that_is_used_is_in_the_palette() -> None:
    sheets = "\n".join(read_asset(name) for name in STYLES)
    defined = set(re.findall(r"(--[\w-]+):", sheets))
    assert set(re.findall(r"var\((--[\w-]+)", sheets)) - defined == set()


def test_the_ribbon_is_in_the_masthead() -> None:
    assert "Not a medical device" in masthead()


def test_the_head_decides_the_theme_before_it_styles_the_page() -> None:
    assert page_head().index("cxr-theme") < page_head().index("<style>")
