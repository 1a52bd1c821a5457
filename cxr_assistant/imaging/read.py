"""Untrusted bytes -> Radiograph: the format is recognised by content, the decoding happens elsewhere.

Knows the three formats by their first bytes. `read_radiograph` is for everyone and imports no decoder;
`decode_stored` is what the disposable child runs.
"""

from __future__ import annotations

from enum import StrEnum

from cxr_assistant.imaging import refusals
from cxr_assistant.imaging.refusals import refusal
from cxr_assistant.study import Radiograph

__all__ = ["FileFormat", "decode_radiograph", "decode_stored", "read_radiograph", "recognise"]

_ARCHIVES = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"BZh",
    b"\xfd7zXZ",
)


class FileFormat(StrEnum):
    DICOM = "DICOM"
    PNG = "PNG"
    JPEG = "JPEG"


def read_radiograph(data: bytes, *, session_key: bytes | None = None) -> Radiograph:
    """The radiograph in `data`, decoded in a disposable child process.

    `session_key` (32 random bytes of the session) keys the patient hash and the day offset; without it
    both stay None.
    Raises: a StudyError with a stable code and one sentence, whatever the bytes are.
    """
    from cxr_assistant.imaging.sandbox import default_sandbox

    recognise(data)  # what is refused by its first bytes costs no process
    return default_sandbox().decode(data, session_key)


def decode_radiograph(data: bytes | memoryview, session_key: bytes | None) -> Radiograph:
    """The same in this process, for bytes that the project made itself."""
    from cxr_assistant.imaging.burned_in import with_text_hint

    return with_text_hint(decode_stored(data, session_key))


def decode_stored(data: bytes | memoryview, session_key: bytes | None) -> Radiograph:
    """The same without the look for text: a child gives the pixels away before it looks."""
    match recognise(data):
        case FileFormat.DICOM:
            from cxr_assistant.imaging.dicom import read_dicom

            return read_dicom(data, session_key)
        case FileFormat.PNG:
            from cxr_assistant.imaging.raster import read_png

            return read_png(data)
        case FileFormat.JPEG:
            from cxr_assistant.imaging.raster import read_jpeg

            return read_jpeg(data)


def recognise(data: bytes | memoryview) -> FileFormat:
    """The format of `data` by its first bytes; raises empty, too_large, bad_type or bad_header."""
    if not data:
        raise refusal("empty")
    if len(data) > refusals.MAX_UPLOAD_BYTES:
        limit = refusals.MAX_UPLOAD_BYTES >> 20
        raise refusal("too_large", f"The file is too large; at most {limit} MiB are read.")
    if data[128:132] == b"DICM":
        return FileFormat.DICOM
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return FileFormat.PNG
    if data[:3] == b"\xff\xd8\xff":
        return FileFormat.JPEG
    if bytes(data[:8]).startswith(_ARCHIVES) or data[257:262] == b"ustar":
        raise refusal("bad_type", "Archives are not opened.", hint="Unpack it, then add the films.")
    if _is_headerless_dicom(data):
        # Without the file header the encoding would have to be guessed, and a wrong guess shows a picture.
        raise refusal(
            "bad_header", "This looks like DICOM without its file header; it cannot be read safely."
        )
    raise refusal("bad_type")


def _is_headerless_dicom(data: bytes | memoryview) -> bool:
    """Whether a data set begins at once: group 0002 or 0008, then a VR or a plausible length."""
    if data[:2] not in (b"\x02\0", b"\x08\0") or len(data) < 12:
        return False
    length = int.from_bytes(data[4:8], "little")
    return bytes(data[4:6]).isalpha() or length <= 64
