"""Values -> markup: the form of the synthetic patient; pure functions.

The chat is in transcript.py, the models are in cards.py, the study is in viewbox.py.

Everything that a person, a file or a model wrote passes through `escape` here, on the server, before it is
sent; no text is ever read as Markdown, LaTeX or HTML. Knows no Gradio.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["synthetic_form"]

RIBBON = "Research preview. Not a medical device, not for clinical use."


def synthetic_form(findings: Sequence[tuple[str, tuple[str, ...], tuple[str, ...]]]) -> str:
    """The panel that makes a synthetic patient; `findings` are (name, sides, severities)."""
    kinds = "".join(
        f'<option value="{escape(name)}" data-sides="{escape(" ".join(sides))}" '
        f'data-severities="{escape(" ".join(severities))}">{escape(_title(name))}</option>'
        for name, sides, severities in findings
    )
    fields = (
        '<label>Finding<select name="finding"><option value="">By chance</option>'
        f'<option value="none">No finding</option>{kinds}</select></label>',
        _select("side", "Side", []),
        _select("severity", "Severity", []),
        _select("view", "View", [("PA", "PA"), ("AP", "AP"), ("LATERAL", "Lateral")]),
        '<label>Seed<input name="seed" inputmode="numeric" pattern="[0-9]*" maxlength="9" '
        'placeholder="By chance" autocomplete="off"></label>',
    )
    return (
        '<details class="synthetic"><summary>Make a synthetic patient</summary><form>'
        '<p class="fine-print">A computed thorax whose findings are known for certain. '
        "The model drafts, then the generator tells the truth.</p>"
        f'<div class="fields">{"".join(fields)}</div>'
        '<button type="submit" class="primary">Make and draft findings</button></form></details>'
    )


def _select(name: str, title: str, options: Iterable[tuple[str, str]]) -> str:
    choices = "".join(f'<option value="{escape(value)}">{escape(words)}</option>' for value, words in options)
    return (
        f'<label>{title}<select name="{name}"><option value="">By chance</option>{choices}</select></label>'
    )


def _title(name: str) -> str:
    words = name.replace("-", " ")
    return words[0].upper() + words[1:]
