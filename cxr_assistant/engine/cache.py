"""Image embeddings that are remembered between answers, by the identity of the picture and for whom.

Knows digests, sessions and bytes; must not know films. The least recently used leave first.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor

__all__ = ["FOR_ALL", "EmbeddingCache"]

FOR_ALL = ""
"""The session under which pictures that everybody may see are kept."""


class EmbeddingCache:
    """Image embeddings of one model, at most `max_bytes`. Not for several threads at once.

    The key holds a digest of film and preprocessing, so no picture can be taken for another, and the session
    that it was computed for: how fast an answer comes must not tell a visitor what another one has shown.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._shelf: OrderedDict[tuple[str, str], Tensor] = OrderedDict()

    def get(self, session: str, digest: str) -> Tensor | None:
        key = (session, digest)
        if key in self._shelf:
            self._shelf.move_to_end(key)
        return self._shelf.get(key)

    def put(self, session: str, digest: str, embeds: Tensor) -> None:
        """Keep `embeds` (P, D); one that alone exceeds the bound is not kept."""
        self._shelf[session, digest] = embeds
        self._shelf.move_to_end((session, digest))
        while self.num_bytes > self._max_bytes:
            self._shelf.popitem(last=False)

    def forget(self, session: str) -> None:
        for key in [key for key in self._shelf if key[0] == session]:
            del self._shelf[key]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self._shelf.values())
