"""DICOM bytes -> Radiograph: the header whitelist and what each of its elements means.

Knows the modules of a radiograph (PS3.3) and which objects are no radiograph; it must not know how a
container is walked or a frame is decoded. `_WANTED` is the whitelist: nothing else is ever looked at.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_assistant.errors import StudyError
from cxr_assistant.imaging import notices
from cxr_assistant.imaging.codecs import PixelLayout, decode_pixels, transfer_syntax
from cxr_assistant.imaging.elements import (
    PIXEL_DATA,
    DataSet,
    inflate,
    walk_data_set,
    walk_file_meta,
)
from cxr_assistant.imaging.header import Header
from cxr_assistant.imaging.pseudonyms import day_offset, patient_hash
from cxr_assistant.imaging.refusals import check_not_blank, check_size, colour_refusal, refusal
from cxr_assistant.imaging.window_names import clean_explanation
from cxr_assistant.study import (
    PHANTOM_MARK,
    LinearRescale,
    LookupTable,
    Radiograph,
    ViewPosition,
    VoiFunction,
    Window,
)

__all__ = ["read_dicom"]

_TRANSFER_SYNTAX = 0x00020010
_SOP_CLASS, _STUDY_DATE, _ACQUISITION_DATE = 0x00080016, 0x00080020, 0x00080022
_MODALITY, _MANUFACTURER, _PATIENT_ID, _ISSUER = 0x00080060, 0x00080070, 0x00100020, 0x00100021
_BODY_PART, _VIEW_POSITION, _IMAGER_SPACING = 0x00180015, 0x00185101, 0x00181164
_ORIENTATION, _BURNED_IN = 0x00200020, 0x00280301
_SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES = 0x00280002, 0x00280004, 0x00280006, 0x00280008
_ROWS, _COLUMNS, _PIXEL_SPACING = 0x00280010, 0x00280011, 0x00280030
_ALLOCATED, _STORED, _HIGH_BIT, _SIGN = 0x00280100, 0x00280101, 0x00280102, 0x00280103
_CENTER, _WIDTH, _INTERCEPT, _SLOPE = 0x00281050, 0x00281051, 0x00281052, 0x00281053
_WINDOW_NAMES, _VOI_FUNCTION = 0x00281055, 0x00281056
_MODALITY_LUT, _VOI_LUT = 0x00283000, 0x00283010
_LUT_DESCRIPTOR, _LUT_EXPLANATION, _LUT_DATA = 0x00283002, 0x00283003, 0x00283006
_VIEW_CODES, _CODE_VALUE, _LUT_SHAPE = 0x00540220, 0x00080100, 0x20500020

_WANTED = frozenset(
    {_SOP_CLASS, _STUDY_DATE, _ACQUISITION_DATE, _MODALITY, _MANUFACTURER, _PATIENT_ID, _ISSUER, _BODY_PART}
    | {_VIEW_POSITION, _IMAGER_SPACING, _ORIENTATION, _BURNED_IN, _SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES}
    | {_ROWS, _COLUMNS, _PIXEL_SPACING, _ALLOCATED, _STORED, _HIGH_BIT, _SIGN, _CENTER, _WIDTH}
    | {_INTERCEPT, _SLOPE, _WINDOW_NAMES, _VOI_FUNCTION, _MODALITY_LUT, _VOI_LUT, _LUT_DESCRIPTOR}
    | {_LUT_EXPLANATION, _LUT_DATA, _VIEW_CODES, _CODE_VALUE, _LUT_SHAPE, PIXEL_DATA}
)

_RADIOGRAPHS = frozenset({"CR", "DX", "RG"})
_OTHER_MODALITIES = {  # Modality (0008,0060), PS3.3 C.7.3.1.1.1: the only names that a refusal can hold
    "CT": "a CT image",
    "DR": "an object of the retired modality DR",
    "ES": "an endoscopy image",
    "IO": "a dental image",
    "MG": "a mammogram",
    "MR": "an MR image",
    "NM": "a nuclear medicine image",
    "PT": "a PET image",
    "PX": "a panoramic dental image",
    "RF": "a fluoroscopy image",
    "US": "an ultrasound image",
    "XA": "an angiography image",
    "XC": "a photograph",
}
_NO_IMAGES = frozenset({"SR", "DOC", "KO", "PR", "REG", "SEG", "RTPLAN", "RTSTRUCT", "RTDOSE", "AU", "ECG"})
_STORAGE = "1.2.840.10008.5.1.4.1.1"
_RADIOGRAPH_CLASSES = frozenset({f"{_STORAGE}.1", f"{_STORAGE}.1.1", f"{_STORAGE}.1.1.1"})
_CAPTURE_CLASSES = frozenset({f"{_STORAGE}.7", f"{_STORAGE}.7.2", f"{_STORAGE}.7.3"})
_COLOUR = frozenset(
    {"RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422"}
    | {"YBR_ICT", "YBR_RCT", "HSV", "ARGB", "CMYK"}
)
_VIEWS = {
    "PA": ViewPosition.PA,
    "AP": ViewPosition.AP,
    **dict.fromkeys(("LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT"), ViewPosition.LATERAL),
}
_VIEW_CODE_VALUES = {  # CID 4010, in SNOMED CT and in the retired SRT codes
    **dict.fromkeys(("399348003", "R-10206"), ViewPosition.AP),
    **dict.fromkeys(("272479007", "R-10214", "R-40888"), ViewPosition.PA),
    **dict.fromkeys(("399173006", "R-10236", "399198007", "R-10232"), ViewPosition.LATERAL),
    **dict.fromkeys(("399067008", "R-102CD"), ViewPosition.LATERAL),
}
_TIFF_PREAMBLES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # PS3.10 7.1 allows a file to be both


def read_dicom(data: bytes | memoryview, session_key: bytes | None) -> Radiograph:
    """The radiograph in a DICOM file; raises the project's StudyErrors, never anything with file text."""
    file = memoryview(data)
    _check_preamble(bytes(file[:128]))
    meta, start = walk_file_meta(file, frozenset({_TRANSFER_SYNTAX}))
    uid = Header(meta).uid(_TRANSFER_SYNTAX)
    if not uid:
        raise refusal("bad_header")
    syntax = transfer_syntax(uid)
    body = inflate(file[start:]) if syntax.is_deflated else file[start:]
    data_set = walk_data_set(body, _WANTED, syntax.encoding)
    return _radiograph(data_set, Header(data_set, syntax.encoding), uid, session_key)


