"""What a model wrote, made harmless before the first character of it is sent anywhere.

A film can hold text that tells the model what to write, so its words are a stranger's words. Here they lose
what a browser, a Markdown renderer or a terminal would act on; the page escapes them besides. Radiology
survives: "SpO2 <90% & >5 cm" comes out as it went in.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

from cxr_assistant.generation import Completed, GenerationEvent, Grounding, TextDelta

__all__ = ["Defuser", "defused", "harmless"]

_TAIL_CHARS = 10  # as long as the longest word that is looked for
_SCHEMES = ("javascript", "vbscript", "data", "file", "blob", "mailto", "tel")
_INVISIBLE = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})  # controls, bidi overrides, zero-width, private


class Defuser:
    """Takes text in pieces; what comes out does not depend on where the pieces were cut.

    At most one character is held back, until the next one says what it was. The changes:

    - invisible and control characters are dropped, but for the line feed and the tab
    - `<` before a letter, `/`, `!` or `?` becomes `‹`, so that no tag begins
    - `://` becomes `: / /`, `www.` becomes `www .`, and `x@y` becomes `x @y`, so that no address is one
    - `](`, `][` and `]:` get a space between, so that nothing is a Markdown link or picture
    - `javascript:` and the like before anything but space get a space before the colon
    """

    def __init__(self) -> None:
        self._tail = ""
        self._held = ""

    def push(self, text: str) -> str:
        """What may be shown of all that was pushed, after what was shown before."""
        return "".join(self._take(character) for character in text if _is_shown(character))

    def flush(self) -> str:
        """The rest, when nothing more will come."""
        return self._take("") if self._held else ""

    def _take(self, character: str) -> str:
        shown = self._release(character) if self._held else ""
        if character == "<" or (character == ":" and self._tail.lower().endswith(_SCHEMES)):
            self._held = character
            return shown
        return shown + self._show(character)

    def _release(self, following: str) -> str:
        held, self._held = self._held, ""
        if held == "<":
            return self._show("‹" if following.isalpha() or (following and following in "/!?") else "<")
        return self._show(held if following.isspace() or not following else " :")

    def _show(self, shown: str) -> str:
        if self._tail and shown and self._must_part(shown):
            shown = f" {shown}"
        self._tail = (self._tail + shown)[-_TAIL_CHARS:]
        return shown

    def _must_part(self, shown: str) -> bool:
        """Whether `shown` makes something of what stands before it."""
        last = self._tail[-1]
        return (
            (last in "/:" and shown == "/")
            or (last == "]" and shown in ("(", "[", ":"))
            or (last.isalnum() and shown == "@")
            or (shown == "." and self._tail[-3:].lower() == "www")
        )


def defused(text: str) -> str:
    """The whole of `text`, made harmless."""
    defuser = Defuser()
    return defuser.push(text) + defuser.flush()


def harmless(events: Iterator[GenerationEvent]) -> Iterator[GenerationEvent]:
    """The same events with harmless words; log-probabilities stay with the text that they belong to."""
    defuser = Defuser()
    logprobs: tuple[float, ...] = ()
    with closing(events):  # type: ignore[type-var]  # generators, all of them
        for event in events:
            match event:
                case TextDelta():
                    text, logprobs = defuser.push(event.text), (*logprobs, *event.logprobs)
                    if text:
                        yield replace(event, text=text, logprobs=logprobs)
                        logprobs = ()
                case Grounding():
                    yield replace(event, phrase=defused(event.phrase))
                case Completed():
                    if (rest := defuser.flush()) or logprobs:
                        yield TextDelta(rest, logprobs)
                        logprobs = ()
                    yield event
                case _:
                    yield event


def _is_shown(character: str) -> bool:
    return character in "\n\t" or unicodedata.category(character) not in _INVISIBLE
