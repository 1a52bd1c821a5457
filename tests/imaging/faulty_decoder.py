"""A decoder that does what the file says: stands in for the codecs when they go wrong."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import tempfile
import time
from dataclasses import replace
from typing import Any

import numpy as np

from cxr_assistant.study import Radiograph

WRITTEN = f"{tempfile.gettempdir()}/cxr-decoder-was-here-{os.getuid()}"


class Panic(BaseException):
    """Not an Exception, like the panics of codecs written in Rust."""


def decode(data: memoryview, session_key: bytes | None) -> Radiograph:
    fault = bytes(data).decode()
    if fault not in ("fine", "environment"):
        return _FAULTS[fault]()  # type: ignore[no-any-return]
    if fault == "environment" and "HF_TOKEN" in os.environ:
        raise Panic
    return _fine()


def _fine() -> Radiograph:
    return Radiograph(np.arange(1600, dtype=np.uint16).reshape(40, 40), 12, source="DICOM")


def _open() -> Radiograph:
    """A film, should this come off: a test that expects an error would notice."""
    with open(__file__) as file:
        file.read(1)
    return _fine()


def _connect() -> Radiograph:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM):
        return _fine()


def _make_pipe() -> Radiograph:
    os.pipe()
    return _fine()


def _panic() -> Any:
    raise Panic


def _spin() -> Any:
    while True:
        pass


def _allocate() -> Any:
    return Radiograph(np.ones((40_000, 40_000), np.uint8), 8)


def _write() -> Radiograph:
    os.write(1, b"x")  # stdout of the child is nowhere
    with open(WRITTEN, "w"):
        return _fine()


def _flood() -> Any:
    sys.stderr.write("patient name\n" * 100_000)
    raise Panic


class _Deadly:
    """Notices that end the child when it comes to the facts: its pixels are with the parent by then."""

    def __contains__(self, _: object) -> bool:
        os._exit(0)


def _trickle() -> Any:
    """Taken over: no alarm, and a byte now and then to whoever listens."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for _ in range(40):
        for descriptor in range(3, 32):
            try:
                os.write(descriptor, b"\0")
            except OSError:
                continue
        time.sleep(1)


_FAULTS = {
    "abort": os.abort,
    "segfault": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(0),
    "panic": _panic,
    "spin": _spin,
    "sleep": lambda: time.sleep(60),
    "allocate": _allocate,
    "open": _open,
    "connect": _connect,
    "pipe": _make_pipe,
    "write": _write,
    "flood": _flood,
    "trickle": _trickle,
    "pixels-and-no-facts": lambda: replace(_fine(), notices=("a sentence of nobody",)),
    "pixels-and-death": lambda: replace(_fine(), notices=_Deadly()),
    "not-a-radiograph": lambda: "<b>not a radiograph</b>",
}