def _radiograph(data_set: DataSet, header: Header, uid: str, session_key: bytes | None) -> Radiograph:
    remarks = _check_object(data_set, header)
    layout = _pixel_layout(header)
    photometric = header.code(_PHOTOMETRIC)
    modality = _modality(header, data_set)
    windows, bad_windows = _windows(header)
    stored = _to_gray(decode_pixels(data_set, layout, uid), photometric)
    check_not_blank(stored)
    orientation = _orientation(header)
    view = _view(header, data_set, orientation)
    if bad_windows:
        remarks.append(notices.INVALID_WINDOW)
    if orientation and orientation[0].startswith("R") and not view.is_lateral:
        remarks.append(notices.MIRRORED)
    return Radiograph(
        stored=stored,
        bits_stored=layout.bits_stored,
        modality=modality,
        windows=windows,
        voi_luts=_lookup_tables(header, data_set, _VOI_LUT, modality),
        # MONOCHROME1 and INVERSE describe one and the same inversion (PS3.3 C.8.11.3.1.2).
        is_inverted=photometric == "MONOCHROME1" or header.code(_LUT_SHAPE) == "INVERSE",
        view=view,
        orientation=orientation,
        pixel_spacing_mm=_spacing(header),
        day_offset=day_offset(session_key, header.text(_ACQUISITION_DATE) or header.text(_STUDY_DATE)),
        patient_hash=patient_hash(session_key, header.raw(_PATIENT_ID), header.raw(_ISSUER)),
        source="DICOM",
        modality_code=header.code(_MODALITY),
        notices=tuple(remarks),
        is_marked_phantom=header.text(_MANUFACTURER) == PHANTOM_MARK,
    )


