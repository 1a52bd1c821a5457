"""The chunk walk of PNG: header, checksums and limits, before any decoder is asked.

Knows chunks (PNG specification, third edition); inflates nothing. Gives back the file with nothing in it
but what makes the picture.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from cxr_assistant.imaging.refusals import check_size, refusal

__all__ = ["SIGNATURE", "PngFile", "walk_png"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 20_000  # 40 million pixels in chunks of 8 KiB
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # by colour type
_PICTURE_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


class PngFile(NamedTuple):
    bit_depth: int
    colour_type: int
    minimal: bytes
    exif: bytes
    software: bytes


def walk_png(file: memoryview) -> PngFile:
    """Header and minimal copy; raises bad_header, truncated, too_large, too_small or unsupported."""
    position, num_chunks = len(SIGNATURE), 0
    kept: list[memoryview] = [file[:position]]
    header: tuple[int, int] | None = None
    exif = software = b""
    has_pixels = False
    while True:
        kind, payload, end = _chunk(file, position)
        num_chunks += 1
        if num_chunks > _MAX_CHUNKS or (header is None) is not (kind == b"IHDR"):
            raise refusal("bad_header")
        if kind == b"IHDR":
            header = _header(payload)
        elif kind == b"acTL":
            raise refusal(
                "unsupported", "Animated images are not supported.", hint="Upload a single picture."
            )
        elif kind == b"eXIf":
            exif = bytes(payload)
        elif kind == b"tEXt" and bytes(payload[:9]) == b"Software\0":
            software = bytes(payload[9:])
        has_pixels = has_pixels or kind == b"IDAT"
        if kind in _PICTURE_CHUNKS:
            kept.append(file[position:end])
        elif not kind[0] & 0x20:  # an unknown chunk that a reader must understand
            raise refusal("bad_header")
        position = end
        if kind == b"IEND":
            break
    if header is None or not has_pixels:
        raise refusal("bad_header")
    return PngFile(*header, b"".join(kept), exif, software)


def _chunk(file: memoryview, position: int) -> tuple[bytes, memoryview, int]:
    if position + 12 > len(file):
        raise refusal("truncated")
    length, kind = struct.unpack(">I4s", file[position : position + 8])
    end = position + 12 + length
    if end > len(file):
        raise refusal("truncated")
    (checksum,) = struct.unpack(">I", file[end - 4 : end])
    if zlib.crc32(file[position + 4 : end - 4]) != checksum:
        raise refusal("truncated")
    return kind, file[position + 8 : end - 4], end


def _header(payload: memoryview) -> tuple[int, int]:
    if len(payload) != 13:
        raise refusal("bad_header")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", payload)
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise refusal("bad_header")
    check_size(width, height)
    return depth, colour
