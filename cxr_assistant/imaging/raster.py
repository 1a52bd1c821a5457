"""PNG and JPEG bytes -> Radiograph: display pictures of 8 or 16 bits, upright and gray.

Knows picture modes, alpha and EXIF orientation; Pillow gets a rebuilt file without texts, and only the
one format that was recognised. Must not know DICOM.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cxr_assistant.imaging import notices
from cxr_assistant.imaging.codestreams import walk_jpeg
from cxr_assistant.imaging.png import walk_png
from cxr_assistant.imaging.refusals import check_not_blank, check_size, refusal
from cxr_assistant.study import PHANTOM_MARK, Radiograph

__all__ = ["read_jpeg", "read_png"]

_SMALL_SIDE_PX = 256
_COLOUR_CAST = 12  # mean spread between the channels, in gray levels
_ORIENTATION_TAG = 0x0112
_GRAY = {"L": np.uint8, "I;16": np.uint16}  # modes whose memory Pillow and NumPy lay out alike
_UPRIGHT = {  # EXIF orientation -> (quarter turns counter-clockwise, then mirrored left-right)
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (3, True),
    6: (3, False),
    7: (1, True),
    8: (1, False),
}

Pixels = NDArray[np.integer[Any]]


def read_png(data: bytes | memoryview) -> Radiograph:
    """The picture in a PNG file; 16-bit gray keeps its range."""
    file = walk_png(memoryview(data))
    is_colour = file.colour_type not in (0, 4)
    remarks = [notices.DEEP_COLOUR] if file.bit_depth == 16 and (is_colour or file.colour_type == 4) else []
    pixels, is_cast = _decode(file.minimal, "PNG")
    is_phantom = file.software == PHANTOM_MARK.encode()
    return _radiograph(_upright(pixels, file.exif), "PNG", remarks, is_cast, is_phantom)


def read_jpeg(data: bytes | memoryview) -> Radiograph:
    """The picture in a JPEG file: baseline, extended or progressive, 8 bits."""
    stream = walk_jpeg(memoryview(data))
    check_size(stream.width, stream.height)
    if (
        stream.process not in (0xC0, 0xC1, 0xC2)
        or stream.precision != 8
        or stream.components not in (1, 3, 4)
    ):
        raise refusal("unsupported", "This kind of JPEG is not supported; plain 8-bit JPEG is.")
    pixels, is_cast = _decode(stream.minimal, "JPEG")
    return _radiograph(_upright(pixels, stream.exif), "JPEG", [], is_cast, False)


def _radiograph(
    pixels: Pixels, source: str, remarks: list[str], is_cast: bool, is_phantom: bool
) -> Radiograph:
    check_not_blank(pixels)
    if is_cast:
        remarks.append(notices.COLOUR)
    if min(pixels.shape) < _SMALL_SIDE_PX:
        remarks.append(notices.SMALL)
    return Radiograph(
        stored=pixels,
        bits_stored=8 * pixels.dtype.itemsize,
        source=source,
        notices=tuple(remarks),
        is_marked_phantom=is_phantom,
    )


def _decode(minimal: bytes, picture_format: str) -> tuple[Pixels, bool]:
    """Gray pixels, and whether the picture has a colour cast."""
    try:
        with Image.open(io.BytesIO(minimal), formats=[picture_format]) as picture:
            picture.decodermaxblock = len(minimal)  # a decoder that runs dry does a row of blocks twice
            return _gray(picture, _load(picture))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, struct.error):
        # What Pillow raises on damage; its texts stay here.
        raise refusal("truncated") from None


def _load(picture: Image.Image) -> Pixels | None:
    """Decode `picture`; into an array, which is returned, where it is gray. Pillow's own way to an array
    copies a film twice, which takes a tenth of the time of decoding a JPEG."""
    dtype = _GRAY.get(picture.mode)
    if dtype is None:
        picture.load()
        return None
    pixels = np.zeros((picture.height, picture.width), dtype)  # a damaged file may end early without error
    memory = Image.frombuffer(picture.mode, picture.size, pixels.reshape(-1), "raw", picture.mode, 0, 1).im
    picture.im = memory
    picture.load()
    return pixels if picture.im is memory else None  # a later Pillow may take memory of its own


def _gray(picture: Image.Image, pixels: Pixels | None) -> tuple[Pixels, bool]:
    if pixels is not None and "transparency" not in picture.info:
        return pixels, False
    if picture.mode.startswith("I"):
        return np.asarray(picture).astype(np.uint16, copy=False), False
    if picture.mode in ("L", "1") and "transparency" not in picture.info:
        return np.asarray(picture if picture.mode == "L" else picture.convert("L")), False
    if picture.mode in ("LA", "RGBA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (0, 0, 0, 255))  # transparent is air
        picture = Image.alpha_composite(ground, picture)
    rgb = picture.convert("RGB")
    sample = np.asarray(rgb)[::4, ::4].astype(np.int16)
    is_cast = float((sample.max(-1) - sample.min(-1)).mean()) > _COLOUR_CAST
    return np.asarray(rgb.convert("L")), is_cast


def _upright(pixels: Pixels, exif: bytes) -> Pixels:
    turns, is_mirrored = _UPRIGHT.get(_exif_orientation(exif), (0, False))
    turned = np.rot90(pixels, turns)
    return np.ascontiguousarray(turned[:, ::-1] if is_mirrored else turned)


def _exif_orientation(exif: bytes) -> int:
    """Orientation of the first directory of a TIFF header; 1 (upright) when there is none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 10:
        return 1
    (start,) = struct.unpack(f"{order}I", exif[4:8])
    if start + 2 > len(exif):
        return 1
    (count,) = struct.unpack(f"{order}H", exif[start : start + 2])
    for entry in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack(f"{order}HH", exif[entry : entry + 4])
        if tag == _ORIENTATION_TAG and kind == 3:
            (value,) = struct.unpack(f"{order}H", exif[entry + 8 : entry + 10])
            return int(value)
    return 1
