"""What a session has already had read: keys and values of its prompts and answers, shared where they agree.

Knows token ids, digests and cache slots; must not know models or text. One tree per session, so that nothing
of one visitor can ever serve another; the least recently used leaves go first.
"""

# Y layers, G key-value heads, T positions, K head width

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cxr_assistant.models.kv_cache import KVCache
from cxr_assistant.models.vlm import Prompt

__all__ = ["Keys", "PrefixStore", "num_common", "prompt_keys"]

Keys = NDArray[np.int64]
"""One number per position; equal keys up to a position mean equal contents of the cache up to there."""


def prompt_keys(prompt: Prompt) -> Keys:
    """Token ids, and inside an image numbers made of its digest and of the place in it."""
    keys = np.array(prompt.token_ids, np.int64)
    for span, digest in zip(prompt.image_spans, prompt.digests, strict=True):
        # Negative, so that no token has the same; 60 bits, and within one session only.
        picture = -1 - int(_hex60(digest), 16)
        keys[span.start : span.stop] = np.arange(span.length) ^ picture
    return keys


def num_common(prompts: Sequence[Keys]) -> int:
    """Leading positions in which all of `prompts` agree."""
    first, *others = prompts
    return min((_common_length(first, other) for other in others), default=len(first))


def _hex60(digest: str) -> str:
    """60 bits in hexadecimal that stand for a picture, whatever its name looks like."""
    return hashlib.sha256(digest.encode()).hexdigest()[:15]


@dataclass(eq=False)
class _Node:
    """A run of positions behind those of its parents; `states` is (Y, 2, G, T, K)."""

    keys: Keys
    states: Tensor | None
    parent: _Node | None
    used: int = 0
    children: dict[int, _Node] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        return 0 if self.states is None else self.states.numel() * self.states.element_size()

    def leaves(self) -> Iterator[_Node]:
        if not self.children and self.parent is not None:
            yield self
        for child in self.children.values():
            yield from child.leaves()


class PrefixStore:
    """Prefixes of one model's streams, at most `max_bytes` of them. Not for several threads at once."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._roots: dict[str, _Node] = {}
        self._clock = 0
        self.num_bytes = 0

    def load(self, session: str, keys: Keys, kv_cache: KVCache, slot: int) -> int:
        """Put the longest known beginning of `keys` into an empty slot; returns its length.

        The last position is always left to compute: what follows is read off it.
        """
        path, num_known = self._walk(session, keys[:-1])
        position = 0
        for node in path:
            assert node.states is not None
            kv_cache.append(slot, node.states[:, :, :, : num_known - position])
            position += len(node.keys)
        return num_known

    def save(self, session: str, keys: Keys, kv_cache: KVCache, slot: int) -> None:
        """Keep what a slot holds under `keys`, one for each of its positions."""
        path, num_known = self._walk(session, keys)
        if num_known == len(keys):
            return
        parent = path[-1] if path else self._roots.setdefault(session, _Node(keys[:0], None, None))
        inside = num_known - sum(len(node.keys) for node in path[:-1])
        if path and inside < len(parent.keys):
            parent = self._split(parent, inside)
        states = kv_cache.read(slot, num_known, len(keys))
        child = _Node(keys[num_known:].copy(), states, parent, self._tick())
        parent.children[int(child.keys[0])] = child
        self.num_bytes += child.num_bytes
        self._make_room()

    def forget(self, session: str) -> None:
        root = self._roots.pop(session, None)
        if root is not None:
            self.num_bytes -= sum(node.num_bytes for node in _all_below(root))

    def _walk(self, session: str, keys: Keys) -> tuple[list[_Node], int]:
        """The nodes that `keys` runs through, the last one perhaps in part, and how many positions agree."""
        path: list[_Node] = []
        node, num_known = self._roots.get(session), 0
        while node is not None and num_known < len(keys):
            node = node.children.get(int(keys[num_known]))
            if node is None:
                break
            agreeing = _common_length(node.keys, keys[num_known:])
            node.used = self._tick()
            path.append(node)
            num_known += agreeing
            if agreeing < len(node.keys):
                break
        return path, num_known

    def _split(self, node: _Node, length: int) -> _Node:
        """Cut a node in two; returns the upper one. Copies, so that each half can be freed by itself."""
        assert node.states is not None and node.parent is not None
        upper = _Node(node.keys[:length], node.states[:, :, :, :length].clone(), node.parent, node.used)
        node.parent.children[int(upper.keys[0])] = upper
        node.keys, node.states, node.parent = node.keys[length:], node.states[:, :, :, length:].clone(), upper
        upper.children[int(node.keys[0])] = node
        return upper

    def _make_room(self) -> None:
        while self.num_bytes > self._max_bytes:
            session, leaf = min(
                ((name, leaf) for name, root in self._roots.items() for leaf in root.leaves()),
                key=lambda named: named[1].used,
            )
            assert leaf.parent is not None
            del leaf.parent.children[int(leaf.keys[0])]
            self.num_bytes -= leaf.num_bytes
            if not self._roots[session].children:
                del self._roots[session]

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


def _common_length(ours: Keys, theirs: Keys) -> int:
    length = min(len(ours), len(theirs))
    different = np.flatnonzero(ours[:length] != theirs[:length])
    return int(different[0]) if len(different) else length


def _all_below(root: _Node) -> Sequence[_Node]:
    return [root, *(node for child in root.children.values() for node in _all_below(child))]
