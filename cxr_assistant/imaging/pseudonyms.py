"""Who and when, made meaningless outside of one session.

Knows keyed hashing and nothing about DICOM. What comes out compares films of one session; without the
session's key it says neither who the patient is nor on which day the film was taken.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import date

__all__ = ["day_offset", "patient_hash"]

_BASE_SPREAD_DAYS = 73_000  # the base date lies somewhere in two centuries


def patient_hash(session_key: bytes | None, patient_id: bytes, issuer: bytes) -> str | None:
    """HMAC-SHA256 of Patient ID and its issuer; None without a key or an identifier."""
    identifier = patient_id.strip(b" \0")
    if not session_key or not identifier:
        return None
    message = b"patient\0" + identifier + b"\0" + issuer.strip(b" \0")
    return hmac.new(session_key, message, hashlib.sha256).hexdigest()


def day_offset(session_key: bytes | None, yyyymmdd: str) -> int | None:
    """Days from a date that only the key knows; None without a key or a valid date."""
    if not session_key or len(yyyymmdd) != 8 or not (yyyymmdd.isascii() and yyyymmdd.isdecimal()):
        return None
    try:
        day = date(int(yyyymmdd[:4]), int(yyyymmdd[4:6]), int(yyyymmdd[6:]))
    except ValueError:
        return None
    digest = hmac.new(session_key, b"base date", hashlib.sha256).digest()
    return day.toordinal() - int.from_bytes(digest[:8], "big") % _BASE_SPREAD_DAYS
