"""A device without memory left, as a sentence. Knows how torch says it on each device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cxr_assistant.errors import OutOfMemory
from cxr_assistant.models.precision import read_device

__all__ = ["free_bytes", "memory_guard"]

# The CPU allocator raises a bare RuntimeError with one of these texts.
_CPU_COMPLAINTS = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


@contextmanager
def memory_guard(deed: str = "this answer") -> Iterator[None]:
    """Turn a failed allocation into OutOfMemory; use it in functions, never around a `yield`."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _sentence(deed) from error
    except RuntimeError as error:
        if any(complaint in str(error) for complaint in _CPU_COMPLAINTS):
            raise _sentence(deed) from error
        raise


def free_bytes(device: torch.device) -> int:
    """What can be allocated on a device without pushing anything else out."""
    return read_device(str(device)).free_bytes


def _sentence(deed: str) -> OutOfMemory:
    return OutOfMemory(
        f"The device has no memory left for {deed}.",
        hint="Wait for other answers to finish, shorten the conversation, or choose a lower precision.",
    )
