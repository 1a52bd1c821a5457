"""A radiology report and its parts, by their names in the field. Values only."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from cxr_assistant.errors import InvalidStudy

__all__ = ["BoundingBox", "Report"]


@dataclass(frozen=True)
class BoundingBox:
    """A box on a radiograph, as fractions of its width (x) and height (y); origin at the top left.

    A box cannot exist outside [0, 1] or with its corners swapped: construction raises InvalidStudy.
    """

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    def __post_init__(self) -> None:
        corners = (self.x_min, self.y_min, self.x_max, self.y_max)
        if not all(math.isfinite(value) and 0.0 <= value <= 1.0 for value in corners):
            raise InvalidStudy(f"A bounding box lies in [0, 1]; found {corners}.")
        if self.x_min > self.x_max or self.y_min > self.y_max:
            raise InvalidStudy(f"A bounding box has min <= max; found {corners}.")

    def as_dict(self) -> dict[str, float]:
        return {"x_min": self.x_min, "y_min": self.y_min, "x_max": self.x_max, "y_max": self.y_max}


_HEADING = re.compile(r"^\s*(indication|comparison|findings|impression)\s*:\s*", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Report:
    """The four sections of a chest radiograph report; a section that was not written is empty."""

    indication: str = ""
    comparison: str = ""
    findings: str = ""
    impression: str = ""

    @classmethod
    def parse(cls, text: str) -> Report:
        """Split `text` at its section headings; text before the first heading is findings."""
        pieces = _HEADING.split(text)
        sections = {"findings": pieces[0].strip()}
        for heading, body in zip(pieces[1::2], pieces[2::2], strict=True):
            sections[heading.lower()] = body.strip()
        return cls(**sections)
