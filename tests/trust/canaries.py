"""Films full of markers: in every text element that the standard names, in names of files, in the picture.

What a marker is found in afterwards, has kept or told something of a patient.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

from tests.imaging import builders

__all__ = ["FILE_NAME", "MARKERS", "PIXEL", "TAG", "broken_films", "films"]

TAG = "PHIMARK"  # in elements, chunks, comments and names
PIXEL = "PIXMARKPIXMARKPIXMARK"  # as bytes of a row of pixels
MARKERS = (TAG, PIXEL)
FILE_NAME = f"{TAG}^JANE 1970-01-01 accession {TAG}"

_TEXT_VRS = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT", "UR"}
# What the reader acts on must make sense, or there is no film.
_MEANT = {"Modality", "PhotometricInterpretation", "BodyPartExamined", "PresentationLUTShape"}
_MEANT |= {"ViewPosition", "BurnedInAnnotation", "SpecificCharacterSet", "VOILUTFunction", "Manufacturer"}


def films() -> dict[str, bytes]:
    """Films that are read, by the name under which they are uploaded."""
    return {
        f"{FILE_NAME}.dcm": _dicom(),
        f"{FILE_NAME}.png": _png(),
        f"{FILE_NAME}.jpg": _jpeg(),
    }


def broken_films() -> dict[str, bytes]:
    """The same, refused at different depths."""
    whole = _dicom()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = builders.file_bytes(_data_set(Modality="CT"))
    return {
        f"{FILE_NAME} cut.dcm": whole[: len(whole) - 9000],
        f"{FILE_NAME} other.dcm": other,
        f"{FILE_NAME} syntax.dcm": whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.PHIMARK.9.9\0"),
        f"{FILE_NAME} cut.png": _png()[:-40],
        f"{FILE_NAME}.txt": TAG.encode() * 50,
    }


def _pixels() -> NDArray[np.uint16]:
    pixels = builders.thorax(96, 80, 12)
    row = (PIXEL * 8).encode()[: 2 * pixels.shape[1]].ljust(2 * pixels.shape[1], b"P")
    pixels[-1] = np.frombuffer(row, "<u2")
    return pixels


def _data_set(**elements: str) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # many of these values break the rules of their elements
        return _marked_data_set(**elements)


def _marked_data_set(**elements: str) -> Dataset:
    ds = builders.data_set(_pixels(), 16, **elements)
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        is_of_a_data_set = 0x0008 <= tag >> 16 < 0x7FE0
        if is_of_a_data_set and vr in _TEXT_VRS and keyword and keyword not in _MEANT and keyword not in ds:
            setattr(ds, keyword, TAG[:16] if vr in ("AE", "CS", "SH") else f"{TAG}^{keyword}"[:60])
    item = Dataset()
    item.PatientName = item.AccessionNumber = TAG
    ds.OtherPatientIDsSequence = ds.RequestAttributesSequence = [item]
    ds.add_new(0x00091001, "LO", TAG)
    ds.add_new(0x00090010, "LO", TAG)
    ds.add_new(0x60003000, "OW", (TAG * 20).encode())
    ds.StudyDate, ds.PatientBirthDate = "19700101", "19700101"
    return ds


def _dicom() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = builders.file_bytes(_data_set())
    # What comes after the picture may hold texts as well.
    return written + builders.element(0xFFFCFFFC, b"OB", (TAG * 9).encode() + b"\0")


def _png() -> bytes:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Patient", TAG)
    texts.add_text("Report", TAG * 30, zip=True)
    texts.add_itxt("Name", TAG, "en", TAG)
    with io.BytesIO() as file:
        Image.fromarray(_pixels()).save(file, "PNG", pnginfo=texts, compress_level=0)
        return file.getvalue() + TAG.encode()


def _jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x9286] = TAG, TAG, TAG
    pixels = (_pixels() >> 8).astype(np.uint8)
    written = builders.picture(pixels, "JPEG", quality=90, exif=exif.tobytes(), comment=TAG.encode())
    return written + TAG.encode()


def has_marker_inside(data: bytes) -> bool:
    """Whether a film holds its markers at all, compressed ones included."""
    chunk = data.find(b"zTXt")
    if chunk > 0:
        (length,) = struct.unpack(">I", data[chunk - 4 : chunk])
        packed = data[chunk + 4 : chunk + 4 + length].split(b"\0", 1)[1][1:]
        assert TAG.encode() in zlib.decompress(packed)
    return TAG.encode() in data
