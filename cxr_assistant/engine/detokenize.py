"""Token ids -> text that can no longer change, as soon as that is known.

Knows decoding and stop strings; must not know where ids come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["Detokenizer", "StopStrings"]

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"

Decode = Callable[[Sequence[int]], str]


@dataclass
class Detokenizer:
    """Incremental decoding with two offsets; joined deltas equal the text of all ids at once.

    Ids before `_read` have been shown. Decoding starts at `_prefix`, one delta earlier, so that the space
    which SentencePiece drops at the start of a text is not lost in its middle; text that ends in half a
    UTF-8 character waits for its other half.
    """

    decode: Decode
    _ids: list[int] = field(default_factory=list)
    _prefix: int = 0
    _read: int = 0

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; often one word, sometimes nothing."""
        self._ids.append(token_id)
        return self._advance(is_last=False)

    def finish(self) -> str:
        """What is left at the end, half characters included."""
        return self._advance(is_last=True)

    def _advance(self, *, is_last: bool) -> str:
        shown = self.decode(self._ids[self._prefix : self._read])
        text = self.decode(self._ids[self._prefix :])
        if len(text) <= len(shown) or (text.endswith(_INCOMPLETE) and not is_last):
            return ""
        self._prefix, self._read = self._read, len(self._ids)
        return text[len(shown) :]


@dataclass
class StopStrings:
    """Ends a text before the first of `stops`; text that may become a stop is held back."""

    stops: tuple[str, ...]
    has_stopped: bool = False
    _held: str = ""

    def push(self, text: str) -> str:
        """The part of the text so far that is certain; sets `has_stopped` when a stop string is complete."""
        held = self._held + text
        starts = [held.find(stop) for stop in self.stops if stop and stop in held]
        if starts:
            self.has_stopped, self._held = True, ""
            return held[: min(starts)]
        keep = max((_overlap(held, stop) for stop in self.stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """Text held back for a stop string that did not come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
