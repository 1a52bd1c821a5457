"""Pixel Data -> stored values: one pinned decoder for each transfer syntax.

Knows which library may read which encoding, and compares what a codestream says about itself with the
header before any library sees it. Must run in the disposable child only: GDCM can abort its process.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from cxr_assistant.errors import StudyError
from cxr_assistant.imaging.codestreams import JPEG_LS, Codestream, walk_jpeg, walk_jpeg2000
from cxr_assistant.imaging.elements import PIXEL_DATA, DataSet, Encoding
from cxr_assistant.imaging.refusals import colour_refusal, refusal

__all__ = ["PixelLayout", "TransferSyntax", "decode_pixels", "transfer_syntax", "warm_up"]

Samples = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class PixelLayout:
    """The Image Pixel module (PS3.3 C.7.6.3), already checked."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    is_planar: bool = False


class TransferSyntax(NamedTuple):
    """One row of the pinned table; `plugin` is pydicom's name of the decoder, "" for native pixels."""

    encoding: Encoding = Encoding()
    is_deflated: bool = False
    plugin: str = ""
    check: Callable[[memoryview, PixelLayout], Codestream | None] | None = None


def _check_jpeg(*processes: int) -> Callable[[memoryview, PixelLayout], Codestream]:
    def check(frame: memoryview, layout: PixelLayout) -> Codestream:
        return _agree(walk_jpeg(frame), layout, processes)

    return check


def _check_jpeg2000(frame: memoryview, layout: PixelLayout) -> Codestream:
    return _agree(walk_jpeg2000(frame), layout, (0,))


def _agree(found: Codestream, layout: PixelLayout, processes: tuple[int, ...]) -> Codestream:
    """Raise unless the codestream has the size and the depth that the header declares."""
    size = (found.height, found.width, found.components)
    fits = layout.bits_stored <= found.precision <= layout.bits_allocated or found.process == JPEG_LS
    if size != (layout.rows, layout.columns, layout.samples) or found.process not in processes or not fits:
        raise refusal("bad_pixels")
    return found


def _check_rle(frame: memoryview, layout: PixelLayout) -> None:
    """The segment table of PS3.5 annex G: one segment for each byte of a sample, in order, inside."""
    if len(frame) < 64:
        raise refusal("bad_pixels")
    num_segments, *offsets = struct.unpack("<16I", frame[:64])
    used = offsets[:num_segments]
    if num_segments != layout.samples * layout.bits_allocated // 8 or not used or used[0] != 64:
        raise refusal("bad_pixels")
    if any(low >= high for low, high in zip(used, [*used[1:], len(frame)], strict=True)):
        raise refusal("bad_pixels")


# Why these: GDCM aborts on some damaged JPEG frames, so it gets those that nothing else reads, and lossless
# JPEG 2000, where it never did (docs/LOG.md) and where its two threads take two thirds of OpenJPEG's time;
# pylibjpeg's libjpeg (GPL) shows half a film without an error, so pylibjpeg is asked for JPEG 2000 alone, of
# lossy and of large films, where its OpenJPEG takes the least processor time, of which a child has 4 s;
# pydicom by itself would try one after the other.
_UID = "1.2.840.10008.1.2"
_BASELINE, _EXTENDED, _LOSSLESS = 0xC0, 0xC1, 0xC3
_SYNTAXES = {
    _UID: TransferSyntax(Encoding(is_implicit=True)),
    f"{_UID}.1": TransferSyntax(),
    f"{_UID}.1.99": TransferSyntax(is_deflated=True),
    f"{_UID}.2": TransferSyntax(Encoding(is_big_endian=True)),
    f"{_UID}.4.50": TransferSyntax(plugin="pillow", check=_check_jpeg(_BASELINE)),
    f"{_UID}.4.51": TransferSyntax(plugin="pillow", check=_check_jpeg(_BASELINE, _EXTENDED)),
    f"{_UID}.4.57": TransferSyntax(plugin="gdcm", check=_check_jpeg(_LOSSLESS)),
    f"{_UID}.4.70": TransferSyntax(plugin="gdcm", check=_check_jpeg(_LOSSLESS)),
    f"{_UID}.4.80": TransferSyntax(plugin="pyjpegls", check=_check_jpeg(JPEG_LS)),
    f"{_UID}.4.81": TransferSyntax(plugin="pyjpegls", check=_check_jpeg(JPEG_LS)),
    f"{_UID}.4.90": TransferSyntax(plugin="gdcm", check=_check_jpeg2000),
    f"{_UID}.4.91": TransferSyntax(plugin="pylibjpeg", check=_check_jpeg2000),
    f"{_UID}.5": TransferSyntax(plugin="pydicom", check=_check_rle),
}
_FAST_PX = 12_000_000  # lossless JPEG 2000 up to here by the faster decoder, beyond by the more frugal one
_UID_FORM = re.compile(r"(?=.{1,64}$)[0-2](\.(0|[1-9]\d*))+")  # PS3.5 9.1


def transfer_syntax(uid: str) -> TransferSyntax:
    """The row of `uid`; raises UnsupportedTransferSyntax, naming it when it is a UID at all."""
    if uid in _SYNTAXES:
        return _SYNTAXES[uid]
    name = uid if _UID_FORM.fullmatch(uid) else "that is no UID"
    raise refusal("unsupported", f"This file uses transfer syntax {name}, which is not supported.")


