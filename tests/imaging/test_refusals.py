"""Everything that is not one readable radiograph: each rule on both sides of its limit."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.sequence import Sequence

from cxr_assistant.errors import (
    EmptyFile,
    StudyError,
    UnreadableImage,
    UnsupportedFileType,
    UnsupportedModality,
    UnsupportedTransferSyntax,
    UnusableImage,
)
from cxr_assistant.imaging import refusals
from cxr_assistant.imaging.codestreams import walk_jpeg
from cxr_assistant.imaging.elements import Encoding, inflate, walk_data_set
from cxr_assistant.imaging.read import read_radiograph, recognise
from tests.imaging import builders
from tests.imaging.builders import dicom, element, picture, raw_file

THORAX = builders.thorax()
EIGHT = (THORAX >> 4).astype(np.uint8)


def refused(data: bytes) -> StudyError:
    with pytest.raises(StudyError) as caught:
        read_radiograph(data, session_key=b"k" * 32)
    assert len(caught.value.message) <= 120
    assert caught.value.message.isprintable()
    assert caught.value.hint
    return caught.value


@pytest.mark.requirement("U4", "U9")
@pytest.mark.parametrize(
    ("data", "error", "code"),
    [
        pytest.param(b"", EmptyFile, "empty", id="empty"),
        pytest.param(b"findings: none", UnsupportedFileType, "bad_type", id="text"),
        pytest.param(b"GIF89a" + bytes(500), UnsupportedFileType, "bad_type", id="gif"),
        pytest.param(b"PK\x03\x04" + bytes(500), UnsupportedFileType, "bad_type", id="zip"),
        pytest.param(b"BM" + bytes(500), UnsupportedFileType, "bad_type", id="bmp"),
        pytest.param(dicom()[132:], UnreadableImage, "bad_header", id="dicom-without-preamble"),
        pytest.param(b"MZ" + bytes(126) + dicom()[128:], UnsupportedFileType, "bad_type", id="program"),
        pytest.param(b"<svg" + bytes(124) + dicom()[128:], UnsupportedFileType, "bad_type", id="page"),
        pytest.param(bytes(128) + b"DICM", UnreadableImage, "bad_header", id="preamble-only"),
    ],
)
def test_content_decides_what_a_file_is(data: bytes, error: type, code: str) -> None:
    caught = refused(data)
    assert (type(caught), caught.code) == (error, code)


@pytest.mark.requirement("U3")
def test_a_file_above_the_upload_limit_is_refused_unread() -> None:
    with pytest.raises(UnusableImage) as caught:
        recognise(bytes(refusals.MAX_UPLOAD_BYTES + 1))
    assert caught.value.code == "too_large"


@pytest.mark.parametrize("size", [100, 400, 700, 5000, 15_000])
def test_a_file_that_was_cut_off_is_refused_wherever_the_cut_lies(size: int) -> None:
    assert refused(dicom()[: 132 + size]).code in {"truncated", "bad_header", "not_image"}


def test_missing_pixels_are_never_shown_as_black() -> None:
    assert refused(dicom()[:-2]).code == "truncated"
    assert refused(dicom(PixelData=THORAX.tobytes()[:-2])).code == "truncated"


@pytest.mark.requirement("U12")
@pytest.mark.parametrize(
    ("modality", "word"),
    [("CT", "CT"), ("MR", "MR"), ("US", "ultrasound"), ("MG", "mammogram"), ("DR", "DR"), ("PX", "dental")],
)
def test_another_modality_is_named(modality: str, word: str) -> None:
    caught = refused(dicom(Modality=modality))
    assert (type(caught), caught.code) == (UnsupportedModality, "wrong_modality")
    assert word in caught.message


@pytest.mark.requirement("U12")
@pytest.mark.parametrize("modality", ["ZZCANARY", "", None])
def test_an_unknown_modality_is_not_echoed(modality: str | None) -> None:
    caught = refused(dicom(Modality=modality))
    assert caught.code == "wrong_modality"
    assert "CANARY" not in str(caught)


@pytest.mark.parametrize(
    ("elements", "code"),
    [
        ({"Modality": "SR"}, "not_image"),
        ({"PixelData": None}, "not_image"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "wrong_modality"),
        ({"SOPClassUID": "1.2.840.10008.1.3.10"}, "not_image"),
        ({"NumberOfFrames": 2}, "multi_frame"),
        ({"NumberOfFrames": 0}, "multi_frame"),
        ({"Rows": 0}, "bad_header"),
        ({"Rows": None}, "bad_header"),
        ({"Rows": 31}, "too_small"),
        ({"Rows": 65535, "Columns": 65535}, "too_large"),
        ({"SamplesPerPixel": 3}, "bad_header"),
        ({"PhotometricInterpretation": "MONOCHROME3"}, "bad_header"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "unsupported"),
        ({"BitsAllocated": 12}, "bad_header"),
        ({"BitsAllocated": 32}, "unsupported"),
        ({"BitsStored": 17}, "bad_header"),
        ({"HighBit": 3}, "bad_header"),
        ({"RescaleSlope": "0"}, "bad_header"),
        ({"RescaleSlope": "1E300"}, "bad_header"),
        ({"PixelData": bytes(THORAX.nbytes)}, "blank"),
    ],
)
def test_a_header_that_makes_no_radiograph_is_refused(elements: dict[str, Any], code: str) -> None:
    assert refused(dicom(**elements)).code == code


def test_true_colour_is_refused() -> None:
    pixels = np.dstack([EIGHT, EIGHT // 2, EIGHT])
    caught = refused(dicom(pixels, 8, SOPClassUID=builders.CAPTURE_CLASS, Modality="OT"))
    assert (caught.code, "Colour" in caught.message) == ("unsupported", True)


def broken_lut(descriptor: list[int], data: bytes) -> Sequence:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.add_new(0x00283002, "US", descriptor)
    item.add_new(0x00283006, "OW", data)
    return Sequence([item])


@pytest.mark.parametrize(
    ("descriptor", "data"), [([4096, 0, 16], bytes(64)), ([4, 0, 17], bytes(8)), ([4, 0], bytes(8))]
)
def test_a_lut_that_contradicts_its_descriptor_is_refused(descriptor: list[int], data: bytes) -> None:
    assert refused(dicom(VOILUTSequence=broken_lut(descriptor, data))).code == "bad_header"


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2.4.100", "1.2.3.4444.5555"], ids=["standard", "private"])
def test_an_unknown_transfer_syntax_is_named(uid: str) -> None:
    caught = refused(raw_file(b"", even(uid)))
    assert (type(caught), caught.code) == (UnsupportedTransferSyntax, "unsupported")
    assert f"transfer syntax {uid}," in caught.message


@pytest.mark.parametrize("uid", ["1.2.<b>x", "DOE^JANE", "1..2", "1.02", "1." + "9" * 70])
def test_what_is_no_uid_is_not_repeated(uid: str) -> None:
    caught = refused(raw_file(b"", even(uid)))
    assert caught.code == "unsupported" and uid not in caught.message


def even(uid: str) -> bytes:
    """As a file holds it: of even length."""
    return uid.encode() + b"\0" * (len(uid) % 2)


def test_a_missing_transfer_syntax_is_refused() -> None:
    assert refused(bytes(128) + b"DICM" + element(0x00020002, b"UI", b"1.2\0")).code == "bad_header"


# --- limits of the walk, both sides


def walk(body: bytes) -> None:
    walk_data_set(memoryview(body), frozenset(), Encoding())


def nested(depth: int) -> bytes:
    body = element(0x00080060, b"CS", b"DX")
    for _ in range(depth):
        item = struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body
        body = element(0x00081115, b"SQ", item)
    return body


def items(count: int) -> bytes:
    return element(0x00081115, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 0) * count)


def many(count: int) -> bytes:
    return b"".join(element(0x00090000 + number, b"CS", b"X ") for number in range(count))


@pytest.mark.requirement("U3")
@pytest.mark.parametrize(
    ("make", "limit"),
    [
        pytest.param(nested, refusals.MAX_SEQUENCE_DEPTH, id="depth"),
        pytest.param(items, refusals.MAX_SEQUENCE_ITEMS, id="items"),
        pytest.param(many, refusals.MAX_ELEMENTS, id="elements"),
    ],
)
def test_the_walk_stops_right_after_its_limit(make: Callable[[int], bytes], limit: int) -> None:
    walk(make(limit))
    with pytest.raises(UnreadableImage):
        walk(make(limit + 1))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(element(0x00100010, b"PN", b"A ")[:-1], "truncated", id="value-beyond-the-end"),
        pytest.param(element(0x00100010, b"ZZ", b"A "), "bad_header", id="unknown-vr"),
        pytest.param(
            struct.pack("<HH2sHI", 8, 0x1115, b"SQ", 0, 0xFFFFFFFF), "bad_header", id="sequence-never-closed"
        ),
        pytest.param(
            struct.pack("<HH2sHI", 8, 0x1115, b"SQ", 0, 9) + bytes(9),
            "bad_header",
            id="sequence-without-item",
        ),
        pytest.param(struct.pack("<HHI", 0xFFFE, 0xE00D, 0), "bad_header", id="delimiter-of-nothing"),
        pytest.param(struct.pack("<HH2sHI", 8, 1, b"UT", 0, 0xFFFFFFFF), "bad_header", id="text-without-end"),
        pytest.param(b"\x08\0\x05", "truncated", id="half-a-tag"),
    ],
)
def test_a_structure_that_is_not_dicom_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(StudyError) as caught:
        walk(body)
    assert caught.value.code == code


def test_an_element_that_occurs_twice_is_refused() -> None:
    body = element(0x00280010, b"US", b"\x60\0") * 2
    with pytest.raises(UnreadableImage):
        walk_data_set(memoryview(body), frozenset({0x00280010}), Encoding())


@pytest.mark.requirement("U3")
def test_inflating_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def deflated(size: int) -> memoryview:
        packer = zlib.compressobj(wbits=-15)
        return memoryview(packer.compress(bytes(size)) + packer.flush())

    monkeypatch.setattr(refusals, "MAX_INFLATED_BYTES", 3 << 20)
    assert len(inflate(deflated(3 << 20))) == 3 << 20
    with pytest.raises(UnusableImage):
        inflate(deflated((3 << 20) + 1))
    with pytest.raises(UnreadableImage):
        inflate(deflated(1 << 20)[:-3])


# --- codestreams


def cut_jpeg() -> bytes:
    return builders.jpeg_dicom(builders.jpeg_frame(EIGHT)[:-400])


def cut_jpeg2000() -> bytes:
    return builders.jpeg2000_dicom(builders.jpeg2000_frame(builders.thorax(bits=16))[:-400])


def wide_jpeg() -> bytes:
    return builders.jpeg_dicom(builders.jpeg_frame(np.tile(EIGHT, (1, 2))))


def wide_jpeg2000() -> bytes:
    return builders.jpeg2000_dicom(builders.jpeg2000_frame(np.tile(builders.thorax(bits=16), (2, 1))))


def jpeg_in_a_jpeg2000_file() -> bytes:
    return builders.jpeg2000_dicom(builders.jpeg_frame(EIGHT))


def deep_jpeg2000() -> bytes:
    frame = builders.jpeg2000_frame(builders.thorax(bits=16))
    return builders.encapsulated(frame, EIGHT, 8, "1.2.840.10008.1.2.4.90")


def native_in_an_encapsulated_file() -> bytes:
    return dicom().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0")


def bad_rle(header: bytes) -> Callable[[], bytes]:
    return lambda: builders.encapsulated(header + bytes(700), THORAX, 12, "1.2.840.10008.1.2.5")


@pytest.mark.requirement("U5")
@pytest.mark.parametrize(
    "make",
    [
        cut_jpeg,
        cut_jpeg2000,
        wide_jpeg,
        wide_jpeg2000,
        jpeg_in_a_jpeg2000_file,
        deep_jpeg2000,
        native_in_an_encapsulated_file,
        pytest.param(bad_rle(struct.pack("<16I", 15, 64, *[9] * 14)), id="rle-segments"),
        pytest.param(bad_rle(struct.pack("<16I", 2, 64, 9999, *[0] * 13)), id="rle-offset"),
        pytest.param(bad_rle(struct.pack("<16I", 2, 64, 100, *[0] * 13)), id="rle-too-short"),
        pytest.param(lambda: builders.jpeg_dicom(b"\xff\xd8garbage"), id="garbage"),
    ],
)
def test_a_frame_that_contradicts_its_header_is_refused_before_it_is_decoded(
    make: Callable[[], bytes],
) -> None:
    assert refused(make()).code == "bad_pixels"


def progressive_with_scans(count: int) -> bytes:
    stream = picture(EIGHT, "JPEG", progressive=True)
    start = stream.rindex(b"\xff\xda")
    own_scans = walk_jpeg(memoryview(stream)).num_scans
    return stream[:-2] + stream[start:-2] * (count - own_scans) + b"\xff\xd9"


@pytest.mark.requirement("U3")
def test_the_scans_of_a_jpeg_are_counted() -> None:
    limit = refusals.MAX_JPEG_SCANS
    assert walk_jpeg(memoryview(progressive_with_scans(limit))).num_scans == limit
    assert refused(progressive_with_scans(limit + 1)).code == "too_complex"


# --- pictures


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    checksum = zlib.crc32(kind + payload)
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", checksum)


def with_chunk(kind: bytes, payload: bytes) -> bytes:
    return (plain := picture(EIGHT))[:33] + png_chunk(kind, payload) + plain[33:]


def png_header(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + picture(EIGHT)[33:]


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(picture(EIGHT)[:-20], "truncated", id="png-cut"),
        pytest.param(flipped(picture(EIGHT), 200), "truncated", id="png-checksum"),
        pytest.param(png_header(0, 50), "bad_header", id="png-no-width"),
        pytest.param(png_header(50, 50, depth=3), "bad_header", id="png-depth"),
        pytest.param(png_header(50, 50, colour=5), "bad_header", id="png-colour-type"),
        pytest.param(png_header(8000, 5001), "too_large", id="png-pixels"),
        pytest.param(png_header(31, 31), "too_small", id="png-small"),
        pytest.param(png_header(32, 257), "too_small", id="png-strip"),
        pytest.param(with_chunk(b"acTL", bytes(8)), "unsupported", id="png-animated"),
        pytest.param(with_chunk(b"EVIL", bytes(8)), "bad_header", id="png-critical-chunk"),
        pytest.param(picture(np.full((64, 64), 9, np.uint8)), "blank", id="png-blank"),
        pytest.param(picture(EIGHT, "JPEG")[:-300], "truncated", id="jpeg-cut"),
        pytest.param(b"\xff\xd8\xff" + bytes(500), "bad_header", id="jpeg-of-zeros"),
        pytest.param(b"\xff\xd8\xff\xd9", "truncated", id="jpeg-of-nothing"),
        pytest.param(b"\xff\xd8" + b"\xff" * 5000, "truncated", id="jpeg-of-fill-bytes"),
        pytest.param(picture(np.full((64, 64), 9, np.uint8), "JPEG"), "blank", id="jpeg-blank"),
    ],
)
def test_a_damaged_or_useless_picture_is_refused(data: bytes, code: str) -> None:
    assert refused(data).code == code


@pytest.mark.requirement("U3")
@pytest.mark.parametrize(("width", "height"), [(32, 256), (32, 32), (256, 32)])
def test_a_picture_at_the_limits_is_read(width: int, height: int) -> None:
    assert read_radiograph(picture(builders.thorax(height, width, 8).astype(np.uint8))).stored.shape == (
        height,
        width,
    )


@pytest.mark.requirement("U4")
def test_only_the_recognised_format_is_ever_opened() -> None:
    """A TIFF behind a PNG signature reaches no TIFF reader."""
    tiff = picture(Image.fromarray(EIGHT), "TIFF")
    assert refused(b"\x89PNG\r\n\x1a\n" + tiff).code in {"truncated", "bad_header"}
