"""The container walk of DICOM: bytes -> the few elements that a radiograph needs.

Knows explicit and implicit VR, both byte orders, sequences and fragments (PS3.5), each under a limit,
without recursion. Must not know what an element means; tags that nobody asked for leave no trace.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from cxr_assistant.imaging import refusals
from cxr_assistant.imaging.refusals import refusal

__all__ = ["PREAMBLE_BYTES", "DataSet", "Element", "Encoding", "inflate", "walk_data_set", "walk_file_meta"]

PREAMBLE_BYTES = 132  # 128 free bytes and "DICM"
PIXEL_DATA = 0x7FE00010
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_SHORT_VRS = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()  # 16-bit length
)
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # reserved, then 32-bit length


class Encoding(NamedTuple):
    """How a data set is written down."""

    is_implicit: bool = False
    is_big_endian: bool = False


class Element(NamedTuple):
    """One wanted element: its VR (b"" when implicit) and its bytes, untouched."""

    vr: bytes
    value: memoryview


@dataclass
class DataSet:
    """The wanted elements of one data set, and of the items of its wanted sequences."""

    elements: dict[int, Element] = field(default_factory=dict)
    items: dict[int, list[DataSet]] = field(default_factory=dict)
    fragments: list[memoryview] | None = None  # encapsulated Pixel Data without its offset table


@dataclass
class _Level:
    """One open data set or sequence during the walk; `end` is None when a delimiter closes it."""

    end: int | None
    is_sequence: bool
    encoding: Encoding
    data_set: DataSet | None  # where wanted elements go; None inside of what nobody asked for
    tag: int = 0


def inflate(deflated: memoryview) -> memoryview:
    """A deflated data set, inflated up to the limit; raises too_large or truncated."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = bytearray()
    pending: bytes | memoryview = deflated
    while not inflater.eof:
        try:
            piece = inflater.decompress(pending, 1 << 20)
        except zlib.error:
            raise refusal("truncated") from None
        # All input can be consumed while output still waits, so only silence means that data is missing.
        pending = inflater.unconsumed_tail
        if not piece and not pending and not inflater.eof:
            raise refusal("truncated")
        inflated += piece
        if len(inflated) > refusals.MAX_INFLATED_BYTES:
            raise refusal("too_large")
    return memoryview(inflated).toreadonly()


def walk_file_meta(file: memoryview, wanted: AbstractSet[int]) -> tuple[DataSet, int]:
    """Group 0002, always Explicit VR Little Endian, and the offset at which the data set begins."""
    offset = PREAMBLE_BYTES
    end = offset
    while end + 2 <= len(file) and bytes(file[end : end + 2]) == b"\x02\x00":
        end = _Walk(file, wanted, Encoding()).skip(end)
    if end == offset:
        raise refusal("bad_header")
    return walk_data_set(file[offset:end], wanted, Encoding()), end


def walk_data_set(data: memoryview, wanted: AbstractSet[int], encoding: Encoding) -> DataSet:
    """The wanted elements of `data`, at most up to its Pixel Data.

    Raises: bad_header for a structure that is not DICOM or exceeds a limit; truncated when a value
    reaches beyond the end.
    """
    return _Walk(data, wanted, encoding).run()


