"""The decoding side of the sandbox: a warm process that forks one disposable child for each file.

Knows how to shut itself in: no new files or sockets, no core dump, a bounded amount of memory and time.
Must not know what the decoder does; it gets its name from the parent.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import numpy as np

from cxr_assistant.errors import StudyError
from cxr_assistant.imaging import wire
from cxr_assistant.imaging.refusals import refusal
from cxr_assistant.study import Radiograph

__all__ = ["ANSWER", "READY", "REQUEST", "Bounds", "serve"]

REQUEST = struct.Struct("!BQ")  # bytes of the session key, bytes of the file
ANSWER = struct.Struct("!IQ")  # bytes of the facts, bytes of pixels and tables
READY = b"R"  # from the warm process once, and from each child

Decoder = Callable[[bytes, bytes | None], Radiograph]


class Bounds(NamedTuple):
    """What one file may cost; the kernel enforces each of them."""

    memory_bytes: int = 768 << 20  # address space beyond what the warm process already has
    cpu_s: int = 4  # so that even a decoder that spins answers within 5 s of an idle machine
    wall_s: float = 30.0  # for one that sleeps; a loaded machine gives a fraction of a core


def serve(control_fd: int, decoder: str, bounds: Bounds) -> None:
    """Fork a child for every socket that arrives on the control socket, until that is closed."""
    control = socket.socket(fileno=control_fd)
    module, _, name = decoder.partition(":")
    decode: Decoder = getattr(importlib.import_module(module), name)
    _import_everything()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a child: the kernel buries it
    gc.collect()
    gc.freeze()
    memory = _address_space() + bounds.memory_bytes
    control.sendall(READY)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        job = socket.socket(fileno=descriptors[0])
        try:
            is_child = os.fork() == 0
        except OSError:  # no process to be had: the parent sees a closed socket
            is_child = False
        if is_child:
            _run(job, control, decode, bounds._replace(memory_bytes=memory))
        job.close()


def _import_everything() -> None:
    """All that a decoder may need later: the child will not be able to open a file."""
    import encodings.ascii
    import encodings.latin_1  # noqa: F401

    from cxr_assistant.imaging import codecs, dicom  # noqa: F401
    from cxr_assistant.imaging.raster import read_png
    from cxr_assistant.imaging.rendering import encode_png

    codecs.warm_up()
    # A rehearsal: NumPy and Pillow import some of their parts when these are first used.
    read_png(encode_png(np.arange(128 * 128, dtype=np.uint16).reshape(128, 128)))


def _run(job: socket.socket, control: socket.socket, decode: Decoder, bounds: Bounds) -> NoReturn:
    status = 1
    # Whatever happens, this process must not return into the loop of its parent.
    try:
        control.close()
        _confine(bounds, job.fileno())
        job.sendall(READY)
        key_bytes, data_bytes = REQUEST.unpack(receive(job, REQUEST.size))
        key = bytes(receive(job, key_bytes))
        data = bytes(receive(job, data_bytes))
        _answer(job, decode, data, key or None)
        status = 0
    finally:
        os._exit(status)


def _answer(job: socket.socket, decode: Decoder, data: bytes, key: bytes | None) -> None:
    blobs: list[memoryview] = []
    try:
        facts, blobs = wire.pack(decode(data, key))
    except StudyError as error:
        facts = wire.pack_error(error)
    # Not only Exception: codecs written in Rust panic with a class of their own. Edge of the process.
    except BaseException:
        facts = wire.pack_error(refusal("internal"))
    job.sendall(ANSWER.pack(len(facts), sum(len(blob) for blob in blobs)) + facts)
    for blob in blobs:
        job.sendall(blob)


def _confine(bounds: Bounds, highest_fd: int) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, even inside of a codec
    signal.setitimer(signal.ITIMER_REAL, bounds.wall_s)
    resource.setrlimit(resource.RLIMIT_CPU, (bounds.cpu_s, bounds.cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump is patient data
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest_fd + 1, highest_fd + 1))  # no file, no network
    limit = bounds.memory_bytes
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _address_space() -> int:
    """Bytes of address space of this process, 0 where the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
    return 0


def receive(sock: socket.socket, count: int) -> bytearray:
    """Exactly `count` bytes; raises ConnectionError when the other side is gone before."""
    received = bytearray(count)
    view, position = memoryview(received), 0
    while position < count:
        got = sock.recv_into(view[position:])
        if not got:
            raise ConnectionError("the other side is gone")
        position += got
    return received
