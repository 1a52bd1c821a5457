"""Typed access to the wanted elements of a data set.

Knows value representations (PS3.5 6.2) and refuses values that break them; it must not know what an
element means. No value ever appears in an error.
"""

from __future__ import annotations

import re

from cxr_assistant.imaging.elements import DataSet, Encoding
from cxr_assistant.imaging.refusals import refusal

__all__ = ["Header"]

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_LONGEST_TEXT = 1024


class Header:
    """The elements of one data set or sequence item, read as what their tags need."""

    def __init__(self, data_set: DataSet, encoding: Encoding = Encoding()) -> None:  # noqa: B008
        self._elements, self.encoding = data_set.elements, encoding

    def raw(self, tag: int) -> bytes:
        """The bytes of an element, b"" when it is absent."""
        element = self._elements.get(tag)
        return bytes(element.value) if element else b""

    def vr(self, tag: int) -> bytes:
        element = self._elements.get(tag)
        return element.vr if element else b""

    def text(self, tag: int) -> str:
        """The text of an element without its padding; "" when it is absent."""
        return self.raw(tag)[:_LONGEST_TEXT].decode("latin-1").strip(" \0")

    def code(self, tag: int) -> str:
        """A Code String; what breaks its alphabet is no code and reads as ""."""
        text = self.text(tag)
        return text if re.fullmatch(r"[A-Z0-9_ ]{1,16}", text) else ""

    def uid(self, tag: int) -> str:
        """A UID; what breaks its alphabet reads as "invalid"."""
        text = self.text(tag)
        return text if re.fullmatch(r"[0-9.]{0,64}", text) else "invalid"

    def number(self, tag: int, default: int | None = None) -> int:
        """One unsigned short; raises bad_header unless it is exactly that, or absent with a default."""
        element = self._elements.get(tag)
        if element is None or not element.value:
            if default is None:
                raise refusal("bad_header")
            return default
        if element.vr not in (b"US", b"") or len(element.value) != 2:
            raise refusal("bad_header")
        return int.from_bytes(element.value, "big" if self.encoding.is_big_endian else "little")

    def decimals(self, tag: int) -> list[float]:
        """The values of a Decimal String; [] when absent, bad_header unless all are finite numbers."""
        text = self.text(tag)
        if not text:
            return []
        parts = [part.strip(" \0") for part in text.split("\\")]
        if not all(_DECIMAL.fullmatch(part) for part in parts):
            raise refusal("bad_header")
        return [float(part) for part in parts]
