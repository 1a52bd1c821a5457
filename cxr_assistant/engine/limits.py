"""How much one model takes on at once: slots, those who wait, memory, and how much of a prompt is one step.

Knows sizes and rates of devices; must not know streams.
"""

from __future__ import annotations

from dataclasses import dataclass

from cxr_assistant.engine.memory import free_bytes
from cxr_assistant.models.kv_cache import KVCache
from cxr_assistant.models.places import SPLIT
from cxr_assistant.models.vlm import VisionLanguageModel

__all__ = ["Limits", "make_slots", "prefill_chunk", "prefix_bytes"]

MAX_SLOTS = 16
MAX_WAITING = 64
CACHE_SHARE = 0.4
"""Of the memory that is free once the weights are there; the rest is for prefills, towers and prefixes."""

PREFIX_BYTES = 1536 * 2**20
"""For what sessions have had read: two whole conversations of LLaVA-Rad, hundreds of the embedded model."""

PREFIX_SHARE = 0.2
"""Of what a GPU has free beside weights and slots, where that is more: on 80 GB some 10 conversations of
LLaVA-Rad (computed), so that visitors who take turns do not read their films anew at each question."""

CHUNK_FLOPS = {"cpu": 1e11, "cuda": 7e12}
"""What a prefill step may cost while others wait for a token: 0.2 to 0.3 s on two CPU cores, 15 ms on an
H100 (computed)."""

CHUNK_RANGE = (16, 512)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one model may take on; `prefill_chunk` of None follows from the size of the model."""

    max_slots: int = MAX_SLOTS
    max_waiting: int = MAX_WAITING
    prefill_chunk: int | None = None
    embedding_bytes: int = 256 * 2**20  # about twenty pictures of LLaVA-Rad, 1369 x 4096 in half precision
    prefix_bytes: int | None = None  # follows from the device


def make_slots(model: VisionLanguageModel, max_slots: int) -> KVCache:
    """The cache of all streams: as many slots of the whole context as fit into memory, at least one."""
    block = SPLIT if model.device.type == "cuda" else 1
    max_tokens = -(-model.processor.context_length // block) * block
    fitting = int(CACHE_SHARE * free_bytes(model.device) / (max_tokens * model.kv_shape.bytes_per_token))
    return model.new_cache(max_tokens, num_slots=max(1, min(max_slots, fitting)))


def prefix_bytes(model: VisionLanguageModel) -> int:
    """Memory for prefixes, once the slots are there."""
    share = PREFIX_SHARE * free_bytes(model.device) if model.device.type == "cuda" else 0
    return max(PREFIX_BYTES, int(share))


def prefill_chunk(model: VisionLanguageModel) -> int:
    low, high = CHUNK_RANGE
    affordable = CHUNK_FLOPS.get(model.device.type, CHUNK_FLOPS["cpu"]) / (2 * model.num_decoder_weights)
    return int(min(max(affordable, low), high)) // low * low
