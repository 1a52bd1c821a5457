"""Why a file is not read: limits, stable codes, and one fixed line for each code.

Knows the wording and the numbers; it must not know formats. No line ever holds text from a file:
what can vary is a size, a modality from a fixed table, or the UID of a transfer syntax.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxr_assistant.errors import (
    EmptyFile,
    StudyError,
    UnreadableImage,
    UnsupportedFileType,
    UnsupportedModality,
    UnsupportedTransferSyntax,
    UnusableImage,
)

__all__ = ["check_not_blank", "check_size", "colour_refusal", "refusal"]

_GLANCE = 64  # rows and columns between the pixels that are looked at first
MAX_UPLOAD_BYTES = 64 << 20
MAX_PIXELS = 40_000_000  # the largest flat panels have about 18 million
MIN_SIDE_PX = 32
MAX_ASPECT = 8
MAX_INFLATED_BYTES = 128 << 20
MAX_ELEMENTS = 5_000
MAX_SEQUENCE_DEPTH = 8
MAX_SEQUENCE_ITEMS = 2_000
MAX_JPEG_SCANS = 64  # real progressive files use about 10
MAX_SCANNED_PIXELS = 1_000_000_000  # scans times pixels: what a progressive file costs to decode


class _Line(NamedTuple):
    error: type[StudyError]
    message: str
    hint: str


_RETRY = "Export the radiograph again and upload the new file."
_FORMATS = "Upload a PNG, JPEG or DICOM image."
_LINES = {
    "empty": _Line(EmptyFile, "The file is empty.", _RETRY),
    "bad_type": _Line(UnsupportedFileType, "Unsupported file type; PNG, JPEG and DICOM are read.", _FORMATS),
    "bad_header": _Line(UnreadableImage, "The header of this file is invalid.", _RETRY),
    "truncated": _Line(UnreadableImage, "The file is damaged or incomplete.", _RETRY),
    "too_large": _Line(UnusableImage, "The image is too large.", "Upload one radiograph of normal size."),
    "too_small": _Line(UnusableImage, "The image is too small to read.", "Upload the original film."),
    "too_complex": _Line(
        UnusableImage, "The JPEG is too complex to decode.", "Save it as a plain JPEG or PNG."
    ),
    "blank": _Line(UnusableImage, "The image is blank.", _RETRY),
    "multi_frame": _Line(UnusableImage, "Multi-frame DICOM is not supported.", "Upload a single radiograph."),
    "unsupported": _Line(
        UnsupportedTransferSyntax, "The encoding of this image is not supported.", "Export it uncompressed."
    ),
    "bad_pixels": _Line(UnreadableImage, "The image inside this DICOM file could not be decoded.", _RETRY),
    "not_image": _Line(
        UnsupportedModality, "This DICOM object does not contain a radiograph.", "Upload the image itself."
    ),
    "wrong_modality": _Line(
        UnsupportedModality,
        "This DICOM file is not a radiograph; CR, DX and RG are read.",
        "Upload a chest radiograph.",
    ),
    "internal": _Line(UnreadableImage, "The file could not be read.", _RETRY),
}


def refusal(
    code: str,
    message: str | None = None,
    *,
    hint: str | None = None,
    error: type[StudyError] | None = None,
) -> StudyError:
    """The error of `code`, with its own line unless a better one is given."""
    line = _LINES[code]
    return (error or line.error)(message or line.message, hint=line.hint if hint is None else hint, code=code)


def colour_refusal() -> StudyError:
    """The error for a DICOM image in colour, or in a colour encoding that nobody takes apart."""
    found = "Colour DICOM images are not supported; upload a grayscale radiograph."
    return refusal("unsupported", found, hint="Export the original film.")


def check_size(width: int, height: int) -> None:
    """Raise unless a picture of this size can be a radiograph; called before anything is allocated."""
    if width < 1 or height < 1:
        raise refusal("bad_header")
    if width * height > MAX_PIXELS:
        found = f"The image is too large: {width} x {height} pixels; at most {MAX_PIXELS // 10**6} million."
        raise refusal("too_large", found)
    if min(width, height) < MIN_SIDE_PX or max(width, height) > MAX_ASPECT * min(width, height):
        found = f"The image is too small to read: {width} x {height} pixels; each side needs {MIN_SIDE_PX}"
        raise refusal("too_small", f"{found}, at most 1:{MAX_ASPECT}.")


def check_not_blank(pixels: NDArray[np.integer[Any]]) -> None:
    """Raise when all of (H, W) `pixels` are the same; few of them nearly always tell that they are not."""
    for seen in (pixels[::_GLANCE, ::_GLANCE], pixels):
        if seen.min() != seen.max():
            return
    raise refusal("blank")
