"""What the reader makes of a DICOM file: pixels, transforms, facts, and nothing else."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from cxr_assistant.errors import UnsupportedTransferSyntax
from cxr_assistant.imaging import notices
from cxr_assistant.imaging.read import read_radiograph
from cxr_assistant.imaging.rendering import modality_values, render_for_people
from cxr_assistant.study import LinearRescale, LookupTable, Radiograph, ViewPosition, VoiFunction, Window
from tests.imaging import builders

KEY = b"k" * 32
THORAX = builders.thorax()


def read(**elements: Any) -> Radiograph:
    return read_radiograph(builders.dicom(**elements), session_key=KEY)


@pytest.mark.parametrize(
    "uid",
    [
        pytest.param(ImplicitVRLittleEndian, id="implicit"),
        pytest.param(ExplicitVRLittleEndian, id="explicit"),
        pytest.param(ExplicitVRBigEndian, id="big-endian"),
        pytest.param(DeflatedExplicitVRLittleEndian, id="deflated"),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint8])
def test_native_pixels_are_equal(uid: str, dtype: type) -> None:
    bits = 8 if dtype is np.uint8 else 12
    pixels = builders.thorax(bits=bits).astype(dtype)
    if dtype is np.int16:
        pixels -= 2000
    radiograph = read_radiograph(builders.file_bytes(builders.data_set(pixels, bits), uid))
    np.testing.assert_array_equal(radiograph.stored, pixels)
    assert radiograph.stored.dtype == dtype


def test_8_bit_pixels_in_big_endian_words_are_put_in_order() -> None:
    pixels = builders.thorax(bits=8).astype(np.uint8)
    ds = builders.data_set(pixels, 8)
    ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    ds["PixelData"].VR = "OW"
    # pydicom swaps the bytes of no OW element; so what is written is what PS3.5 A.3 asks for.
    np.testing.assert_array_equal(
        read_radiograph(builders.file_bytes(ds, ExplicitVRBigEndian)).stored, pixels
    )


@pytest.mark.requirement("U6", "U11")
@pytest.mark.parametrize("uid", [RLELossless, JPEGLSLossless], ids=["rle", "jpeg-ls"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_frames_are_equal(uid: str, bits: int) -> None:
    pixels = builders.thorax(bits=bits).astype(np.uint8 if bits == 8 else np.uint16)
    radiograph = read_radiograph(builders.compressed(builders.data_set(pixels, bits), uid))
    np.testing.assert_array_equal(radiograph.stored, pixels)


@pytest.mark.requirement("U6", "U11")
@pytest.mark.parametrize(
    "uid",
    [
        pytest.param(JPEGLossless, id="jpeg-lossless-57"),
        pytest.param(JPEGLosslessSV1, id="jpeg-lossless-70"),
        pytest.param(JPEGLSLossless, id="jpeg-ls"),
        pytest.param(JPEG2000Lossless, id="jpeg-2000"),
        pytest.param(RLELossless, id="rle"),
    ],
)
def test_frames_that_gdcm_wrote_are_equal(uid: str, tmp_path: Path) -> None:
    file = builders.transcoded(builders.dicom(THORAX), uid, tmp_path)
    np.testing.assert_array_equal(read_radiograph(file).stored, THORAX)


def test_jpeg_2000_of_16_bits_is_equal() -> None:
    np.testing.assert_array_equal(read_radiograph(builders.jpeg2000_dicom()).stored, builders.thorax(bits=16))


def test_signed_rle_keeps_its_sign() -> None:
    pixels = THORAX.astype(np.int16) - 2048
    file = builders.compressed(builders.data_set(pixels, 12), RLELossless)
    np.testing.assert_array_equal(read_radiograph(file).stored, pixels)


def test_lossy_frames_are_near(tmp_path: Path) -> None:
    eight = (THORAX >> 4).astype(np.uint8)
    wide = builders.thorax(bits=16)
    frame = builders.jpeg2000_frame(wide, irreversible=True, quality_mode="rates", quality_layers=[4])
    lossy = {
        "baseline": (builders.jpeg_dicom(), eight, 4),
        "extended-12-bit": (builders.transcoded(builders.dicom(), JPEGExtended12Bit, tmp_path), THORAX, 4),
        "near-lossless": (builders.compressed(builders.data_set(THORAX), JPEGLSNearLossless), THORAX, 2),
        "jpeg-2000": (builders.encapsulated(frame, wide, 16, JPEG2000), wide, 1500),
    }
    for name, (file, pixels, tolerance) in lossy.items():
        difference = np.abs(read_radiograph(file).stored.astype(int) - pixels.astype(int)).max()
        assert difference <= tolerance, name


def test_bits_outside_of_bits_stored_are_dropped() -> None:
    overlay = THORAX | 0x8000
    np.testing.assert_array_equal(read(pixels=overlay).stored, THORAX)
    np.testing.assert_array_equal(read(pixels=THORAX << 4, HighBit=15).stored, THORAX)


def test_a_monochrome1_twin_is_shown_like_its_monochrome2_twin() -> None:
    twin = read(pixels=4095 - THORAX, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(render_for_people(twin), render_for_people(read()), atol=1e-6)


@pytest.mark.requirement("U6")
@pytest.mark.parametrize(
    ("photometric", "shape", "is_inverted"),
    [
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", None, False),
    ],
)
def test_polarity_is_one_inversion_whoever_asks_for_it(
    photometric: str, shape: str | None, is_inverted: bool
) -> None:
    elements = {"PresentationLUTShape": shape} if shape else {}
    assert read(PhotometricInterpretation=photometric, **elements).is_inverted is is_inverted


def lut(first: int, values: Any, bits: int = 16, name: str = "", vr: str = "US") -> Sequence:
    item = Dataset()
    item.add_new(0x00283002, vr, [len(values) % 65536, first, bits])
    item.LUTExplanation = name
    item.add_new(0x00283006, "OW", np.asarray(values, "<u2").tobytes())
    return Sequence([item])


def test_slope_and_intercept_are_read_with_their_sign() -> None:
    radiograph = read(RescaleSlope="-2.5", RescaleIntercept="1E2", RescaleType="US")
    assert radiograph.modality == LinearRescale(-2.5, 100.0)
    np.testing.assert_array_equal(modality_values(radiograph), THORAX * np.float32(-2.5) + 100)


@pytest.mark.parametrize("uid", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_modality_lut_wins_over_slope_and_intercept(uid: str) -> None:
    squares = np.arange(4096) ** 2 // 256
    values = squares.astype(">u2").view("<u2") if uid == ExplicitVRBigEndian else squares
    ds = builders.data_set(THORAX, ModalityLUTSequence=lut(0, values), RescaleSlope=3, RescaleIntercept=1)
    radiograph = read_radiograph(builders.file_bytes(ds, uid))
    np.testing.assert_array_equal(modality_values(radiograph), squares[THORAX])


def test_a_lut_over_signed_pixels_begins_below_zero() -> None:
    pixels = THORAX.astype(np.int16) - 2048
    radiograph = read(pixels=pixels, ModalityLUTSequence=lut(-2048, np.arange(4096), vr="SS"))
    np.testing.assert_array_equal(modality_values(radiograph), THORAX)


def test_a_voi_lut_of_65536_entries_is_read() -> None:
    radiograph = read(VOILUTSequence=lut(0, np.arange(65536), name="NORMAL"), WindowCenter=1, WindowWidth=2)
    assert (len(radiograph.voi_luts[0].values), radiograph.voi_luts[0].explanation) == (65536, "NORMAL")
    np.testing.assert_allclose(render_for_people(radiograph), THORAX / 65535, atol=1e-6)


def test_several_windows_keep_their_order_function_and_names() -> None:
    radiograph = read(
        WindowCenter=["2000", "1000.5"],
        WindowWidth=["4000", "300"],
        VOILUTFunction="SIGMOID",
        WindowCenterWidthExplanation=["NORMAL", "HARDER"],
    )
    assert radiograph.windows == (
        Window(2000, 4000, VoiFunction.SIGMOID, "NORMAL"),
        Window(1000.5, 300, VoiFunction.SIGMOID, "HARDER"),
    )


@pytest.mark.parametrize("function", list(VoiFunction))
def test_slope_window_and_polarity_work_together(function: VoiFunction) -> None:
    radiograph = read(
        RescaleSlope="0.5",
        RescaleIntercept="-10",
        WindowCenter="900",
        WindowWidth="1200",
        VOILUTFunction=function.value,
        PhotometricInterpretation="MONOCHROME1",
    )
    x = THORAX * 0.5 - 10
    shown = {
        VoiFunction.LINEAR: np.clip((x - 899.5) / 1199 + 0.5, 0, 1),
        VoiFunction.LINEAR_EXACT: np.clip((x - 900) / 1200 + 0.5, 0, 1),
        VoiFunction.SIGMOID: 1 / (1 + np.exp(-4 * (x - 900) / 1200)),
    }[function]
    np.testing.assert_allclose(render_for_people(radiograph), 1 - shown, atol=1e-6)


@pytest.mark.parametrize(("center", "width"), [("100", "0"), ("100", "-5"), (["1", "2"], "4")])
def test_an_invalid_window_is_left_out_and_said(center: Any, width: str) -> None:
    radiograph = read(WindowCenter=center, WindowWidth=width)
    assert notices.INVALID_WINDOW in radiograph.notices
    assert all(window.width >= 1 for window in radiograph.windows)


def view_code(value: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "view"
    return Sequence([item])


@pytest.mark.parametrize(
    ("elements", "view"),
    [
        ({"ViewPosition": "PA"}, ViewPosition.PA),
        ({"ViewPosition": "AP"}, ViewPosition.AP),
        ({"ViewPosition": "LL"}, ViewPosition.LATERAL),
        ({"ViewPosition": "RL"}, ViewPosition.LATERAL),
        ({"ViewPosition": "LLD"}, ViewPosition.UNKNOWN),
        ({"ViewPosition": ""}, ViewPosition.UNKNOWN),
        ({"ViewCodeSequence": view_code("399348003")}, ViewPosition.AP),
        ({"ViewCodeSequence": view_code("R-10214")}, ViewPosition.PA),
        ({"ViewCodeSequence": view_code("399173006")}, ViewPosition.LATERAL),
        ({"PatientOrientation": ["A", "F"]}, ViewPosition.LATERAL),
        ({"PatientOrientation": ["L", "F"]}, ViewPosition.UNKNOWN),
        ({}, ViewPosition.UNKNOWN),
    ],
)
def test_the_view_comes_from_coded_elements(elements: dict[str, Any], view: ViewPosition) -> None:
    assert read(**elements).view is view


def test_orientation_and_spacing_are_kept_when_they_make_sense() -> None:
    radiograph = read(PatientOrientation=["L", "F"], ImagerPixelSpacing=["0.14", "0.15"])
    assert (radiograph.orientation, radiograph.pixel_spacing_mm) == (("L", "F"), (0.14, 0.15))
    assert read(PixelSpacing=["0", "0"]).pixel_spacing_mm is None


def test_a_mirrored_film_is_said() -> None:
    assert notices.MIRRORED in read(PatientOrientation=["R", "F"]).notices


def test_days_between_films_survive_but_dates_do_not() -> None:
    first, second = read(StudyDate="20240101"), read(StudyDate="20240111", AcquisitionDate="20240112")
    assert second.day_offset - first.day_offset == 11  # type: ignore[operator]
    other = read_radiograph(builders.dicom(StudyDate="20240101"), session_key=b"x" * 32)
    assert other.day_offset != first.day_offset
    assert read(StudyDate="").day_offset is None


def test_a_patient_is_recognised_within_a_session_only() -> None:
    one = read(PatientID="1234", IssuerOfPatientID="A")
    assert one.patient_hash == read(PatientID="1234 ", IssuerOfPatientID="A").patient_hash
    others = [
        read(PatientID="1235", IssuerOfPatientID="A"),
        read(PatientID="1234", IssuerOfPatientID="B"),
        read_radiograph(builders.dicom(PatientID="1234", IssuerOfPatientID="A"), session_key=b"x" * 32),
    ]
    assert len({one.patient_hash, *(other.patient_hash for other in others)}) == 4
    assert read().patient_hash is None


def test_without_a_session_key_nothing_points_at_the_patient() -> None:
    radiograph = read_radiograph(builders.dicom(PatientID="1234", StudyDate="20240101"))
    assert (radiograph.patient_hash, radiograph.day_offset) == (None, None)


@pytest.mark.requirement("P1")
def test_no_text_of_the_file_survives() -> None:
    """A marker in every text element of the file, nested and private ones too: none comes out."""
    ds = builders.data_set(THORAX)
    for keyword in (
        "PatientName PatientID OtherPatientIDs IssuerOfPatientID InstitutionName Manufacturer "
        "StudyDescription SeriesDescription ProtocolName ImageComments AccessionNumber StudyID "
        "ReferringPhysicianName "
        "PatientAddress StationName WindowCenterWidthExplanation DeviceSerialNumber PatientComments "
        "AdditionalPatientHistory OperatorsName RequestedProcedureDescription"
    ).split():
        setattr(ds, keyword, "CANARY77")
    ds.WindowCenter, ds.WindowWidth = 2000, 4000
    ds.VOILUTSequence = lut(0, np.arange(4096), name="CANARY77")
    ds.private_block(0x0009, "CANARY77", create=True).add_new(1, "LO", "CANARY77")
    radiograph = read_radiograph(builders.file_bytes(ds), session_key=KEY)
    facts = {f.name: getattr(radiograph, f.name) for f in fields(radiograph) if f.name != "stored"}
    assert "CANARY" not in repr(facts)
    assert b"CANARY" not in pickle.dumps(radiograph)


@pytest.mark.parametrize(
    ("manufacturer", "is_phantom"), [("CXR Assistant phantom generator", True), ("X", False)]
)
def test_phantoms_of_this_project_are_recognised(manufacturer: str, is_phantom: bool) -> None:
    assert read(Manufacturer=manufacturer).is_marked_phantom is is_phantom


@pytest.mark.requirement("U12", "P3")
@pytest.mark.parametrize(
    ("elements", "notice"),
    [
        ({"SOPClassUID": builders.CAPTURE_CLASS, "Modality": "OT"}, notices.SECONDARY_CAPTURE),
        ({"SOPClassUID": builders.CAPTURE_CLASS, "Modality": "CR"}, notices.SECONDARY_CAPTURE),
        ({"Modality": "OT"}, notices.OTHER_MODALITY),
        ({"BurnedInAnnotation": "YES"}, notices.BURNED_IN),
        ({"BodyPartExamined": "FOOT"}, notices.OTHER_BODY_PART),
    ],
)
def test_what_is_odd_is_read_and_said(elements: dict[str, Any], notice: str) -> None:
    assert notice in read(**elements).notices


@pytest.mark.requirement("U12")
@pytest.mark.parametrize("modality", ["CR", "DX", "RG"])
def test_radiographs_are_read_without_remarks(modality: str) -> None:
    radiograph = read(Modality=modality)
    assert (radiograph.modality_code, radiograph.notices, radiograph.source) == (modality, (), "DICOM")


def test_gray_saved_as_rgb_is_gray() -> None:
    gray = (THORAX >> 4).astype(np.uint8)
    pixels = np.dstack([gray] * 3)
    capture: dict[str, Any] = {"SOPClassUID": builders.CAPTURE_CLASS, "Modality": "OT"}
    np.testing.assert_array_equal(read(pixels=pixels, bits=8, **capture).stored, gray)
    planar = read(pixels=pixels, bits=8, PixelData=gray.tobytes() * 3, PlanarConfiguration=1, **capture)
    np.testing.assert_array_equal(planar.stored, gray)


@pytest.mark.parametrize("transfer_syntax", [JPEGBaseline8Bit, RLELossless], ids=["jpeg", "rle"])
def test_compressed_rgb_is_refused_as_colour(transfer_syntax: str) -> None:
    pixels = np.dstack([(THORAX >> 4).astype(np.uint8)] * 3)
    if transfer_syntax == RLELossless:
        file = builders.compressed(builders.data_set(pixels, 8), transfer_syntax)
    else:
        file = builders.encapsulated(builders.picture(pixels, "JPEG"), pixels, 8, transfer_syntax)
    with pytest.raises(UnsupportedTransferSyntax, match="Colour DICOM images are not supported"):
        read_radiograph(file)


def test_tables_cross_the_process_border_whole() -> None:
    radiograph = read(
        ModalityLUTSequence=lut(0, np.arange(4096)[::-1]), VOILUTSequence=lut(5, np.arange(100), bits=8)
    )
    assert isinstance(radiograph.modality, LookupTable)
    assert radiograph.modality.values[0] == 4095
    assert (radiograph.voi_luts[0].first_mapped, radiograph.voi_luts[0].bits) == (5, 8)


@pytest.mark.parametrize("make", [builders.dicom, builders.jpeg_dicom, builders.jpeg2000_dicom])
def test_reading_twice_gives_one_film(make: Callable[[], bytes]) -> None:
    file = make()
    assert read_radiograph(file).digest == read_radiograph(file).digest
