"""Names of windows, reduced to words that name windows.

Window Center & Width Explanation (0028,1055) and LUT Explanation (0028,3003) are the only free text
that may leave the reader, and free text can hold a name or a date: only known words pass.
"""

from __future__ import annotations

import re

__all__ = ["clean_explanation"]

_WORDS = frozenset(
    "normal harder softer hard soft window level user default standard original auto linear sigmoid "
    "chest thorax lung lungs bone bones tissue mediastinum abdomen heart spine rib ribs detail edge "
    "high low medium wide narrow contrast bright brighter dark darker full range min max minmax "
    "inverse inverted preset algo algorithm lut voi".split()
)


def clean_explanation(text: str) -> str:
    """The known words of `text` and single digits, in order; "" when none is left."""
    pieces = re.findall(r"[A-Za-z]+|(?<![0-9])[0-9](?![0-9])", text[:64])
    if any(piece.isalpha() and piece.lower() not in _WORDS for piece in pieces):
        return ""
    kept = [piece for piece in pieces if piece.isalpha()]
    return " ".join(pieces) if kept else ""