class _Walk:
    """One pass over a data set, with an explicit stack: nesting costs a list entry, not a frame."""

    def __init__(self, data: memoryview, wanted: AbstractSet[int], encoding: Encoding) -> None:
        self.data, self.wanted = data, wanted
        self.position = self.num_elements = self.num_items = 0
        self.root = DataSet()
        self.levels = [_Level(len(data), False, encoding, self.root)]

    def run(self) -> DataSet:
        while self._close_finished_levels():
            if self.levels[-1].is_sequence:
                self._open_item()
            elif self._read_element() == PIXEL_DATA and len(self.levels) == 1:
                break  # whatever follows the picture is not needed
        return self.root

    def skip(self, position: int) -> int:
        """The offset after the element at `position`."""
        self.position = position
        _, _, length = self._element_header(self.levels[0].encoding)
        if length == _UNDEFINED:
            raise refusal("bad_header")
        self._take(length)
        return self.position

    def _close_finished_levels(self) -> bool:
        """Leave every level that ends here; False when the whole data set was walked."""
        while self.levels and self.levels[-1].end is not None and self.position >= self.levels[-1].end:
            if self.position > self.levels[-1].end:
                raise refusal("bad_header")
            self.levels.pop()
        if self.levels and self.position >= len(self.data):
            raise refusal("bad_header")  # a sequence that was never closed
        return bool(self.levels)

    def _open_item(self) -> None:
        level = self.levels[-1]
        tag, length = self._tag_and_length(level.encoding)
        if tag == _SEQUENCE_END and level.end is None:
            self.levels.pop()
            return
        self.num_items += 1
        if tag != _ITEM or self.num_items > refusals.MAX_SEQUENCE_ITEMS:
            raise refusal("bad_header")
        item = DataSet() if level.data_set is not None else None
        if item is not None and level.data_set is not None:
            level.data_set.items[level.tag].append(item)
        self._push(_Level(self._end_of(length), False, level.encoding, item))

    def _read_element(self) -> int:
        level = self.levels[-1]
        self.num_elements += 1
        if self.num_elements > refusals.MAX_ELEMENTS:
            raise refusal("bad_header")
        tag, vr, length = self._element_header(level.encoding)
        if tag == _ITEM_END:
            if level.end is not None or length:
                raise refusal("bad_header")
            self.levels.pop()
        elif tag == PIXEL_DATA and length == _UNDEFINED:
            self._read_fragments(level)
        elif vr == b"SQ" or length == _UNDEFINED or (not vr and tag in self.wanted and self._is_item(level)):
            self._open_sequence(level, tag, vr, length)
        else:
            self._keep(level, tag, Element(vr, self._take(length)))
        return tag

    def _is_item(self, level: _Level) -> bool:
        """Whether an item begins here: how implicit VR tells a sequence of known length."""
        raw = bytes(self.data[self.position : self.position + 4])
        return raw == (b"\xff\xfe\xe0\x00" if level.encoding.is_big_endian else b"\xfe\xff\x00\xe0")

    def _open_sequence(self, level: _Level, tag: int, vr: bytes, length: int) -> None:
        if vr not in (b"SQ", b"UN", b""):
            raise refusal("bad_header")
        # A sequence of unknown VR is written as implicit little endian (PS3.5 6.2.2).
        encoding = Encoding(is_implicit=True) if vr == b"UN" else level.encoding
        owner = level.data_set if tag in self.wanted else None
        if owner is not None:
            if tag in owner.items:
                raise refusal("bad_header")
            owner.items[tag] = []
        self._push(_Level(self._end_of(length), True, encoding, owner, tag))

    def _push(self, level: _Level) -> None:
        self.levels.append(level)
        # A sequence and its item are two entries of the stack.
        if len(self.levels) > 2 * refusals.MAX_SEQUENCE_DEPTH + 1:
            raise refusal("bad_header")

    def _read_fragments(self, level: _Level) -> None:
        fragments: list[memoryview] = []
        while True:
            tag, length = self._tag_and_length(level.encoding)
            if tag == _SEQUENCE_END:
                break
            if tag != _ITEM or length == _UNDEFINED or len(fragments) > refusals.MAX_ELEMENTS:
                raise refusal("bad_header")
            fragments.append(self._take(length))
        if level.data_set is not None:
            level.data_set.fragments = fragments[1:]  # the first item is the offset table

    def _keep(self, level: _Level, tag: int, element: Element) -> None:
        if level.data_set is None or tag not in self.wanted:
            return
        if tag in level.data_set.elements:
            raise refusal("bad_header")  # which one would a viewer believe?
        level.data_set.elements[tag] = element

    def _element_header(self, encoding: Encoding) -> tuple[int, bytes, int]:
        if encoding.is_implicit or self._is_delimiter(encoding):
            tag, length = self._tag_and_length(encoding)
            return tag, b"", length
        order = ">" if encoding.is_big_endian else "<"
        group, number, vr, short = struct.unpack(f"{order}HH2sH", self._take(8))
        if vr in _SHORT_VRS:
            return group << 16 | number, vr, short
        if vr not in _LONG_VRS:
            raise refusal("bad_header")
        (length,) = struct.unpack(f"{order}I", self._take(4))
        return group << 16 | number, vr, length

    def _is_delimiter(self, encoding: Encoding) -> bool:
        group = bytes(self.data[self.position : self.position + 2])
        return group == (b"\xff\xfe" if encoding.is_big_endian else b"\xfe\xff")

    def _tag_and_length(self, encoding: Encoding) -> tuple[int, int]:
        order = ">" if encoding.is_big_endian else "<"
        group, number, length = struct.unpack(f"{order}HHI", self._take(8))
        return group << 16 | number, length

    def _end_of(self, length: int) -> int | None:
        if length == _UNDEFINED:
            return None
        end = self.position + length
        if end > len(self.data):
            raise refusal("truncated")
        return end

    def _take(self, length: int) -> memoryview:
        start, self.position = self.position, self.position + length
        if self.position > len(self.data):
            raise refusal("truncated")
        return self.data[start : self.position]
