"""What a radiologist puts on the viewbox: radiographs and the study they form.

Values only. A `Radiograph` holds the stored pixels and the coded facts that this project allows itself
to keep; its list of fields *is* the header whitelist, so no patient tag has a place to live.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_assistant.errors import InvalidStudy

__all__ = [
    "PHANTOM_MARK",
    "LinearRescale",
    "LookupTable",
    "Radiograph",
    "Study",
    "ViewPosition",
    "VoiFunction",
    "Window",
]

PHANTOM_MARK = "CXR Assistant phantom generator"
"""What the generator writes into its files, as Manufacturer (0008,0070) or as the "Software" of a PNG."""


class ViewPosition(StrEnum):
    """View Position (0018,5101), reduced to what chest radiography distinguishes."""

    PA = "PA"
    AP = "AP"
    LATERAL = "LATERAL"
    UNKNOWN = "UNKNOWN"

    @property
    def is_frontal(self) -> bool:
        return self in (ViewPosition.PA, ViewPosition.AP)

    @property
    def is_lateral(self) -> bool:
        return self is ViewPosition.LATERAL


class VoiFunction(StrEnum):
    """VOI LUT Function (0028,1056), PS3.3 C.11.2.1.3."""

    LINEAR = "LINEAR"
    LINEAR_EXACT = "LINEAR_EXACT"
    SIGMOID = "SIGMOID"


@dataclass(frozen=True)
class LinearRescale:
    """Rescale Slope and Intercept (0028,1053) (0028,1052): modality value = slope * stored + intercept."""

    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True, eq=False)
class LookupTable:
    """A Modality or VOI LUT (0028,3000) (0028,3010), PS3.3 C.11.1 and C.11.2.

    `first_mapped` is the input value of `values[0]`; inputs outside the table take its nearest end.
    """

    first_mapped: int
    values: NDArray[np.uint16]
    bits: int
    explanation: str = ""

    def __post_init__(self) -> None:
        self.values.setflags(write=False)


@dataclass(frozen=True)
class Window:
    """One entry of Window Center and Width (0028,1050) (0028,1051), in modality values."""

    center: float
    width: float
    function: VoiFunction = VoiFunction.LINEAR
    explanation: str = ""


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One film, as stored, with the transforms that lead to what a person or a model should see.

    Shapes and units: `stored` is (H, W), integer, read-only; `pixel_spacing_mm` is (row, column) spacing;
    `orientation` is Patient Orientation (0020,0020), the directions in which rows and columns run
    ("L", "F" for an upright frontal film). `is_inverted` is the polarity: True for MONOCHROME1 or
    Presentation LUT Shape INVERSE, applied once, after the VOI transform (PS3.4 N.2).

    `patient_hash` and `day_offset` compare films of one session and mean nothing outside of it: the
    hash is keyed with the session's key, the days count from a date that only the key knows.

    `notices` are the reader's remarks for the person ("Secondary capture: ...").
    `is_marked_phantom` is True when the file says that this project's generator computed it.
    """

    stored: NDArray[np.integer[Any]]
    bits_stored: int
    modality: LinearRescale | LookupTable = field(default_factory=LinearRescale)
    windows: tuple[Window, ...] = ()
    voi_luts: tuple[LookupTable, ...] = ()
    is_inverted: bool = False
    view: ViewPosition = ViewPosition.UNKNOWN
    orientation: tuple[str, str] | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    day_offset: int | None = None
    patient_hash: str | None = None
    source: str = "PNG"
    modality_code: str | None = None
    notices: tuple[str, ...] = ()
    is_marked_phantom: bool = False

    def __post_init__(self) -> None:
        if self.stored.ndim != 2:
            raise InvalidStudy(
                f"A radiograph has two dimensions; these pixels have {self.stored.ndim}.",
                hint="Give one grayscale picture.",
            )
        self.stored.setflags(write=False)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        # Unpickled arrays come back writable; the identity of a film must not be editable.
        self.__dict__.update(state)
        self.stored.setflags(write=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Radiograph) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def height(self) -> int:
        return int(self.stored.shape[0])

    @property
    def width(self) -> int:
        return int(self.stored.shape[1])

    @cached_property
    def digest(self) -> str:
        """SHA-256 over pixels and display transforms: the film's identity for caches."""
        sha = hashlib.sha256()
        if self.source in ("PNG", "JPEG"):
            # A display picture is rendered as it is, a DICOM with the very same pixels is not.
            sha.update(f"picture {self.bits_stored}".encode())
        sha.update(repr((self.stored.shape, self.stored.dtype.str, self.is_inverted, self.windows)).encode())
        sha.update(np.ascontiguousarray(self.stored).data)
        for table in (self.modality, *self.voi_luts):
            if isinstance(table, LookupTable):
                sha.update(repr((table.first_mapped, table.bits)).encode() + table.values.tobytes())
            else:
                sha.update(repr(table).encode())
        return sha.hexdigest()


@dataclass(frozen=True)
class Study:
    """The current radiographs of one patient, the reason for the exam, and a prior study."""

    radiographs: tuple[Radiograph, ...] = ()
    indication: str = ""
    prior: Study | None = None

    def with_radiograph(self, radiograph: Radiograph) -> Study:
        """The same study with one more film; a film that is already there is not added twice."""
        if radiograph in self.radiographs:
            return self
        return replace(self, radiographs=(*self.radiographs, radiograph))

    def without_radiograph(self, digest: str) -> Study:
        return replace(self, radiographs=tuple(r for r in self.radiographs if r.digest != digest))

    def with_indication(self, indication: str) -> Study:
        return replace(self, indication=" ".join(indication.split()))

    def with_prior(self, prior: Study | None) -> Study:
        """The same study with `prior` to compare with; raises InvalidStudy for a prior without films."""
        if prior is not None and not prior.radiographs:
            raise InvalidStudy("The prior study holds no radiograph.", hint="Add the earlier film first.")
        return replace(self, prior=prior)

    @property
    def is_empty(self) -> bool:
        return not self.radiographs

    @property
    def frontal(self) -> Radiograph | None:
        """The first film not known to be lateral, or None."""
        return next((r for r in self.radiographs if not r.view.is_lateral), None)

    @property
    def prior_is_of_another_patient(self) -> bool:
        """True when both studies carry a patient hash and the hashes differ."""
        if self.prior is None:
            return False
        ours = {r.patient_hash for r in self.radiographs} - {None}
        theirs = {r.patient_hash for r in self.prior.radiographs} - {None}
        return bool(ours and theirs and ours.isdisjoint(theirs))

    def days_since(self, film: Radiograph) -> int | None:
        """Days from `film` to the first current film with a date, or None when either date is unknown."""
        ours = [r.day_offset for r in self.radiographs if r.day_offset is not None]
        return ours[0] - film.day_offset if ours and film.day_offset is not None else None
