"""The viewbox: a film at full depth in the browser, hosted in a `gr.HTML` without any build chain.

`film.py` knows radiographs, the scripts know pixels and pointers; neither knows a visitor or a model.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["read_asset", "viewer_script", "viewer_template"]

_HERE = Path(__file__).parent


@cache
def read_asset(name: str) -> str:
    """The text of a file of the user interface, such as `theme/style.css` or `viewer/viewer.js`."""
    return (_HERE.parent / name).read_text(encoding="utf-8")


def viewer_template() -> str:
    return read_asset("viewer/viewer.html")


def viewer_script() -> str:
    """One script of three files, each of which knows only those before it."""
    return "\n".join(read_asset(f"viewer/{name}.js") for name in ("pixels", "pane", "viewer"))
