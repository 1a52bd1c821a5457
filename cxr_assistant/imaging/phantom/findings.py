"""Which findings a phantom can have, how they combine, and what is known about each.

Values and chance only: how a finding looks is in `lesions.py`, how it reads is in `words.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from cxr_assistant.errors import PhantomError
from cxr_assistant.report import BoundingBox
from cxr_assistant.study import ViewPosition

__all__ = ["FindingKind", "FindingRequest", "PhantomFinding", "Severity", "Side", "Zone", "sample_findings"]


class FindingKind(StrEnum):
    PLEURAL_EFFUSION = "pleural-effusion"
    PNEUMOTHORAX = "pneumothorax"
    CARDIOMEGALY = "cardiomegaly"
    CONSOLIDATION = "consolidation"
    PULMONARY_EDEMA = "pulmonary-edema"
    ATELECTASIS = "atelectasis"
    NODULE = "nodule"
    MASS = "mass"
    ENDOTRACHEAL_TUBE = "endotracheal-tube"
    CENTRAL_LINE = "central-line"
    PACEMAKER = "pacemaker"

    @property
    def has_side(self) -> bool:
        return self not in (
            FindingKind.CARDIOMEGALY,
            FindingKind.PULMONARY_EDEMA,
            FindingKind.ENDOTRACHEAL_TUBE,
        )

    @property
    def severities(self) -> tuple[Severity, ...]:
        """Allowed grades, mildest first; empty where no grade is given."""
        return _SEVERITIES.get(self, ())

    @property
    def has_zone(self) -> bool:
        return self in (FindingKind.CONSOLIDATION, FindingKind.NODULE, FindingKind.MASS)

    @property
    def is_frontal_only(self) -> bool:
        """Whether a lateral film shows too little of it for anybody to report it."""
        return self in (FindingKind.CARDIOMEGALY, FindingKind.PNEUMOTHORAX, FindingKind.ATELECTASIS)


class Side(StrEnum):
    """Side of the patient, not of the picture."""

    LEFT = "left"
    RIGHT = "right"

    @property
    def sign(self) -> int:
        """Sign of x: the patient's left is positive."""
        return 1 if self is Side.LEFT else -1

    @property
    def other(self) -> Side:
        return Side.RIGHT if self is Side.LEFT else Side.LEFT


class Severity(StrEnum):
    SMALL = "small"
    MILD = "mild"
    MODERATE = "moderate"
    LARGE = "large"
    SEVERE = "severe"


class Zone(StrEnum):
    UPPER = "upper"
    MIDDLE = "middle"
    LOWER = "lower"


_SIZES = (Severity.SMALL, Severity.MODERATE, Severity.LARGE)
_GRADES = (Severity.MILD, Severity.MODERATE, Severity.SEVERE)
_SEVERITIES = {
    FindingKind.PLEURAL_EFFUSION: _SIZES,
    FindingKind.PNEUMOTHORAX: _SIZES,
    FindingKind.CARDIOMEGALY: _GRADES,
    FindingKind.PULMONARY_EDEMA: _GRADES,
}


@dataclass(frozen=True)
class FindingRequest:
    """A finding to put into a phantom; what is left None is drawn by chance.

    Raises PhantomError when a side, grade or zone is given that the finding does not have.
    """

    kind: FindingKind
    side: Side | None = None
    severity: Severity | None = None
    zone: Zone | None = None

    def __post_init__(self) -> None:
        if self.side is not None and not self.kind.has_side:
            raise PhantomError(f"A {self.kind} has no side; found {self.side}.", hint="Leave the side out.")
        if self.severity is not None and self.severity not in self.kind.severities:
            allowed = ", ".join(self.kind.severities) or "none"
            raise PhantomError(f"The severity of {self.kind} is {self.severity}; allowed: {allowed}.")
        if self.zone is not None and not self.kind.has_zone:
            raise PhantomError(f"A {self.kind} has no zone; found {self.zone}.", hint="Leave the zone out.")

    def completed(self, rng: np.random.Generator) -> FindingRequest:
        """The same request with side, severity and zone decided."""
        draws = (tuple(Side)[rng.integers(2)], rng.integers(3), tuple(Zone)[rng.integers(3)])
        severities = self.kind.severities
        return FindingRequest(
            self.kind,
            self.side or (draws[0] if self.kind.has_side else None),
            self.severity or (severities[draws[1]] if severities else None),
            self.zone or (draws[2] if self.kind.has_zone else None),
        )

    def mirrored(self) -> FindingRequest:
        """The same finding on the other side."""
        return FindingRequest(self.kind, self.side.other if self.side else None, self.severity, self.zone)


