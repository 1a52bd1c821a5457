"""The parent's side of decoding: one disposable child for each file, and a sentence when it dies.

Knows processes and sockets; imports no decoder and believes nothing that a child says (see wire.py).
A warm process with all codecs loaded forks each child before its film is there, so that a film costs little.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cxr_assistant.imaging import wire
from cxr_assistant.imaging.child import FACTS, JOB, PIXELS, READY, REQUEST, Bounds, receive
from cxr_assistant.imaging.refusals import refusal
from cxr_assistant.imaging.shared_memory import anonymous_memory, copy_from, write_memory
from cxr_assistant.study import Radiograph

__all__ = ["Bounds", "Sandbox", "default_sandbox"]

_DECODER = "cxr_assistant.imaging.read:decode_stored"
_BOOT = (
    "import json, sys; path, fd, decoder, bounds = json.loads(sys.argv[1]); sys.path[:] = path; "
    "from cxr_assistant.imaging.child import Bounds, serve; serve(fd, decoder, Bounds(*bounds))"
)
# Nothing else of the environment reaches the decoders: no token, no path of the app.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "SYSTEMROOT")
_START_TIMEOUT_S = 60.0
_GRACE_S = 2.0  # on top of the child's own alarm
_MAX_CHILDREN = 2


class _NotStarted(Exception):
    """There was no child: the warm process was dead, or could not fork."""


class _Died(Exception):
    """The child began and gave no answer."""


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _memory_with(data: bytes) -> int:
    try:
        descriptor = anonymous_memory(len(data))
    except OSError:  # no descriptor to be had
        raise refusal("internal") from None
    try:
        write_memory(descriptor, data)
    except OSError:  # no memory
        os.close(descriptor)
        raise refusal("internal") from None
    return descriptor


class Sandbox:
    """Decodes untrusted bytes in children that live for one file.

    TODO(limit): needs fork and Unix sockets, so Linux or macOS; Windows users take WSL or the container.
    """

    def __init__(self, decoder: str = _DECODER, bounds: Bounds = Bounds()) -> None:  # noqa: B008
        self._decoder, self._bounds = decoder, bounds
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(_MAX_CHILDREN)
        self._warm: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._owner = 0

    def decode(self, data: bytes, session_key: bytes | None) -> Radiograph:
        """The radiograph in `data`; raises its StudyError, and `internal` when the child dies or hangs."""
        with self._slots:
            for _ in range(2):  # a warm process that was killed is replaced once
                try:
                    return self._decode(data, session_key)
                except _NotStarted:
                    self.close()  # children that are at work live on
                except _Died:
                    break
            raise refusal("internal") from None

    def start(self) -> None:
        """Make the warm process ready, so that the first film does not wait for imports.

        Where that fails nothing is said: the first film tries again.
        """
        with self._lock, suppress(_NotStarted):
            if not self._is_alive():
                self._start()

    def close(self) -> None:
        with self._lock:
            self._stop()

    def _decode(self, data: bytes, session_key: bytes | None) -> Radiograph:
        with _closing(_memory_with(data)) as source, self._hand_over(source, session_key or b"") as job:
            with _closing(self._await_child(job)) as room:
                return wire.unpack(*self._await_answer(job, room))

    def _await_child(self, job: socket.socket) -> int:
        """The memory in which the child will leave pixels and tables; it has not seen the file yet."""
        job.settimeout(self._bounds.wall_s + _GRACE_S)
        try:
            message, descriptors, _, _ = socket.recv_fds(job, len(READY), 1)
        except OSError:
            raise _NotStarted from None
        if not message or len(descriptors) != 1:
            raise _NotStarted
        os.set_inheritable(descriptors[0], False)  # as every other descriptor here; recv_fds does not say so
        return descriptors[0]

    def _await_answer(self, job: socket.socket, room: int) -> tuple[bytes, bytes]:
        """What the child says of the file, and a copy of the pixels and tables that it left in the memory."""
        deadline = time.monotonic() + self._bounds.wall_s + _GRACE_S

        def await_number(number: struct.Struct, largest: int) -> int:
            (count,) = number.unpack(receive(job, number.size, deadline))
            if count > largest:
                raise _Died
            return int(count)

        try:
            blob = copy_from(room, await_number(PIXELS, wire.MAX_BLOB_BYTES))
            return bytes(receive(job, await_number(FACTS, wire.MAX_FACTS_BYTES), deadline)), blob
        except OSError:  # closed, reset, or silent beyond the child's own alarm
            raise _Died from None

    def _hand_over(self, source: int, key: bytes) -> socket.socket:
        """Our end of a socket whose other end belongs to a child that sees `source` and is asked for it."""
        with self._lock:
            if not self._is_alive():
                self._start()
            assert self._control is not None
            try:
                ours, theirs = socket.socketpair()
            except OSError:  # no descriptor to be had
                raise _NotStarted from None
            with theirs:
                try:
                    ours.sendall(REQUEST.pack(len(key)) + key)  # it lies there before the child looks
                    socket.send_fds(self._control, [JOB], [theirs.fileno(), source])
                except OSError:
                    ours.close()
                    raise _NotStarted from None
            return ours

    def _is_alive(self) -> bool:
        return self._owner == os.getpid() and self._warm is not None and self._warm.poll() is None

    def _start(self) -> None:
        self._stop()
        try:
            self._launch()
            assert self._control is not None
            receive(self._control, len(READY))
        except OSError:  # no process or descriptor to be had, or the warm process died
            self._stop()
            raise _NotStarted from None

    def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        self._control, self._owner = ours, os.getpid()
        ours.settimeout(_START_TIMEOUT_S)
        with theirs:
            arguments = json.dumps([sys.path, theirs.fileno(), self._decoder, list(self._bounds)])
            self._warm = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # decoders print values of a file
                env=_environment(),
            )

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()  # the warm process leaves its loop
            self._control = None
        if self._warm is not None and self._owner == os.getpid():
            try:
                self._warm.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                self._warm.kill()
                self._warm.wait()
        self._warm = None


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    # One thread: a library's thread pool does not survive a fork. Huge pages: a film is a few of them, and
    # a fault for each of its 2,500 small ones costs more than many a decoder (glibc manual, 3.2.4). One
    # arena, as each further thread would set 64 MiB of a child's bounded address space aside. A film comes
    # from the heap, and what is freed stays there: a child makes its heap ready before it has a file.
    return kept | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
        ":glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=134217728",
    }


_default: Sandbox | None = None
_default_lock = threading.Lock()


def default_sandbox() -> Sandbox:
    """The sandbox of this process, made when it is first needed and closed with the process."""
    global _default  # noqa: PLW0603  one warm process for all sessions; it holds nothing of any of them
    with _default_lock:
        if _default is None:
            _default = Sandbox()
            atexit.register(_default.close)
        return _default
