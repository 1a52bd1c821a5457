"""Memory that two processes see and no file system knows: how a film goes into the child and comes back.

Knows descriptors and mappings; must not know what lies in them. Ten megabytes through a socket wake both
sides some fifty times, which a busy machine turns into tenths of a second; a mapping wakes nobody.
"""

from __future__ import annotations

import fcntl
import mmap
import os

__all__ = ["anonymous_memory", "copy_from", "map_memory", "write_memory"]


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


def map_memory(descriptor: int, *, is_writable: bool) -> memoryview:
    """All of it, in place; the descriptor is closed. For the child, which trusts its parent."""
    size = os.fstat(descriptor).st_size
    access = mmap.ACCESS_WRITE if is_writable else mmap.ACCESS_READ
    mapping = memoryview(mmap.mmap(descriptor, size, access=access) if size else b"")
    os.close(descriptor)
    return mapping


def write_memory(descriptor: int, data: bytes) -> None:
    """Put `data` at the beginning."""
    if data:
        with mmap.mmap(descriptor, len(data)) as mapping:
            mapping[:] = data


def copy_from(descriptor: int, size: int) -> bytearray:
    """A copy of the first `size` bytes; for the parent: what a child may still change must not be looked at
    twice."""
    if size == 0:
        return bytearray()
    with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as mapping:
        return bytearray(mapping)
