"""What JPEG, JPEG-LS and JPEG 2000 say about themselves, read before any decoder is asked.

Knows markers and segments (ITU-T T.81, T.87, T.800); decodes nothing. Each walk reaches the end of the
codestream, so that a frame that was cut off is refused, and gives back the stream without its texts.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from cxr_assistant.imaging import refusals
from cxr_assistant.imaging.refusals import refusal

__all__ = ["Codestream", "walk_jpeg", "walk_jpeg2000"]

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
JPEG_LS = 0xF7
_APP0, _APP1, _APP14, _COMMENT = 0xE0, 0xE1, 0xEE, 0xFE
_KEPT_APPLICATION_SEGMENTS = frozenset({_APP0, _APP14})  # JFIF and Adobe: what the channels mean
# In JPEG a marker is FF and neither 00 (stuffing), a restart nor a fill byte; in JPEG-LS stuffing is a
# zero bit, so any byte below 80 is data.
_NEXT_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_NEXT_MARKER_LS = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")


class Codestream(NamedTuple):
    """The frame header, and the stream rebuilt without comments, EXIF, profiles and tail."""

    process: int  # the SOF marker: 0xC0 baseline ... 0xC3 lossless, 0xF7 JPEG-LS; 0 for JPEG 2000
    width: int
    height: int
    precision: int
    components: int
    num_scans: int
    minimal: bytes
    exif: bytes = b""


class _Segment(NamedTuple):
    marker: int
    start: int  # of the marker
    payload: memoryview
    end: int


def walk_jpeg(stream: memoryview) -> Codestream:
    """The header of a JPEG or JPEG-LS stream, walked to its end.

    Raises: truncated, bad_header or too_complex.
    """
    frame: tuple[int, int, int, int, int] | None = None
    kept: list[memoryview] = [stream[:2]]
    num_scans, exif = 0, b""
    for segment in _segments(stream):
        if segment.marker in _FRAME_HEADERS:
            if frame is not None:
                raise refusal("bad_header")  # hierarchical, or two pictures in one
            frame = _frame_header(segment)
        elif segment.marker == _SOS:
            num_scans += 1
            if num_scans > refusals.MAX_JPEG_SCANS:
                raise refusal("too_complex")
        elif segment.marker == _APP1 and not exif and bytes(segment.payload[:6]) == b"Exif\0\0":
            exif = bytes(segment.payload[6:])
        if _is_needed(segment.marker):
            kept.append(stream[segment.start : segment.end])
    if frame is None or num_scans == 0:
        raise refusal("truncated")
    process, height, width, precision, components = frame
    if num_scans * width * height > refusals.MAX_SCANNED_PIXELS:
        raise refusal("too_complex")
    return Codestream(process, width, height, precision, components, num_scans, b"".join(kept), exif)


def _is_needed(marker: int) -> bool:
    is_text = _APP0 <= marker <= 0xEF or marker == _COMMENT
    return not is_text or marker in _KEPT_APPLICATION_SEGMENTS


def _frame_header(segment: _Segment) -> tuple[int, int, int, int, int]:
    if len(segment.payload) < 6:
        raise refusal("bad_header")
    precision, height, width, components = struct.unpack(">BHHB", segment.payload[:6])
    return segment.marker, height, width, precision, components


def _segments(stream: memoryview) -> Iterator[_Segment]:
    """Every marker segment up to and including EOI; a scan's segment includes its entropy-coded data."""
    if bytes(stream[:2]) != b"\xff\xd8":
        raise refusal("bad_header")
    position, next_marker = 2, _NEXT_MARKER
    while True:
        start = position
        while bytes(stream[position : position + 2]) == b"\xff\xff":  # fill bytes
            position += 1
        if position + 2 > len(stream):
            raise refusal("truncated")
        lead, marker = stream[position], stream[position + 1]
        if lead != 0xFF or marker in (0x00, _SOI):
            raise refusal("bad_header")
        if marker == _EOI:
            yield _Segment(marker, start, stream[:0], position + 2)
            return
        if position + 4 > len(stream):
            raise refusal("truncated")
        (length,) = struct.unpack(">H", stream[position + 2 : position + 4])
        end = position + 2 + length
        if length < 2 or end > len(stream):
            raise refusal("truncated" if end > len(stream) else "bad_header")
        payload = stream[position + 4 : end]
        if marker == JPEG_LS:
            next_marker = _NEXT_MARKER_LS
        if marker == _SOS:
            found = next_marker.search(stream, end)
            if found is None:
                raise refusal("truncated")
            end = found.start()
        yield _Segment(marker, start, payload, end)
        position = end


def walk_jpeg2000(stream: memoryview) -> Codestream:
    """The SIZ segment of a JPEG 2000 codestream, its tile-parts walked to EOC."""
    if len(stream) < 51 or bytes(stream[:4]) != b"\xff\x4f\xff\x51":
        raise refusal("bad_header")
    right, lower, left, upper = struct.unpack(">4I", stream[8:24])
    (components,) = struct.unpack(">H", stream[40:42])
    precision = (stream[42] & 0x7F) + 1
    sampling = bytes(stream[42 : 42 + 3 * components])
    tile_width, tile_height = struct.unpack(">2I", stream[24:32])
    if right <= left or lower <= upper or not tile_width or not tile_height:
        raise refusal("bad_header")
    if not 1 <= components <= 4 or set(sampling[1::3]) | set(sampling[2::3]) != {1}:
        raise refusal("bad_header")
    return Codestream(0, right - left, lower - upper, precision, components, 1, _rebuild_jpeg2000(stream))


def _rebuild_jpeg2000(stream: memoryview) -> bytes:
    kept, position = [stream[:2]], 2
    while bytes(stream[position : position + 2]) != b"\xff\x90":  # main header, up to the first tile-part
        if position + 4 > len(stream):
            raise refusal("truncated")
        marker, length = struct.unpack(">HH", stream[position : position + 4])
        if marker >> 8 != 0xFF or length < 2:
            raise refusal("bad_header")
        if marker != 0xFF64:  # a comment
            kept.append(stream[position : position + 2 + length])
        position += 2 + length
    return b"".join([*kept, stream[position : _end_of_tiles(stream, position)]])


def _end_of_tiles(stream: memoryview, position: int) -> int:
    """The offset after EOC; raises truncated when a tile-part does not lie in the stream."""
    while bytes(stream[position : position + 2]) == b"\xff\x90":
        if position + 12 > len(stream):
            raise refusal("truncated")
        (length,) = struct.unpack(">I", stream[position + 6 : position + 10])
        if length == 0:  # the last tile-part reaches to EOC
            end = bytes(stream).rfind(b"\xff\xd9")
            if end <= position:
                raise refusal("truncated")
            return end + 2
        if length < 14:
            raise refusal("bad_header")
        position += length
    if bytes(stream[position : position + 2]) != b"\xff\xd9":
        raise refusal("truncated")
    return position + 2
