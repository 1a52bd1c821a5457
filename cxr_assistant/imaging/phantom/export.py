"""A phantom as a file: a valid DX image for presentation (PS3.3 A.26), or a 16-bit PNG.

Every file says in plain words that it was computed, and names no person.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from cxr_assistant.imaging.phantom.generator import Phantom
from cxr_assistant.imaging.rendering import render_for_people
from cxr_assistant.study import PHANTOM_MARK, ViewPosition

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

__all__ = ["dicom_bytes", "png_bytes"]

_DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


def dicom_bytes(phantom: Phantom) -> bytes:
    """The phantom as a DICOM file with window, spacing, view position and orientation."""
    stream = io.BytesIO()
    _dataset(phantom).save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def png_bytes(phantom: Phantom) -> bytes:
    """The phantom as a 16-bit grayscale PNG, windowed as for people, 0 black."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    marks = PngInfo()
    marks.add_text("Software", PHANTOM_MARK)
    marks.add_text("Comment", "Synthetic radiograph, computed. Not a patient.")
    pixels = (render_for_people(phantom.radiograph) * 65535).round().astype(np.uint16)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", pnginfo=marks)
    return stream.getvalue()


def _dataset(phantom: Phantom) -> FileDataset:
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import generate_uid

    # UIDs come from the seed and what was asked, so that the same phantom is the same file.
    entropy = [str(phantom.seed), phantom.view.value, repr(phantom.findings), phantom.radiograph.digest]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = _DX_FOR_PRESENTATION
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[*entropy, "instance"])
    meta.TransferSyntaxUID = _EXPLICIT_LITTLE_ENDIAN
    dataset = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[str(phantom.seed), "study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[*entropy, "series"])
    _describe_origin(dataset, phantom)
    _describe_view(dataset, phantom)
    _describe_pixels(dataset, phantom)
    return dataset


def _describe_origin(dataset: FileDataset, phantom: Phantom) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.Modality = "DX"
    dataset.Manufacturer = PHANTOM_MARK
    dataset.ImageType = ["DERIVED", "PRIMARY", "SIMULATED"]
    dataset.PatientName = "PHANTOM^SYNTHETIC"
    dataset.PatientID = f"PHANTOM-{phantom.seed}"
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyDate = dataset.StudyTime = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.StudyID = ""
    dataset.SeriesNumber, dataset.InstanceNumber = "1", "1"
    dataset.ImageComments = "Synthetic radiograph, computed. Not a patient."
    dataset.BurnedInAnnotation = "NO"
    dataset.PresentationIntentType = "FOR PRESENTATION"


def _describe_view(dataset: FileDataset, phantom: Phantom) -> None:
    from pydicom.dataset import Dataset

    lateral = phantom.view is ViewPosition.LATERAL
    dataset.BodyPartExamined = "CHEST"
    region = Dataset()  # DX Anatomy Imaged, PS3.3 C.8.11.2: "Chest" in SNOMED CT
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "51185008", "SCT", "Chest"
    dataset.AnatomicRegionSequence = [region]
    dataset.AcquisitionContextSequence = []
    dataset.DetectorType = ""
    dataset.PositionerType = "NONE"  # type 2 in DX Positioning, PS3.3 C.8.11.5
    dataset.ViewPosition = "LL" if lateral else phantom.view.value
    dataset.ImageLaterality = "U"
    dataset.PatientOrientation = list(phantom.radiograph.orientation or ())
    dataset.DistanceSourceToDetector = f"{phantom.acquisition.source_cm * 10:.1f}"


def _describe_pixels(dataset: FileDataset, phantom: Phantom) -> None:
    radiograph = phantom.radiograph
    window = radiograph.windows[0]
    dataset.Rows, dataset.Columns = radiograph.stored.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME1" if radiograph.is_inverted else "MONOCHROME2"
    dataset.PresentationLUTShape = "INVERSE" if radiograph.is_inverted else "IDENTITY"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (
        16,
        radiograph.bits_stored,
        radiograph.bits_stored - 1,
    )
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = "1", "0", "US"
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LOG", -1
    dataset.WindowCenter, dataset.WindowWidth = f"{window.center:.1f}", f"{window.width:.1f}"
    dataset.WindowCenterWidthExplanation = window.explanation
    dataset.VOILUTFunction = window.function.value
    dataset.ImagerPixelSpacing = [f"{value:.4f}" for value in radiograph.pixel_spacing_mm or ()]
    dataset.LossyImageCompression = "00"
    dataset.PixelData = radiograph.stored.astype("<u2").tobytes()