def decode_pixels(data_set: DataSet, layout: PixelLayout, uid: str) -> Samples:
    """The stored values, (H, W) or (H, W, 3), in native byte order and with the sign they have.

    Raises: truncated for native pixels that end early, unsupported for compressed RGB, bad_pixels for
    whatever does not decode.
    """
    syntax = transfer_syntax(uid)
    is_encapsulated = data_set.fragments is not None
    if is_encapsulated is not bool(syntax.plugin):
        raise refusal("bad_pixels")
    if not is_encapsulated:
        return _native(data_set, layout, syntax.encoding)
    if layout.samples != 1:
        # Gray saved as RGB is read when it is native; compressed, it is too rare to pin decoders for.
        raise colour_refusal()
    frame = memoryview(b"".join(data_set.fragments or ()))
    try:
        found = syntax.check(frame, layout) if syntax.check else None
    except StudyError as error:
        if error.code == "too_complex":
            raise
        raise refusal("bad_pixels") from None
    if found is None:
        return _encapsulated(bytes(frame), layout, uid, syntax.plugin)
    if found.process == _EXTENDED and found.precision > 8:
        # Pillow reads 8 bits only. pydicom keeps 12-bit Extended from GDCM, whose JPEG codec goes by the
        # frame and decodes it (checked against the original in tests); so it is handed over as Lossless.
        return _encapsulated(found.minimal, layout, f"{_UID}.4.57", "gdcm")
    is_large = syntax.check is _check_jpeg2000 and layout.rows * layout.columns > _FAST_PX
    return _encapsulated(found.minimal, layout, uid, "pylibjpeg" if is_large else syntax.plugin)


def warm_up() -> None:
    """Load every decoder, so that the child needs no file any more; Pillow imports its own on first use."""
    import gdcm  # noqa: F401
    import jpeg_ls  # noqa: F401
    import openjpeg  # noqa: F401
    from PIL import Image
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    for uid, syntax in _SYNTAXES.items():
        if syntax.plugin:
            get_decoder(UID(uid))
    for picture_format in ("PNG", "JPEG"):
        with io.BytesIO() as file:
            Image.new("L", (64, 64)).save(file, picture_format)
            with Image.open(file, formats=[picture_format]) as picture:
                picture.load()


def _native(data_set: DataSet, layout: PixelLayout, encoding: Encoding) -> Samples:
    element = data_set.elements[PIXEL_DATA]
    count = layout.rows * layout.columns * layout.samples
    num_bytes = count * layout.bits_allocated // 8
    if len(element.value) < num_bytes:
        raise refusal("truncated")
    order = ">" if encoding.is_big_endian else "<"
    if layout.bits_allocated == 8 and encoding.is_big_endian and element.vr == b"OW":
        # Bytes in big-endian words: each pair is swapped (PS3.5 annex A.3).
        words = np.frombuffer(element.value[: num_bytes + num_bytes % 2], ">u2").astype("<u2")
        raw = words.view(np.uint8)[:count]
    else:
        raw = np.frombuffer(element.value, f"{order}u{layout.bits_allocated // 8}", count)
    raw = raw.astype(raw.dtype.newbyteorder("="), copy=False)
    return _reshape(_stored_bits(raw, layout), layout)


def _stored_bits(raw: NDArray[np.unsignedinteger[Any]], layout: PixelLayout) -> Samples:
    """Drop what lies outside of Bits Stored (old files keep overlays there), and apply the sign."""
    kind = np.dtype(f"{'i' if layout.is_signed else 'u'}{layout.bits_allocated // 8}")
    if layout.bits_stored == layout.bits_allocated:
        return cast(Samples, raw.view(kind))
    # To the top and back: the shift to the right repeats the sign, or fills with zeros.
    up = layout.bits_allocated - 1 - layout.high_bit
    down = layout.bits_allocated - layout.bits_stored
    return cast(Samples, (raw << up).view(kind) >> down)


def _reshape(samples: Samples, layout: PixelLayout) -> Samples:
    if layout.samples == 1:
        return samples.reshape(layout.rows, layout.columns)
    if layout.is_planar:
        return samples.reshape(layout.samples, layout.rows, layout.columns).transpose(1, 2, 0)
    return samples.reshape(layout.rows, layout.columns, layout.samples)


def _encapsulated(frame: bytes, layout: PixelLayout, uid: str, plugin: str) -> Samples:
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    try:
        decoded, _ = get_decoder(UID(uid)).as_array(
            encapsulate([frame], has_bot=False),
            raw=True,
            decoding_plugin=plugin,
            pixel_keyword="PixelData",
            transfer_syntax_uid=UID(uid),
            number_of_frames=1,
            rows=layout.rows,
            columns=layout.columns,
            samples_per_pixel=layout.samples,
            photometric_interpretation="MONOCHROME2",
            bits_allocated=layout.bits_allocated,
            bits_stored=layout.bits_stored,
            pixel_representation=int(layout.is_signed),
        )
    except (ValueError, RuntimeError, TypeError, AttributeError, NotImplementedError, OSError, IndexError):
        # What decoders raise on a damaged frame; their texts stay here.
        raise refusal("bad_pixels") from None
    if decoded.shape != (layout.rows, layout.columns):
        raise refusal("bad_pixels")
    return cast(Samples, decoded)
