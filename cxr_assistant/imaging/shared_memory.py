"""Memory that two processes see and no file system knows: how a film goes into the child and comes back.

Knows descriptors and mappings; must not know what lies in them. Ten megabytes through a socket wake both
sides some fifty times, which a busy machine turns into tenths of a second; a mapping wakes nobody.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from contextlib import suppress

__all__ = ["anonymous_memory", "copy_from", "map_memory", "map_room", "touch", "write_memory"]

_AT_ONCE = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)  # Linux: no fault for each page that is read
_MADV_POPULATE_WRITE = 23  # linux/mman.h, since Linux 5.14; not in Python 3.11's mmap


def anonymous_memory(size: int) -> int:
    """A descriptor of `size` bytes without a name; pages that nobody writes cost nothing.

    It cannot be made shorter by whoever else holds it, so that reading our mapping never ends the process.
    """
    if not hasattr(os, "memfd_create"):
        return _posix_memory(size)
    descriptor = os.memfd_create("film", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def _posix_memory(size: int) -> int:
    """The same on macOS, which has no seals. TODO(limit): there a child could end its parent by shrinking."""
    import _posixshmem

    name = f"/cxr-{os.urandom(10).hex()}"
    descriptor = int(_posixshmem.shm_open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode=0o600))
    _posixshmem.shm_unlink(name)
    os.ftruncate(descriptor, size)
    return descriptor


def map_memory(descriptor: int) -> memoryview:
    """All of it, in place, to be read; the descriptor is closed. For the child, which trusts its parent."""
    size = os.fstat(descriptor).st_size
    mapping = memoryview(mmap.mmap(descriptor, size, _AT_ONCE, mmap.PROT_READ) if size else b"")
    os.close(descriptor)
    return mapping


def map_room(descriptor: int) -> mmap.mmap:
    """All of it, in place and to be written."""
    return mmap.mmap(descriptor, os.fstat(descriptor).st_size, access=mmap.ACCESS_WRITE)


def touch(room: mmap.mmap, num_bytes: int) -> None:
    """Have the first `num_bytes` there, so that writing them costs no fault."""
    with suppress(OSError):  # an older kernel, or macOS: then each page comes when it is written
        room.madvise(_MADV_POPULATE_WRITE, 0, num_bytes)


def write_memory(descriptor: int, data: bytes) -> None:
    """Put `data` at the beginning. Written, not mapped: a mapping costs a fault for every page."""
    if data and not hasattr(os, "memfd_create"):  # macOS: its shared memory can only be mapped
        with mmap.mmap(descriptor, len(data)) as mapping:
            mapping[:] = data
        return
    view, position = memoryview(data), 0
    while position < len(view):
        position += os.pwrite(descriptor, view[position:], position)


def copy_from(descriptor: int, size: int) -> bytes:
    """A copy of the first `size` bytes; for the parent: what a child may still change must not be looked at
    twice. Read, not mapped, where that is possible: a mapping costs a fault for every page."""
    if hasattr(os, "memfd_create"):
        return os.pread(descriptor, size, 0)
    if size == 0:
        return b""
    with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as mapping:
        return bytes(mapping)
