"""What the user interface shows to people, as far as its sources tell: what the catalogue is held against.

Python: texts between tags and in the attributes that people read, and the sentences of `Problem`s and of the
project's errors in ui/. Templates: the same. Scripts: every text that begins with a capital letter and a
small one. A value that is put in stands as {}.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

UI = Path(__file__).resolve().parents[2] / "cxr_assistant" / "ui"
# Modules of ui/ in which every sentence is drawn; elsewhere only what is passed to a speaking call.
DRAWING = frozenset(
    {"answers", "cards", "decoding", "exchange", "guided", "hanging", "masthead", "render", "viewbox"}
    | {"study_panel", "tasks", "transcript"}
)  # followups.py is left out: its texts are prompts, and the models read English
READ_ATTRIBUTES = ("aria-label", "title", "placeholder", "alt", "aria-roledescription")
# Calls whose texts are sentences for people. A SettingsError is for whoever starts the app, and web/ has a
# page of its own to log in: both speak English.
SPEAKING = re.compile(r"^(Problem|Fate|(?!Settings)_?[A-Z]\w*(Error|Problem))$|^(_bullets|_select)$")
# Words of scripts that begin like a sentence and are none: events, keys, types of the platform.
NOT_SHOWN = re.compile(
    r"^(Shift\+.*|Arrow|Escape|Enter|Tab|Shift|Space|Files|Event|Arrow\w+|Page\w+|Home|End|Delete|Backspace|Control|Alt|Meta"
    r"|GET|POST|Element|Content-\w+|Mozilla|Function|Infinity)$"
)


class _Page(HTMLParser):
    """Texts and attributes of one piece of markup, in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._muted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._muted += tag in ("script", "style")
        self.found += [value for name, value in attrs if name in READ_ATTRIBUTES and value]

    def handle_endtag(self, tag: str) -> None:
        self._muted -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._muted:
            self.found.append(data)


def texts_of_markup(markup: str) -> Iterator[str]:
    page = _Page()
    page.feed(markup)
    page.close()
    for text in page.found:
        if is_words(tidy := " ".join(unescape(text).split())):
            yield tidy


def texts_of_script(source: str) -> Iterator[str]:
    without_comments = re.sub(r"(?m)^\s*//.*$|/\*.*?\*/|\s//\s.*$", "", source)
    for match in re.finditer(r'"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`', without_comments):
        text = re.sub(r"\$\{[^}]*\}", "{}", match[1] if match[1] is not None else match[2])
        if "<" in text:
            yield from texts_of_markup(text)
        elif re.match(r"[A-Z][a-z]", text) and not NOT_SHOWN.match(text):
            yield text.strip()


def texts_of_python(source: str, *, draws: bool = False) -> Iterator[str]:
    tree = ast.parse(source)
    if draws:
        yield from _said_in(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and SPEAKING.match(_name(node.func)):
            for value in (*node.args, *(k.value for k in node.keywords if k.arg in ("hint", "words"))):
                if (
                    (text := _text(value))
                    and is_words(text)
                    and "<" not in text
                    and re.match(r"[A-Z{]", text)
                ):
                    yield text
    for piece in _markup_of(tree):
        yield from texts_of_markup(piece)


def _said_in(tree: ast.AST) -> Iterator[str]:
    """Every text of a module that draws which begins like a sentence or a heading; no docstrings."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):  # docstrings, of modules to single values
            skipped.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            skipped.update(id(part) for part in node.values)
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
            skipped.update(id(part) for part in ast.walk(node.annotation))
        if isinstance(node, ast.Assign) and _name(node.targets[0]) == "__all__":
            skipped.update(id(part) for part in ast.walk(node.value))
    for node in ast.walk(tree):
        if id(node) not in skipped and isinstance(node, ast.Constant | ast.JoinedStr):
            text = _text(node).strip()
            if re.match(r"[A-Z][a-z]|[A-Z] |[A-Z{][^<>=/]*[a-z]{3,} ", text) and "<" not in text:
                yield text


def _markup_of(tree: ast.AST) -> Iterator[str]:
    """Every text of the module that holds a tag, joined texts as one."""
    inner: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inner.update(id(part) for part in ast.walk(node) if part is not node)
        if id(node) in inner and isinstance(node, ast.Constant):
            continue
        text = _text(node) if isinstance(node, ast.JoinedStr | ast.Constant) else ""
        if text and re.search(r"</?[a-z][^>]*>|<[a-z]+ |=\"", text):
            yield text


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return ""


def _name(function: ast.AST) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def is_words(text: str) -> bool:
    """Two letters in a row outside of what is put in: a unit or a sign needs no translation."""
    return '="' not in text and re.search(r"[A-Za-z]{2}", re.sub(r"\{\}|&\w+;", "", text)) is not None


def shown_strings() -> dict[str, str]:
    """Each text with the file in which it stands."""
    found: dict[str, str] = {}
    readers = {".html": texts_of_markup, ".js": texts_of_script}
    own = [path for path in sorted(UI.rglob("*")) if "web" not in path.relative_to(UI).parts]
    for path in (*own, UI.parent / "tasks.py"):
        if path.suffix == ".py":
            texts = texts_of_python(path.read_text("utf-8"), draws=path.stem in DRAWING)
        elif path.suffix in readers:
            texts = readers[path.suffix](path.read_text("utf-8"))
        else:
            continue
        for text in texts:
            found.setdefault(text, path.name)
    return found


if __name__ == "__main__":
    for text, where in shown_strings().items():
        print(f"{where}\t{text}")