def _check_preamble(preamble: bytes) -> None:
    """The 128 free bytes may be empty or TIFF; anything else can be a program or a web page as well."""
    if preamble.startswith(_TIFF_PREAMBLES) or len(set(preamble)) == 1:
        return
    if preamble.startswith((b"MZ", b"\x7fELF", b"#!", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe")):
        raise refusal("bad_type", "The file also looks like an executable and was refused.")
    raise refusal("bad_type", "The file header is not a valid DICOM preamble.")


def _check_object(data_set: DataSet, header: Header) -> list[str]:
    """Raise unless this is one radiograph; return what the person should know about its kind."""
    modality, sop_class = header.code(_MODALITY), header.uid(_SOP_CLASS)
    has_pixels = data_set.fragments is not None or PIXEL_DATA in data_set.elements
    if not has_pixels or modality in _NO_IMAGES:
        raise refusal("not_image")
    if modality in _OTHER_MODALITIES:
        found = f"This looks like {_OTHER_MODALITIES[modality]}; only radiographs (CR, DX, RG) are supported."
        raise refusal("wrong_modality", found)
    if modality not in _RADIOGRAPHS and modality != "OT":
        raise refusal("wrong_modality")
    if sop_class and sop_class not in _RADIOGRAPH_CLASSES | _CAPTURE_CLASSES:
        is_image = sop_class.startswith(f"{_STORAGE}.")
        raise refusal("wrong_modality" if is_image else "not_image")
    remarks = []
    if sop_class in _CAPTURE_CLASSES:
        remarks.append(notices.SECONDARY_CAPTURE)
    elif modality == "OT":
        remarks.append(notices.OTHER_MODALITY)
    if header.code(_BURNED_IN) == "YES":
        remarks.append(notices.BURNED_IN)
    if header.code(_BODY_PART) not in {"", "CHEST", "THORAX", "LUNG", "TSPINE", "CHESTABDOMEN"}:
        remarks.append(notices.OTHER_BODY_PART)
    return remarks


def _pixel_layout(header: Header) -> PixelLayout:
    rows, columns = header.number(_ROWS), header.number(_COLUMNS)
    check_size(columns, rows)
    frames = header.text(_FRAMES)
    if frames and not frames.isdecimal():
        raise refusal("bad_header")
    if frames and int(frames) != 1:
        raise refusal("multi_frame")
    samples = header.number(_SAMPLES, 1)
    allocated, stored = header.number(_ALLOCATED), header.number(_STORED)
    high_bit, sign = header.number(_HIGH_BIT, stored - 1), header.number(_SIGN, 0)
    _check_photometric(header.code(_PHOTOMETRIC), samples)
    if allocated in (1, 32, 64):
        raise refusal("unsupported", f"Pixels of {allocated} bits are not supported; 8 and 16 bits are.")
    is_possible = allocated in (8, 16) and 1 <= stored <= high_bit + 1 <= allocated and sign in (0, 1)
    if not is_possible:
        raise refusal("bad_header")
    planar = bool(header.number(_PLANAR, 0))
    return PixelLayout(rows, columns, samples, allocated, stored, high_bit, bool(sign), planar)


def _check_photometric(photometric: str, samples: int) -> None:
    if photometric not in _COLOUR | {"MONOCHROME1", "MONOCHROME2"}:
        raise refusal("bad_header")
    expected = 3 if photometric in _COLOUR - {"PALETTE COLOR"} else 1
    if samples != expected:
        raise refusal("bad_header")
    if photometric in _COLOUR - {"RGB"}:
        raise colour_refusal()


def _to_gray(samples: NDArray[np.integer[Any]], photometric: str) -> NDArray[np.integer[Any]]:
    """Gray that was saved as RGB is gray; true colour is refused."""
    if photometric != "RGB":
        return samples
    red, green, blue = samples[..., 0], samples[..., 1], samples[..., 2]
    if not (np.array_equal(red, green) and np.array_equal(green, blue)):
        raise colour_refusal()
    return np.ascontiguousarray(green)


def _modality(header: Header, data_set: DataSet) -> LinearRescale | LookupTable:
    tables = _lookup_tables(header, data_set, _MODALITY_LUT, None)
    if tables:
        return tables[0]
    slope, intercept = header.decimals(_SLOPE) or [1.0], header.decimals(_INTERCEPT) or [0.0]
    if not 1e-9 < abs(slope[0]) < 1e9 or not abs(intercept[0]) < 1e9:
        raise refusal("bad_header")
    return LinearRescale(slope[0], intercept[0])


def _windows(header: Header) -> tuple[tuple[Window, ...], bool]:
    """The windows that are valid (PS3.3 C.11.2.1.2), and whether one was not."""
    try:
        centers, widths = header.decimals(_CENTER), header.decimals(_WIDTH)
    except StudyError:
        return (), True
    name = header.code(_VOI_FUNCTION) or "LINEAR"
    function = VoiFunction(name) if name in set(VoiFunction) else VoiFunction.LINEAR
    explanations = [clean_explanation(text) for text in header.text(_WINDOW_NAMES).split("\\")]
    windows = [
        Window(center, width, function, explanation)
        for center, width, explanation in zip(
            centers, widths, explanations + [""] * len(centers), strict=False
        )
        if (width >= 1 or (width > 0 and function is not VoiFunction.LINEAR)) and abs(center) < 1e9 > width
    ]
    return tuple(windows), len(windows) != max(len(centers), len(widths))


def _lookup_tables(
    header: Header, data_set: DataSet, tag: int, modality: LinearRescale | LookupTable | None
) -> tuple[LookupTable, ...]:
    items = data_set.items.get(tag, [])
    return tuple(_lookup_table(Header(item, header.encoding), header, modality) for item in items)


def _lookup_table(item: Header, header: Header, modality: LinearRescale | LookupTable | None) -> LookupTable:
    """PS3.3 C.11.1.1 and C.11.2.1.1: entries (0 means 65,536), first input value, bits of an entry."""
    raw, data = item.raw(_LUT_DESCRIPTOR), item.raw(_LUT_DATA)
    if len(raw) != 6:
        raise refusal("bad_header")
    order = ">" if header.encoding.is_big_endian else "<"
    entries, first, bits = struct.unpack(f"{order}3H", raw)
    entries = entries or 65_536
    # "US or SS": explicit files say it, implicit ones follow the sign of the table's input.
    input_is_signed = header.number(_SIGN, 0) == 1
    if isinstance(modality, LinearRescale):
        input_is_signed = input_is_signed or modality.intercept < 0 or modality.slope < 0
    if isinstance(modality, LookupTable):
        input_is_signed = False
    vr = item.vr(_LUT_DESCRIPTOR)
    if (vr == b"SS" or (vr != b"US" and input_is_signed)) and first >= 32_768:
        first -= 65_536
    if not 1 <= bits <= 16:
        raise refusal("bad_header")
    if len(data) >= 2 * entries:
        values = np.frombuffer(data, f"{order}u2", entries).astype(np.uint16)
    elif bits <= 8 and len(data) >= entries:
        values = np.frombuffer(data, np.uint8, entries).astype(np.uint16)
    else:
        raise refusal("bad_header")
    return LookupTable(first, values, bits, clean_explanation(item.text(_LUT_EXPLANATION)))


def _view(header: Header, data_set: DataSet, orientation: tuple[str, str] | None) -> ViewPosition:
    """View Position, else its code, else lateral when the rows run from front to back."""
    view = _VIEWS.get(header.code(_VIEW_POSITION), ViewPosition.UNKNOWN)
    if view is not ViewPosition.UNKNOWN:
        return view
    for item in data_set.items.get(_VIEW_CODES, []):
        code = Header(item).text(_CODE_VALUE)
        if code in _VIEW_CODE_VALUES:
            return _VIEW_CODE_VALUES[code]
    if not header.code(_VIEW_POSITION) and orientation and orientation[0][0] in "AP":
        return ViewPosition.LATERAL if orientation[1][0] in "FH" else ViewPosition.UNKNOWN
    return ViewPosition.UNKNOWN


def _orientation(header: Header) -> tuple[str, str] | None:
    parts = [part.strip() for part in header.text(_ORIENTATION).split("\\")]
    is_valid = len(parts) == 2 and all(1 <= len(part) <= 3 and set(part) <= set("APRLHF") for part in parts)
    return (parts[0], parts[1]) if is_valid else None


def _spacing(header: Header) -> tuple[float, float] | None:
    """Pixel Spacing, else Imager Pixel Spacing (at the detector); None unless it is plausible."""
    for tag in (_PIXEL_SPACING, _IMAGER_SPACING):
        try:
            spacing = header.decimals(tag)
        except StudyError:
            continue
        if len(spacing) == 2 and all(0.01 <= value <= 10.0 for value in spacing):
            return spacing[0], spacing[1]
    return None
