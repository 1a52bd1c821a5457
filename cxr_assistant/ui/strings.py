"""The one catalogue of what the interface says: English, as it stands in the sources, and other languages.

Knows `strings.json`: each English text with its translations; {} stands for what is put in. What a model, a
checkpoint's card or a file says is not in it and stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache

from cxr_assistant.ui.viewer import read_asset

__all__ = ["catalogue", "languages", "translations"]


@cache
def catalogue() -> Mapping[str, Mapping[str, str]]:
    """Every English text with its translations by language."""
    strings: Mapping[str, Mapping[str, str]] = json.loads(read_asset("strings.json"))["strings"]
    return strings


@cache
def languages() -> Mapping[str, str]:
    """The languages by their codes, each called by its own name."""
    names: Mapping[str, str] = json.loads(read_asset("strings.json"))["languages"]
    return names


def translations() -> dict[str, dict[str, str]]:
    """For each language but English: its text for every English one."""
    return {
        code: {english: said[code] for english, said in catalogue().items()}
        for code in languages()
        if code != "en"
    }
