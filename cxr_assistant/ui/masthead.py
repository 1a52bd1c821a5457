"""The page's head and masthead: the colours, the wordmark, the ribbon that never goes away, theme, language.

Knows the style sheets, the catalogue and a few small scripts; knows nothing of a study, a model or Gradio.
"""

from __future__ import annotations

import json
from html import escape

from cxr_assistant.ui.render import RIBBON
from cxr_assistant.ui.strings import languages, translations
from cxr_assistant.ui.viewer import read_asset

__all__ = ["masthead", "masthead_script", "page_head"]

SCRIPTS = ("theme/early.js", "web/stream.js")
STYLES = (
    "theme/palette.css",
    "theme/style.css",
    "viewer/viewer.css",
    "workbench/workbench.css",
    "theme/masthead.css",
)


def page_head() -> str:
    """What stands in the page's head: the theme that was chosen before anything is painted, the ear that no
    answer escapes, then the styles.

    As elements of our own: Gradio's `css` rewrites selectors and drops container queries.
    """
    scripts, styles = ("\n".join(read_asset(name) for name in names) for names in (SCRIPTS, STYLES))
    return f"<script>{scripts}</script><style>{styles}</style>"


def masthead() -> str:
    """The wordmark, the ribbon, and what belongs to the whole page."""
    return (
        '<header class="masthead"><h1>CXR Assistant</h1>'
        f'<p class="ribbon" role="note">{escape(RIBBON)}</p>'
        '<div class="page-tools"><p class="language-note" hidden>The models write in English.</p>'
        f'<select data-do="language" aria-label="Language">{_languages()}</select>'
        '<button type="button" data-do="theme" aria-label="Light or dark" title="Light or dark"></button>'
        "</div></header>"
    )


def masthead_script(language: str = "") -> str:
    """The scripts of theme and language; `language` is the setting, empty where the browser decides."""
    words = json.dumps(translations(), ensure_ascii=False)
    given = f"const CATALOGUE = {words}, SETTING = {json.dumps(language)};"
    return "\n".join((given, read_asset("theme/language.js"), read_asset("theme/masthead.js")))


def _languages() -> str:
    return "".join(
        f'<option value="{escape(code)}" lang="{escape(code)}">{escape(name)}</option>'
        for code, name in languages().items()
    )
