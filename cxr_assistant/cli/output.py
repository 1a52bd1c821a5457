"""How the command line speaks: results on stdout, everything about them on stderr.

With --json, stdout holds one JSON object per line and nothing else; the keys are in docs/cli.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cxr_assistant.errors import CxrAssistantError
from cxr_assistant.generation import Answer

__all__ = ["Console", "answer_as_dict", "error_as_dict"]


@dataclass(frozen=True)
class Console:
    """One command's voice."""

    is_json: bool

    def result(self, values: Mapping[str, Any], text: str = "") -> None:
        """Print one result: `values` as a JSON line, or `text` for a person."""
        self.write((json.dumps(values, ensure_ascii=False) if self.is_json else text) + "\n")

    def write(self, text: str) -> None:
        """Print a piece of a result at once, without a line end of its own."""
        sys.stdout.write(_printable(text, sys.stdout.encoding))
        sys.stdout.flush()

    def stream(self, text: str) -> None:
        """Print text as it is generated; scripts wait for the whole."""
        if not self.is_json:
            self.write(text)

    def remark(self, text: str) -> None:
        sys.stderr.write(_printable(text, sys.stderr.encoding) + "\n")
        sys.stderr.flush()

    def progress(self, text: str) -> None:
        """Redraw one line of progress on a terminal; say nothing to a log file."""
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[2K{_printable(text, sys.stderr.encoding)}")
            sys.stderr.flush()

    def end_progress(self) -> None:
        self.progress("")

    def fail(self, error: CxrAssistantError, file: str | None = None) -> None:
        """Say what was wrong: a sentence and a hint for people, an object for scripts."""
        if self.is_json:
            self.result({"status": "error", "file": file, "error": error_as_dict(error)})
        self.remark(f"{file}: {error}" if file else str(error))


def answer_as_dict(answer: Answer) -> dict[str, Any]:
    """The documented keys of an answer."""
    return {
        "checkpoint": answer.checkpoint,
        "revision": answer.revision,
        "precision": answer.precision,
        "text": answer.text,
        "notices": [{"code": notice.code, "text": notice.text} for notice in answer.notices],
        "groundings": [{"phrase": g.phrase, "box": g.box.as_dict()} for g in answer.groundings],
        "finish_reason": answer.finish_reason.value,
        "usage": asdict(answer.usage),
    }


def error_as_dict(error: CxrAssistantError) -> dict[str, str]:
    return {"code": error.code, "message": error.message, "hint": error.hint}


def _printable(text: str, encoding: str | None) -> str:
    # Model output and file names may hold terminal escapes or characters that the terminal cannot show.
    safe = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
    codec = encoding or "utf-8"
    return safe.encode(codec, "replace").decode(codec)