@dataclass(frozen=True)
class PhantomFinding:
    """The truth about one finding in one picture.

    `measure` is the number behind the grade: fluid height or collapse as a fraction, cardiothoracic ratio,
    diameter in cm. `is_visible` says whether its projection passes the threshold of its kind; `contrast`
    (fraction of the display range) and `area_cm2` are what was compared with the threshold.
    """

    kind: FindingKind
    side: Side | None
    severity: Severity | None
    zone: Zone | None
    measure: float
    contrast: float
    area_cm2: float
    is_visible: bool
    box: BoundingBox | None


_LUNG_KINDS = (
    (FindingKind.PLEURAL_EFFUSION, 0.23),
    (FindingKind.PNEUMOTHORAX, 0.19),
    (FindingKind.CONSOLIDATION, 0.17),
    (FindingKind.ATELECTASIS, 0.14),
    (FindingKind.NODULE, 0.14),
    (FindingKind.MASS, 0.13),
)
_DEVICE_RATES = {
    ViewPosition.AP: (0.34, 0.38, 0.16),
    ViewPosition.PA: (0.05, 0.18, 0.16),
    ViewPosition.LATERAL: (0.05, 0.12, 0.18),
}


def sample_findings(rng: np.random.Generator, view: ViewPosition) -> tuple[FindingRequest, ...]:
    """Findings as they come in a mixed clinic; at most one lung or pleural finding on each side."""
    draws = rng.random(8)
    if draws[0] < 0.12:
        return ()
    requests = []
    if draws[1] < 0.28:
        requests.append(FindingRequest(FindingKind.CARDIOMEGALY))
    has_edema = draws[2] < 0.14
    if has_edema:
        requests.append(FindingRequest(FindingKind.PULMONARY_EDEMA))
    for lung_side, draw in zip(Side, draws[3:5], strict=True):
        kinds = _LUNG_KINDS[:1] if has_edema else _LUNG_KINDS
        if draw < 0.46:
            weights = np.array([weight for _, weight in kinds])
            requests.append(
                FindingRequest(kinds[rng.choice(len(kinds), p=weights / weights.sum())][0], lung_side)
            )
    devices = (FindingKind.ENDOTRACHEAL_TUBE, FindingKind.CENTRAL_LINE, FindingKind.PACEMAKER)
    for kind, draw, rate in zip(devices, draws[5:8], _DEVICE_RATES[view], strict=True):
        if draw < rate:
            side = Side.RIGHT if kind is FindingKind.CENTRAL_LINE and rng.random() < 0.6 else None
            requests.append(FindingRequest(kind, side))
    return tuple(request.completed(rng) for request in requests)


def check_combination(requests: Sequence[FindingRequest]) -> None:
    """Raise PhantomError for findings that cannot be in one picture together."""
    taken: set[tuple[str, Side | None]] = set()
    lung_kinds = {kind for kind, _ in _LUNG_KINDS}
    for request in requests:
        slot = (
            ("one lung or pleural finding", request.side)
            if request.kind in lung_kinds
            else (request.kind, None)
        )
        if slot in taken:
            where = f" on the {request.side}" if request.side else ""
            raise PhantomError(
                f"A phantom has at most {slot[0]}{where}; found a second one: {request.kind}.",
                hint="Put it on the other side or leave it out.",
            )
        taken.add(slot)
