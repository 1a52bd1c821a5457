"""Where uploads lie for the moment they exist: random names from the first byte, and swept away.

Knows directories, multipart bodies and how much may lie there; knows no visitor and no image. The name that
a file had on its owner's disk is read by nobody and written nowhere.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from time import monotonic, time
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from cxr_assistant.settings import Limits
from cxr_assistant.ui.web.refusals import Refused

__all__ = ["UPLOAD_LIFE_S", "Sweeper", "clear_leftovers", "make_upload_dir", "receive_files"]

UPLOAD_LIFE_S = 45.0
"""An upload that was not read after this many seconds never will be: reading begins at once."""

MIB = 1024 * 1024
_PREFIX = "cxr-uploads-"
_LOCK_NAME = ".lock"
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)


@cache
def make_upload_dir() -> Path:
    """A private directory for uploads, removed when the process ends; Gradio is told to use it.

    One for the process: Gradio compares an upload with the newest setting, and a second app would otherwise
    make it refuse the files of the first. What a process that died left behind is removed first.
    """
    clear_leftovers()
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX))  # mode 0700
    lock = os.open(directory / _LOCK_NAME, _CREATE, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # held until this process ends, however it ends
    os.environ["GRADIO_TEMP_DIR"] = str(directory)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def clear_leftovers(parent: Path | None = None) -> int:
    """Remove the upload directories of processes that are gone; how many there were."""
    removed = 0
    for directory in (parent or Path(tempfile.gettempdir())).glob(_PREFIX + "*"):
        if not directory.is_symlink() and directory.stat().st_uid == os.getuid() and _is_abandoned(directory):
            shutil.rmtree(directory, ignore_errors=True)
            removed += 1
    return removed


def _is_abandoned(directory: Path) -> bool:
    try:
        lock = os.open(directory / _LOCK_NAME, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return time() - directory.stat().st_mtime > UPLOAD_LIFE_S  # it may be being made at this moment
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


class Sweeper:
    """Removes uploads that nobody fetched.

    A file's age counts from when it was last seen to change, on a clock that nobody can set: by its date, a
    jump of the machine's clock would make an upload of this moment look old, or an old one stay.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._changed: dict[Path, tuple[int, float]] = {}  # date in the file system, and when that was seen

    def sweep(self) -> list[Path]:
        """Remove what has lain there for UPLOAD_LIFE_S; the files and folders that went."""
        now, known, self._changed = self._clock(), self._changed, {}
        removed = []
        for path in self._everything():
            with suppress(OSError):  # fetched at this moment, or something in the folder is still fresh
                date = path.lstat().st_mtime_ns
                known_date, seen_at = known.get(path, (date, now))
                self._changed[path] = (date, seen_at if date == known_date else now)
                if now - self._changed[path][1] >= UPLOAD_LIFE_S:
                    _remove(path)
                    removed.append(path)
        return removed

    def clear(self) -> None:
        """Remove everything: the session of everybody is over."""
        for path in self._everything():
            with suppress(OSError):
                _remove(path)

    def _everything(self) -> list[Path]:
        """All files and folders but the lock, what is in a folder before the folder."""
        return [
            Path(folder, name)
            for folder, folders, names in os.walk(self._directory, topdown=False)
            for name in [*names, *folders]
            if name != _LOCK_NAME
        ]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()


async def receive_files(
    body: AsyncIterator[bytes], content_type: str, directory: Path, limits: Limits
) -> list[Path]:
    """The files of a multipart body, each under a random name; all of them, or none and Refused."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Refused(400, "This is no upload.")
    writer = _Writer(directory, limits, room=limits.max_disk_mib * MIB - _bytes_in(directory))
    parser = MultipartParser(options[b"boundary"], writer.callbacks())
    try:
        with suppress(FormParserError):
            async for chunk in body:
                parser.write(chunk)
    except OSError:
        writer.discard()
        raise Refused(507, "This server has no room for the file now. Try again in a minute.") from None
    except BaseException:
        writer.discard()
        raise
    if not writer.is_whole:  # the parser itself says nothing when the last boundary is missing
        writer.discard()
        raise Refused(400, "The upload did not arrive whole. Add the file again.")
    return writer.paths


class _Writer:
    """Writes the parts that are files; knows how much is allowed."""

    def __init__(self, directory: Path, limits: Limits, *, room: int) -> None:
        self._directory = directory
        self._limits = limits
        self._room = room
        self._header = (b"", b"")
        self._is_file = False
        self._handle = -1
        self._num_bytes = 0
        self.paths: list[Path] = []
        self.is_whole = False

    def callbacks(self) -> Any:
        return {
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers,
            "on_part_begin": self._on_begin,
            "on_part_data": self._on_data,
            "on_part_end": self._close,
            "on_end": self._on_end,
        }

    def discard(self) -> None:
        self._close()
        for path in self.paths:
            path.unlink(missing_ok=True)

    def _on_begin(self) -> None:
        self._is_file, self._header = False, (b"", b"")

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end], b"")

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end])

    def _on_header_end(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._is_file = b"filename" in parse_options_header(self._header[1])[1]
        self._header = (b"", b"")

    def _on_headers(self) -> None:
        if not self._is_file:
            return
        if len(self.paths) >= self._limits.max_upload_files:
            raise Refused(413, f"Up to {self._limits.max_upload_files} files can be added at once.")
        path = self._directory / secrets.token_hex(16)
        self._handle, self._num_bytes = os.open(path, _CREATE, 0o600), 0
        self.paths.append(path)

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._handle < 0:
            return
        self._num_bytes += end - start
        self._room -= end - start
        if self._num_bytes > self._limits.max_file_mib * MIB:
            raise Refused(413, f"A file may have up to {self._limits.max_file_mib} MiB.")
        if self._room < 0:
            raise Refused(507, "This server has no room for the file now. Try again in a minute.")
        view = memoryview(data)[start:end]
        while view:
            view = view[os.write(self._handle, view) :]

    def _on_end(self) -> None:
        self.is_whole = True

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _bytes_in(directory: Path) -> int:
    num_bytes = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # fetched since it was listed
                num_bytes += entry.stat(follow_symlinks=False).st_size if entry.is_file() else 0
    return num_bytes
