"""What is remembered between answers: image embeddings, by the identity of the picture.

Knows digests and bytes; must not know whose picture it was. The least recently used leave first.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from weakref import WeakKeyDictionary

from torch import Tensor

from cxr_assistant.models.vlm import VisionLanguageModel

__all__ = ["EmbeddingCache"]


class EmbeddingCache:
    """Image embeddings per model, at most `max_bytes` for each; safe to use from several threads.

    The key is a digest of film and preprocessing, so no picture can be taken for another. Embeddings of
    a model that is no longer in use go with it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._shelves: WeakKeyDictionary[VisionLanguageModel, OrderedDict[str, Tensor]] = WeakKeyDictionary()
        self._lock = Lock()

    def get(self, model: VisionLanguageModel, digest: str) -> Tensor | None:
        with self._lock:
            shelf = self._shelves.get(model, OrderedDict())
            if digest in shelf:
                shelf.move_to_end(digest)
            return shelf.get(digest)

    def put(self, model: VisionLanguageModel, digest: str, embeds: Tensor) -> None:
        """Keep `embeds` (P, D); one that alone exceeds the bound is not kept."""
        with self._lock:
            shelf = self._shelves.setdefault(model, OrderedDict())
            shelf[digest] = embeds
            shelf.move_to_end(digest)
            while shelf and sum(map(_num_bytes, shelf.values())) > self._max_bytes:
                shelf.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._shelves.clear()


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
