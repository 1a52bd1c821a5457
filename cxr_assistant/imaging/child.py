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
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import numpy as np

from cxr_assistant.errors import StudyError
from cxr_assistant.imaging import wire
from cxr_assistant.imaging.refusals import refusal
from cxr_assistant.imaging.shared_memory import map_memory
from cxr_assistant.study import Radiograph

__all__ = ["ANSWER", "JOB", "READY", "REQUEST", "Bounds", "receive", "serve"]

REQUEST = struct.Struct("!B")  # bytes of the session key, which follows
ANSWER = struct.Struct("!IQ")  # bytes of the facts, bytes of pixels and tables
READY = b"R"  # from the warm process once, and from each child
JOB = b"J"  # with three descriptors: the socket of the job, the file, and room for pixels and tables

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38  # linux/prctl.h

Decoder = Callable[[memoryview, bytes | None], Radiograph]


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
        message, descriptors, _, _ = socket.recv_fds(control, len(JOB), 3)
        if not message:
            return
        job_fd, *memory_fds = descriptors
        job = socket.socket(fileno=job_fd)
        try:
            is_child = os.fork() == 0
        except OSError:  # no process to be had: the parent sees a closed socket
            is_child = False
        if is_child:
            _run(job, control, memory_fds, decode, bounds._replace(memory_bytes=memory))
        job.close()
        for descriptor in memory_fds:
            os.close(descriptor)


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


def _run(
    job: socket.socket, control: socket.socket, memory_fds: list[int], decode: Decoder, bounds: Bounds
) -> NoReturn:
    status = 1
    # Whatever happens, this process must not return into the loop of its parent.
    try:
        control.close()
        source, target = memory_fds
        data, room = map_memory(source, is_writable=False), map_memory(target, is_writable=True)
        limit = bounds.memory_bytes + len(data) + len(room)
        _confine(bounds._replace(memory_bytes=limit), job.fileno())
        job.sendall(READY)
        (key_bytes,) = REQUEST.unpack(receive(job, REQUEST.size))
        job.sendall(_answer(decode, data, room, bytes(receive(job, key_bytes)) or None))
        status = 0
    finally:
        os._exit(status)


def _answer(decode: Decoder, data: memoryview, room: memoryview, key: bytes | None) -> bytes:
    """What is said of the file; its pixels and tables are then in `room`."""
    size = 0
    try:
        facts, blobs = wire.pack(decode(data, key))
        for blob in blobs:
            room[size : size + len(blob)] = blob
            size += len(blob)
    except StudyError as error:
        facts = wire.pack_error(error)
    # Not only Exception: codecs written in Rust panic with a class of their own. Edge of the process.
    except BaseException:
        facts, size = wire.pack_error(refusal("internal")), 0
    return ANSWER.pack(len(facts), size) + facts


def _confine(bounds: Bounds, highest_fd: int) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, even inside of a codec
    signal.setitimer(signal.ITIMER_REAL, bounds.wall_s)
    resource.setrlimit(resource.RLIMIT_CPU, (bounds.cpu_s, bounds.cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump is patient data
    _forgo_privileges()
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest_fd + 1, highest_fd + 1))  # no file, no network
    limit = bounds.memory_bytes
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _forgo_privileges() -> None:
    """No program that it could start gains rights, and no other process of this user may look inside."""
    import ctypes  # NumPy has loaded it

    with contextlib.suppress(AttributeError):  # Linux only
        process_control = ctypes.CDLL(None).prctl
        process_control(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        process_control(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _address_space() -> int:
    """Bytes of address space of this process, 0 where the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
    return 0


def receive(sock: socket.socket, count: int, deadline: float | None = None) -> bytearray:
    """Exactly `count` bytes; raises ConnectionError when the other side is gone before, TimeoutError when
    `deadline` (of time.monotonic) passes, however many bytes trickle in until then."""
    received = bytearray(count)
    view, position = memoryview(received), 0
    while position < count:
        if deadline is not None:
            sock.settimeout(max(deadline - time.monotonic(), 1e-3))
        got = sock.recv_into(view[position:])
        if not got:
            raise ConnectionError("the other side is gone")
        position += got
    return received
