"""How a radiograph, or the reason why there is none, leaves the decoding child.

JSON for facts and raw bytes for pixels: a child that was taken over by a file can send wrong pixels, but
no object, no code and no text beyond one short line (which is why nothing here is a pickle).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from cxr_assistant import errors
from cxr_assistant.errors import StudyError
from cxr_assistant.imaging.notices import NOTICE_IDS
from cxr_assistant.imaging.refusals import check_size, refusal
from cxr_assistant.imaging.window_names import clean_explanation
from cxr_assistant.study import LinearRescale, LookupTable, Radiograph, ViewPosition, VoiFunction, Window

__all__ = ["MAX_BLOB_BYTES", "MAX_FACTS_BYTES", "pack_error", "pack_facts", "pack_pixels", "unpack"]

MAX_FACTS_BYTES = 1 << 16
MAX_BLOB_BYTES = 100 << 20  # 40 million 16-bit pixels and a few tables
_MAX_LINE = 200
_MAX_BITS = 16
_MAX_DAYS = 4_000_000  # any two dates, and the spread of the base date
_DTYPES = ("uint8", "int8", "uint16", "int16")
_NOTICES = {identifier: sentence for sentence, identifier in NOTICE_IDS.items()}
_PLAIN_FIELDS = {  # copied as they are, after a look at their type
    "bits_stored": int,
    "is_inverted": bool,
    "day_offset": int,
    "patient_hash": str,
    "source": str,
    "modality_code": str,
    "is_marked_phantom": bool,
}
_MAY_BE_NONE = frozenset({"day_offset", "patient_hash", "modality_code"})


def pack_pixels(radiograph: Radiograph) -> list[memoryview]:
    """What lies in the shared memory: first the pixels, then the tables."""
    arrays = [radiograph.stored, *(table.values for table in _packed_tables(radiograph))]
    return [np.ascontiguousarray(array).data.cast("B") for array in arrays]


def pack_facts(radiograph: Radiograph) -> bytes:
    """All else that is known of `radiograph`."""
    r = radiograph
    facts = {
        **{name: getattr(r, name) for name in _PLAIN_FIELDS},
        "shape": r.stored.shape,
        "dtype": r.stored.dtype.name,
        "rescale": None if isinstance(r.modality, LookupTable) else [r.modality.slope, r.modality.intercept],
        "tables": [[t.first_mapped, len(t.values), t.bits, t.explanation] for t in _packed_tables(r)],
        "windows": [[w.center, w.width, w.function.value, w.explanation] for w in r.windows],
        "view": r.view.value,
        "orientation": r.orientation,
        "spacing": r.pixel_spacing_mm,
        "notices": [NOTICE_IDS[notice] for notice in r.notices],
    }
    return json.dumps(facts).encode()


def _packed_tables(radiograph: Radiograph) -> list[LookupTable]:
    tables = (radiograph.modality, *radiograph.voi_luts)
    return [table for table in tables if isinstance(table, LookupTable)]


def pack_error(error: StudyError) -> bytes:
    return json.dumps({"error": [type(error).__name__, error.code, error.message, error.hint]}).encode()


def unpack(facts: bytes, blob: bytes) -> Radiograph:
    """The radiograph that a child packed; raises the StudyError that it packed instead.

    Nothing that arrives is believed: whatever does not fit raises `internal`.
    """
    try:
        found = json.loads(facts)
        if "error" in found:
            error = _error(*found["error"])
        else:
            return _radiograph(found, memoryview(blob))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise refusal("internal") from None
    raise error


def _error(name: str, code: str, message: str, hint: str) -> StudyError:
    kind = getattr(errors, name)
    lines = (code, message, hint)
    if not (isinstance(kind, type) and issubclass(kind, StudyError)):
        raise TypeError(name)
    if not all(isinstance(line, str) and line.isprintable() and len(line) <= _MAX_LINE for line in lines):
        raise ValueError(name)
    return kind(message, hint=hint, code=code)


def _radiograph(found: Mapping[str, Any], blob: memoryview) -> Radiograph:
    plain = _plain(found)
    height, width = found["shape"]
    check_size(width, height)
    dtype = np.dtype(_DTYPES[_DTYPES.index(found["dtype"])])
    end = height * width * dtype.itemsize
    stored = np.frombuffer(blob[:end], dtype).reshape(height, width)
    tables = list(_tables(found["tables"], blob[end:]))
    rescale = found["rescale"]
    modality = LinearRescale(*_floats(rescale)) if rescale else tables.pop(0)
    return Radiograph(
        stored=stored,
        modality=modality,
        voi_luts=tuple(tables),
        windows=tuple(
            Window(*_floats([center, width]), VoiFunction(function), clean_explanation(name))
            for center, width, function, name in found["windows"]
        ),
        view=ViewPosition(found["view"]),
        orientation=_orientation(found["orientation"]),
        pixel_spacing_mm=_floats(found["spacing"]) if found["spacing"] else None,
        notices=tuple(_NOTICES[identifier] for identifier in found["notices"]),
        **plain,
    )


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {
        name: None if found[name] is None and name in _MAY_BE_NONE else _typed(found[name], kind)
        for name, kind in _PLAIN_FIELDS.items()
    }
    if plain["source"] not in ("DICOM", "PNG", "JPEG"):
        raise ValueError("source")
    _in_range(plain["bits_stored"], 1, _MAX_BITS)
    _in_range(plain["day_offset"] or 0, -_MAX_DAYS, _MAX_DAYS)
    for name, pattern in (("modality_code", r"[A-Z]{2}"), ("patient_hash", r"[0-9a-f]{64}")):
        if plain[name] is not None and not re.fullmatch(pattern, plain[name]):
            raise ValueError(name)
    return plain


def _tables(rows: Iterable[list[Any]], blob: memoryview) -> Iterable[LookupTable]:
    start = 0
    for first, count, bits, name in rows:
        end = start + 2 * _in_range(count, 1, 1 << 16)
        values = np.frombuffer(blob[start:end], np.uint16, count)
        yield LookupTable(
            _in_range(first, -(1 << 15), (1 << 16) - 1),
            values,
            _in_range(bits, 1, _MAX_BITS),  # becomes a power of two wherever the table is shown
            clean_explanation(name),
        )
        start = end


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(kind.__name__)
    return value


def _in_range(value: Any, low: int, high: int) -> int:
    if not low <= _typed(value, int) <= high:
        raise ValueError("out of range")
    return int(value)


def _floats(values: Iterable[Any]) -> tuple[float, float]:
    first, second = (float(value) for value in values)
    if not (math.isfinite(first) and math.isfinite(second)):
        raise ValueError("not finite")
    return first, second


def _orientation(value: Any) -> tuple[str, str] | None:
    if value is None:
        return None
    row, column = value
    if not re.fullmatch(r"[APRLHF]{1,3}/[APRLHF]{1,3}", f"{row}/{column}"):
        raise ValueError("orientation")
    return row, column
