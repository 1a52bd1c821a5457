"""The decode step as it is run: eagerly, or recorded once per batch size and replayed.

The only room that knows CUDA graphs; must not know requests. Recorded by hand when the slots are made, in the
thread that makes them: what `torch.compile` records is bound to a thread, and answers hop between them.
"""

# B streams, V vocabulary

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cxr_assistant.engine.sampling import most_likely
from cxr_assistant.models.kv_cache import KVCache
from cxr_assistant.models.places import reaches
from cxr_assistant.models.vlm import VisionLanguageModel

__all__ = ["Decoded", "Decoder", "EagerDecoder", "GraphDecoder", "make_decoder"]

_LOG = logging.getLogger(__name__)

WARM_UPS = 3  # as in torch.cuda.make_graphed_callables: libraries choose kernels in the first runs


class Decoded(NamedTuple):
    """logits (B, V) float32, and what `most_likely` says of them, (2, B), both on the device."""

    logits: Tensor
    greedy: Tensor


LIGHT = 4_000_000
"""Multiplications of a step on the CPU below which a second thread is waited for longer than it helps."""


class EagerDecoder:
    """One call of the model per step."""

    is_eager = True

    def __init__(self, model: VisionLanguageModel, kv_cache: KVCache) -> None:
        self._model, self._kv_cache = model, kv_cache
        self._max_light_rows = LIGHT // max(1, model.num_decoder_weights) if model.device.type == "cpu" else 0

    def step(self, token_ids: Sequence[int], slots: Sequence[int], num_shared: int = 0) -> Decoded:
        """Append one token to each of the rising `slots`, whose first `num_shared` positions are the same."""
        if len(slots) > self._max_light_rows:
            return self._step(token_ids, slots, num_shared)
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # of this thread alone, and a tenth of a microsecond
        try:
            return self._step(token_ids, slots, num_shared)
        finally:
            torch.set_num_threads(num_threads)

    def _step(self, token_ids: Sequence[int], slots: Sequence[int], num_shared: int) -> Decoded:
        ids = torch.tensor(token_ids, device=self._model.device)
        logits = self._model.decode(ids, self._kv_cache, slots, num_shared)
        return Decoded(logits, most_likely(logits))


@dataclass(frozen=True)
class _Recording:
    """One batch size and reach: where its inputs are written, first on the host, and its outputs appear."""

    graph: Any
    staging: Tensor  # (2, B) int64, pinned: token ids, positions
    inputs: Tensor  # the same on the device
    decoded: Decoded


class GraphDecoder:
    """Replays the smallest recording that covers the slots and what they hold; rows in between are computed
    and thrown away."""

    is_eager = False

    def __init__(self, model: Any, kv_cache: KVCache, sizes: Sequence[int]) -> None:
        self._kv_cache = kv_cache
        self._recordings: dict[tuple[int, int], _Recording] = {}  # by number of slots and of positions
        pool = torch.cuda.graph_pool_handle()
        for size in sorted(sizes, reverse=True):  # the largest first: the others fit into its memory
            for reach in reaches(size * kv_cache.shape.num_heads, kv_cache.max_tokens):
                self._recordings[size, reach] = _record(model, kv_cache, size, reach, pool)

    def step(self, token_ids: Sequence[int], slots: Sequence[int], num_shared: int = 0) -> Decoded:
        """Append one token to each of the rising `slots`. A recording reads all of each, shared or not."""
        cache = self._kv_cache
        longest = max(cache.lengths[slot] for slot in slots)
        size, reach = min(key for key in self._recordings if key[0] > slots[-1] and key[1] > longest)
        recording = self._recordings[size, reach]
        newest = dict(zip(slots, token_ids, strict=True))
        # The row of a slot that is free or still reading writes where that slot's next position will be.
        positions = [min(length, cache.max_tokens - 1) for length in cache.lengths[:size]]
        # The last step was read before this one begins, so nothing is still on its way from the host.
        recording.staging.copy_(torch.tensor([[newest.get(slot, 0) for slot in range(size)], positions]))
        recording.inputs.copy_(recording.staging, non_blocking=True)
        recording.graph.replay()
        for slot in slots:
            cache.lengths[slot] += 1
        if len(slots) == size:
            return recording.decoded
        rows = torch.tensor(slots, device=recording.inputs.device)
        return Decoded(recording.decoded.logits[rows], recording.decoded.greedy[:, rows])


Decoder = EagerDecoder | GraphDecoder


@torch.inference_mode()
def make_decoder(model: VisionLanguageModel, kv_cache: KVCache) -> Decoder:
    """Recorded steps where the device and the model allow it, the plain ones elsewhere."""
    prepare = getattr(model, "prepare_static", None)
    if model.device.type != "cuda" or prepare is None or not prepare(kv_cache.max_tokens):
        return EagerDecoder(model, kv_cache)
    try:
        return GraphDecoder(model, kv_cache, _sizes(kv_cache.num_slots))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # a layer that waits for the device, in a library's version unknown here
        _LOG.warning("decode steps are not recorded, %s: %s", type(error).__name__, error)
        return EagerDecoder(model, kv_cache)


def _sizes(num_slots: int) -> list[int]:
    """1, 2, 4, ... and the number of slots itself."""
    powers = [2**n for n in range(num_slots.bit_length()) if 2**n < num_slots]
    return [*powers, num_slots]


def _record(model: Any, kv_cache: KVCache, size: int, reach: int, pool: Any) -> _Recording:
    staging = torch.zeros(2, size, dtype=torch.int64, pin_memory=True)
    inputs = staging.to(model.device)

    def run() -> Decoded:
        logits = model.static_logits(inputs[0], inputs[1], kv_cache, reach=reach)
        return Decoded(logits, most_likely(logits))

    side = torch.cuda.Stream(model.device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(model.device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            run()
    torch.cuda.current_stream(model.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the device meanwhile, for another model's tower for instance.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        decoded = run()
    return _Recording(graph, staging, inputs, decoded)
