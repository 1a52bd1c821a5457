"""The page's head and masthead: the colours, the wordmark, the ribbon that never goes away, the theme.

Knows the style sheets and two small scripts; knows nothing of a study, a model or Gradio.
"""

from __future__ import annotations

from html import escape

from cxr_assistant.ui.render import RIBBON
from cxr_assistant.ui.viewer import read_asset

__all__ = ["masthead", "masthead_script", "page_head"]

STYLES = (
    "theme/palette.css",
    "style.css",
    "viewer/viewer.css",
    "workbench/workbench.css",
    "theme/masthead.css",
)


def page_head() -> str:
    """What stands in the page's head: the theme that was chosen before anything is painted, then the styles.

    As elements of our own: Gradio's `css` rewrites selectors and drops container queries.
    """
    styles = "\n".join(read_asset(name) for name in STYLES)
    return f"<script>{read_asset('theme/early.js')}</script><style>{styles}</style>"


def masthead() -> str:
    """The wordmark, the ribbon, and what belongs to the whole page."""
    return (
        '<header class="masthead"><h1>CXR Assistant</h1>'
        f'<p class="ribbon" role="note">{escape(RIBBON)}</p>'
        '<div class="page-tools"><button type="button" data-do="theme" aria-label="Light or dark" '
        'title="Light or dark"></button></div></header>'
    )


def masthead_script() -> str:
    return read_asset("theme/masthead.js")
