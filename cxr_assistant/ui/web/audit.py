"""The audit log of a hospital: who, when, what kind of action; no study, no picture, no word of a chat.

Each line is JSON and holds a digest of the line before it, so that a changed or missing line
shows.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

from cxr_assistant.errors import SettingsError

__all__ = ["ACTIONS", "AuditLog", "check_audit_log"]

_FIRST = "0" * 64

ACTIONS = {
    "send": "ask",
    "retry": "ask",
    "edit": "ask",
    "answer": "ask",
    "add": "add film",
    "example": "open example",
    "make": "make phantom",
    "demonstrate": "make phantom",
    "clear": "new study",
    "remove": "remove film",
    "choose": "choose model",
    "fetch": "fetch model",
    "draft_findings": "ask by program",
    "ask": "ask by program",
    "classify_view": "ask by program",
    "locate": "ask by program",
    "compare_prior": "ask by program",
    "mcp": "message by program",
}
"""The kinds of action, by the name of the function that a page or a program calls; others are not logged."""


class AuditLog:
    """Appends to a file that only its owner reads; one line is one write."""

    def __init__(self, path: Path) -> None:
        """Raises SettingsError when the file cannot be written or its chain is broken."""
        self._lock = threading.Lock()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            _drop_unfinished_line(self._file)
            self._last = check_audit_log(path)
        except OSError as error:
            raise SettingsError(
                "The audit log cannot be written.", hint="Point CXR_AUDIT_LOG at a file in a writable folder."
            ) from error

    def note(self, action: str, *, user: str = "", outcome: str = "ok", visit: str = "") -> None:
        """Write one line. `visit` is a digest that ties the lines of one browser together."""
        with self._lock:
            entry = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "user": user,
                "action": action,
                "outcome": outcome,
                "visit": visit[:12],
                "before": self._last,
            }
            line = json.dumps(entry, ensure_ascii=True).encode() + b"\n"
            os.write(self._file, line)
            self._last = _digest(line)

    def close(self) -> None:
        os.close(self._file)


def check_audit_log(path: Path) -> str:
    """The digest of the last line of an unbroken log; raises SettingsError naming the first broken line."""
    last = _FIRST
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                is_whole = json.loads(line)["before"] == last
            except (ValueError, KeyError, TypeError):
                is_whole = False
            if not is_whole:
                raise SettingsError(
                    f"Line {number} of the audit log does not follow from the line before it.",
                    hint="Somebody changed the file, or it was cut off: keep it, and begin a new one.",
                )
            last = _digest(line)
    return last


def _drop_unfinished_line(file: int) -> None:
    """What a crash cut off in the middle of a write was never said."""
    size = os.fstat(file).st_size
    tail = os.pread(file, 4096, max(size - 4096, 0))
    if tail and not tail.endswith(b"\n"):
        os.ftruncate(file, size - len(tail) + tail.rfind(b"\n") + 1)


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
