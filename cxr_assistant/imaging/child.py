"""The decoding side of the sandbox: a warm process that forks one disposable child for each file.

The child is forked before its file is there, so that a film does not wait for it. Knows how to shut itself
in: no new files or sockets, no core dump, a bounded amount of memory and time. Must not know what the decoder
does; it gets its name from the parent.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import resource
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from functools import cache
from mmap import mmap
from typing import NamedTuple, NoReturn, TypeVar

import numpy as np

from cxr_assistant.errors import StudyError
from cxr_assistant.imaging import wire
from cxr_assistant.imaging.burned_in import with_text_hint
from cxr_assistant.imaging.refusals import refusal
from cxr_assistant.imaging.shared_memory import anonymous_memory, map_memory, map_room, touch
from cxr_assistant.study import Radiograph

__all__ = ["FACTS", "JOB", "PIXELS", "READY", "REQUEST", "Bounds", "receive", "serve"]

REQUEST = struct.Struct("!B")  # bytes of the session key, which follows
PIXELS = struct.Struct("!Q")  # bytes of pixels and tables, which are in the room now
FACTS = struct.Struct("!I")  # bytes of the facts, which follow
READY = b"R"  # from the warm process once, and from each child with a descriptor: its room for the pixels
JOB = b"J"  # with two descriptors: the socket of the job, and the file
_COURTESY = 5  # added to the nice value: the side that faces people goes before a decoder
_PROCESSORS = 2  # of which a decoder may use several at once
_READY_BYTES = 12 << 20  # of the room: a film of 2048 x 2500 pixels and some tables
_HEAP_BYTES = 28 << 20  # such a film, and what a decoder needs beside it; malloc would map more than 32 MiB
_HEAD_START_S = 0.005  # of a child before the next one is forked
_PATIENCE_S = 0.1  # of a child before it makes itself ready: the next of several films comes sooner

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38  # linux/prctl.h

T = TypeVar("T")
Decoder = Callable[[memoryview, bytes | None], Radiograph]


class Bounds(NamedTuple):
    """What one file may cost; the kernel enforces each of them."""

    memory_bytes: int = 768 << 20  # address space beyond what the warm process already has
    cpu_s: int = 4  # so that even a decoder that spins answers within 5 s of an idle machine
    wall_s: float = 30.0  # for one that sleeps; a loaded machine gives a fraction of a core


def serve(control_fd: int, decoder: str, bounds: Bounds) -> None:
    """Fork a child for every socket that arrives on the control socket, until that is closed."""
    os.nice(_COURTESY)
    control = socket.socket(fileno=control_fd)
    module, _, name = decoder.partition(":")
    decode: Decoder = getattr(importlib.import_module(module), name)
    _import_everything()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a child: the kernel buries it
    gc.collect()
    gc.freeze()
    bounds = bounds._replace(memory_bytes=_address_space() + bounds.memory_bytes)
    spare = _fork(control, decode, bounds)
    control.sendall(READY)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, len(JOB), 2)
        if not message:
            return
        if not _hand_on(spare, descriptors):  # it was killed while it waited
            _hand_on(_fork(control, decode, bounds), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        # Beside its beginning, a third process would keep it or its parent from a processor.
        is_next_here = bool(select.select([control], [], [], _HEAD_START_S)[0])
        spare = None if is_next_here else _fork(control, decode, bounds)


def _fork(control: socket.socket, decode: Decoder, bounds: Bounds) -> socket.socket | None:
    """The line to a new child that waits for its file; None when there is no process to be had."""
    try:
        ours, theirs = socket.socketpair()
        is_child = os.fork() == 0
    except OSError:
        return None
    if is_child:
        control.close()
        ours.close()
        _run(theirs, decode, bounds)
    theirs.close()
    return ours


def _hand_on(child: socket.socket | None, descriptors: list[int]) -> bool:
    """Give a child its file. False when there is none; its parent sees a socket that is closed."""
    if child is None:
        return False
    with child:
        try:
            socket.send_fds(child, [JOB], descriptors)
        except OSError:
            return False
    return True


def _import_everything() -> None:
    """All that a decoder may need later: the child will not be able to open a file."""
    import encodings.ascii
    import encodings.latin_1  # noqa: F401

    from cxr_assistant.imaging import codecs, dicom  # noqa: F401

    codecs.warm_up()
    _rehearse()


def _rehearse() -> None:
    """Read two small films and pack them: NumPy and Pillow import some of their parts when these are first
    used, and a child finds a page of a library, or gets its own copy of one, when it first uses it."""
    from cxr_assistant.imaging.raster import read_jpeg, read_png

    png, jpeg = _small_films()
    for read, film in ((read_png, png), (read_jpeg, jpeg)):
        radiograph = with_text_hint(read(film))
        wire.pack_pixels(radiograph)
        wire.pack_facts(radiograph)


@cache
def _small_films() -> tuple[bytes, bytes]:
    """PNG and JPEG of a ramp: the children inherit them."""
    from PIL import Image

    from cxr_assistant.imaging.rendering import encode_png

    ramp = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256)
    jpeg = io.BytesIO()
    Image.fromarray((ramp >> 8).astype(np.uint8)).save(jpeg, "JPEG")
    return encode_png(ramp), jpeg.getvalue()


def _run(line: socket.socket, decode: Decoder, bounds: Bounds) -> NoReturn:
    status = 1
    # Whatever happens, this process must not return into the loop of its parent.
    try:
        _forgo_privileges()
        target = anonymous_memory(wire.MAX_BLOB_BYTES)
        room = map_room(target)
        _settle()
        # Beside a child at work this would take a third of its speed, where two processors are threads of
        # one core, and a film that is there already would wait for it.
        if not select.select([line], [], [], _PATIENCE_S)[0]:
            _make_ready(room)
        message, descriptors, _, _ = socket.recv_fds(line, len(JOB), 2)
        line.close()
        if message:
            job, data = socket.socket(fileno=descriptors[0]), map_memory(descriptors[1])
            socket.send_fds(job, [READY], [target])
            os.close(target)
            _confine(bounds._replace(memory_bytes=bounds.memory_bytes + len(data) + len(room)))
            (key_bytes,) = REQUEST.unpack(receive(job, REQUEST.size))
            _answer(job, decode, data, memoryview(room), bytes(receive(job, key_bytes)) or None)
        status = 0
    finally:
        os._exit(status)


def _make_ready(room: mmap) -> None:
    """Touch the memory that a film will need: a fault for each page costs more than many a decoder."""
    touch(room, _READY_BYTES)
    np.ones(_HEAP_BYTES, np.uint8)  # freed into the heap, which keeps it
    _rehearse()


def _answer(
    job: socket.socket, decode: Decoder, data: memoryview, room: memoryview, key: bytes | None
) -> None:
    """Pixels and tables first: the parent copies them while they are looked at for text."""
    found = _or_error(lambda: _placed(decode(data, key), room))
    if isinstance(found, bytes):
        facts = found
        job.sendall(PIXELS.pack(0))
    else:
        radiograph, size = found
        job.sendall(PIXELS.pack(size))
        facts = _or_error(lambda: wire.pack_facts(with_text_hint(radiograph)))
    job.sendall(FACTS.pack(len(facts)) + facts)


def _placed(radiograph: Radiograph, room: memoryview) -> tuple[Radiograph, int]:
    """`radiograph`, and how many bytes of it are in `room` now."""
    size = 0
    for blob in wire.pack_pixels(radiograph):
        room[size : size + len(blob)] = blob
        size += len(blob)
    return radiograph, size


def _or_error(work: Callable[[], T]) -> T | bytes:
    """What `work` returns, or the packed error that it raised."""
    try:
        return work()
    except StudyError as error:
        return wire.pack_error(error)
    # Not only Exception: codecs written in Rust panic with a class of their own. Edge of the process.
    except BaseException:
        return wire.pack_error(refusal("internal"))


def _settle() -> None:
    """What can be forbidden before there is a file: then it does not wait for that."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, even inside of a codec
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump is patient data
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    _use_few_processors()


def _confine(bounds: Bounds) -> None:
    """What begins with the file."""
    signal.setitimer(signal.ITIMER_REAL, bounds.wall_s)
    resource.setrlimit(resource.RLIMIT_CPU, (bounds.cpu_s, bounds.cpu_s))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # no new file or socket; those that are open stay
    limit = bounds.memory_bytes
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _use_few_processors() -> None:
    """GDCM decodes JPEG 2000 in as many threads as there are processors, and the stack of each counts as
    memory: on a large machine nothing would be left for the film."""
    if hasattr(os, "sched_setaffinity"):  # not on macOS
        mine = sorted(os.sched_getaffinity(0))
        first = os.getpid() % len(mine)  # children side by side need not share
        os.sched_setaffinity(0, (mine * 2)[first : first + _PROCESSORS])


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
