"""DICOM, PNG and JPEG files made for one test: a drawn thorax and exactly the header that is asked for."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

DX_CLASS = "1.2.840.10008.5.1.4.1.1.1.1"
CAPTURE_CLASS = "1.2.840.10008.5.1.4.1.1.7"


def thorax(height: int = 96, width: int = 80, bits: int = 12) -> NDArray[np.uint16]:
    """A smooth picture that uses most of the range of `bits`, without symmetry."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    gray = 0.15 + 0.5 * y + 0.2 * x - 0.3 * np.exp(-((x - 0.3) ** 2 + (y - 0.5) ** 2) * 20)
    gray += np.random.default_rng(5).normal(0, 0.005, gray.shape)
    stored: NDArray[np.uint16] = (gray.clip(0, 1) * (2**bits - 1)).astype(np.uint16)
    return stored


def data_set(pixels: NDArray[Any], bits: int = 12, **elements: Any) -> Dataset:
    """A DX data set around `pixels` (H, W) or (H, W, 3); `elements` by keyword, None removes one."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = DX_CLASS, generate_uid()
    ds.Modality, ds.BodyPartExamined = "DX", "CHEST"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    ds.BitsAllocated = 8 * pixels.dtype.itemsize
    ds.BitsStored, ds.HighBit = bits, bits - 1
    ds.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    ds.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    for name, value in elements.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    return ds


def file_bytes(ds: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The data set as a DICOM file; its Pixel Data must already be in `transfer_syntax`."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", DX_CLASS)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    if transfer_syntax == ExplicitVRBigEndian and ds.BitsAllocated == 16:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    with io.BytesIO() as file:
        ds.save_as(file, enforce_file_format=True)
        return file.getvalue()


def dicom(pixels: NDArray[Any] | None = None, bits: int = 12, **elements: Any) -> bytes:
    return file_bytes(data_set(thorax() if pixels is None else pixels, bits, **elements))


def encapsulated(
    frame: bytes, pixels: NDArray[Any], bits: int, transfer_syntax: str, **elements: Any
) -> bytes:
    """A file whose Pixel Data is `frame`, split into two fragments as some vendors do."""
    ds = data_set(pixels, bits, **elements)
    ds.PixelData = encapsulate([frame], fragments_per_frame=2)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return file_bytes(ds, transfer_syntax)


def compressed(ds: Dataset, transfer_syntax: str) -> bytes:
    """RLE by pydicom or JPEG-LS by pyjpegls."""
    plugin = "pydicom" if transfer_syntax == RLELossless else "pyjpegls"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    options = {} if transfer_syntax in (RLELossless, JPEGLSLossless) else {"jls_error": 2}
    ds.compress(transfer_syntax, encoding_plugin=plugin, **options)
    return file_bytes(ds, transfer_syntax)


def transcoded(file: bytes, transfer_syntax: str, folder: Path) -> bytes:
    """`file` re-encoded by GDCM, which writes what no other library here writes."""
    import gdcm

    source, target = folder / "source.dcm", folder / "target.dcm"
    source.write_bytes(file)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(transfer_syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return target.read_bytes()


def picture(pixels: NDArray[Any] | Image.Image, picture_format: str = "PNG", **options: Any) -> bytes:
    """`pixels` saved by Pillow."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    with io.BytesIO() as file:
        image.save(file, picture_format, **options)
        return file.getvalue()


def jpeg_frame(pixels: NDArray[np.uint8]) -> bytes:
    return picture(pixels, "JPEG", quality=95)


def jpeg2000_frame(pixels: NDArray[Any], **options: Any) -> bytes:
    return picture(pixels, "JPEG2000", no_jp2=True, **options)


def jpeg_dicom(frame: bytes | None = None, **elements: Any) -> bytes:
    pixels = (thorax() >> 4).astype(np.uint8)
    return encapsulated(frame or jpeg_frame(pixels), pixels, 8, JPEGBaseline8Bit, **elements)


def jpeg2000_dicom(frame: bytes | None = None, **elements: Any) -> bytes:
    pixels = thorax(bits=16)
    return encapsulated(frame or jpeg2000_frame(pixels), pixels, 16, JPEG2000Lossless, **elements)


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """One explicit little-endian element, as raw as a hostile file wants it."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in (b"SQ", b"OB", b"OW", b"UN", b"UT"):
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def raw_file(body: bytes, transfer_syntax: bytes = b"1.2.840.10008.1.2.1\0") -> bytes:
    """A file with the smallest meta header and `body` as its data set."""
    return bytes(128) + b"DICM" + element(0x00020010, b"UI", transfer_syntax) + body
