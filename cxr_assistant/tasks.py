"""What can be asked of a checkpoint. Each checkpoint declares which tasks it was trained for."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Task"]


class Task(StrEnum):
    """A kind of request, named as the papers of the served models name it."""

    FINDINGS = "findings"
    IMPRESSION = "impression"
    REPORT = "report"
    SECTIONS = "sections"
    QUESTION = "question"
    VIEW = "view"
    DIFFERENTIAL = "differential"
    GROUNDING = "grounding"
    DETECTION = "detection"
    VIEW_MATCHING = "view-matching"
    PROGRESSION = "progression"

    @property
    def label(self) -> str:
        """The words on the button."""
        return _LABELS[self]


_LABELS = {
    Task.FINDINGS: "Draft findings",
    Task.IMPRESSION: "Write impression",
    Task.REPORT: "Write report",
    Task.SECTIONS: "Report section by section",
    Task.QUESTION: "Ask a question",
    Task.VIEW: "Tell the view",
    Task.DIFFERENTIAL: "Differential diagnosis",
    Task.GROUNDING: "Locate a phrase",
    Task.DETECTION: "Detect",
    Task.VIEW_MATCHING: "Match views",
    Task.PROGRESSION: "Compare with prior",
}
