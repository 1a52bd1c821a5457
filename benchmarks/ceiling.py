"""What the hardware allows: rates measured here and now, and the work that a model cannot avoid.

Knows bytes and multiplications; must not know who does the work. Nothing below is a data sheet's number.
"""

# N images, P tokens per image, V width of the tower, D width of the language model, T tokens of a prompt

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import nn

from cxr_assistant.models.layers import head_width
from cxr_assistant.models.stem import StemmedPatches

__all__ = ["Rates", "Work", "measure_flops_per_s", "measure_read_bytes_per_s", "measure_work", "synchronize"]

REPETITIONS = 4
MAX_READ_BYTES = 1 << 30
MIN_READ_BYTES = 1 << 22
MATRIX = {"cpu": (512, 2048, 5632), "cuda": (8192, 8192, 8192)}  # m, k, n


@dataclass(frozen=True)
class Rates:
    """How fast this device reads memory, and multiplies matrices in one type; the best that was seen."""

    read_bytes_per_s: float
    flops_per_s: float


@dataclass(frozen=True)
class Work:
    """What must be done whatever the program: bytes per token, multiplications (two FLOPs each) before it.

    weight_bytes: decoder and head as they lie in memory, read once for every token, or every step of a batch.
    """

    weight_bytes: int
    kv_bytes_per_position: int
    decoder_weights: int
    head_weights: int
    attention_width: int
    num_layers: int
    encode_flops: float

    def token_bytes(self, num_positions: int, *, num_streams: int = 1) -> int:
        """Bytes that one step moves when each stream has `num_positions` behind it."""
        return self.weight_bytes + num_streams * num_positions * self.kv_bytes_per_position

    def prefill_flops(self, num_tokens: int) -> float:
        """Causal attention does half of the square; the head is needed for the last position alone."""
        products = 2.0 * self.decoder_weights * num_tokens + 2.0 * self.head_weights
        return products + 2.0 * num_tokens**2 * self.attention_width * self.num_layers

    def floor_s(self, rates: Rates, num_tokens: int) -> float:
        """The least time to the first token of a new image: its encoding, the prompt, one reading of all."""
        flops = self.encode_flops + self.prefill_flops(num_tokens)
        return max(flops / rates.flops_per_s, self.weight_bytes / rates.read_bytes_per_s)


def measure_read_bytes_per_s(device: str, num_bytes: int) -> float:
    """Reading a buffer of `num_bytes` (4 MiB to 1 GiB), with the fastest reduction or copy that torch has.

    A small model lives in a cache, and so does a small buffer: like is compared with like.
    """
    size = min(max(num_bytes, MIN_READ_BYTES), MAX_READ_BYTES)
    buffer = torch.ones(size // 4, device=device)
    readers: list[tuple[int, Callable[[], Any]]] = [
        (size, lambda: torch.dot(buffer, buffer)),
        (size, buffer.amax),
    ]
    if buffer.is_cuda:
        other = torch.empty_like(buffer)
        readers.append((2 * size, lambda: other.copy_(buffer)))
    return max(moved / _best_s(read, buffer.device) for moved, read in readers)


def measure_flops_per_s(device: str, dtype: torch.dtype) -> float:
    """A matrix product in `dtype`, as wide as the layers of a 1B model, by the faster of torch's kernels."""
    m, k, n = MATRIX[torch.device(device).type]
    inputs, weight = (torch.ones(shape, dtype=dtype, device=device) for shape in ((m, k), (n, k)))
    products: list[Callable[[], Any]] = [lambda: nn.functional.linear(inputs, weight)]
    if not inputs.is_cuda and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, m)
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(inputs, packed, None, "none", [], ""))
    return 2.0 * m * k * n / min(_best_s(product, inputs.device) for product in products)


@torch.inference_mode()
def _best_s(work: Callable[[], Any], device: torch.device) -> float:
    times = []
    for _ in range(REPETITIONS + 1):
        synchronize(device)
        started = perf_counter()
        work()
        synchronize(device)
        times.append(perf_counter() - started)
    return min(times[1:])


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_work(model: Any) -> Work:
    """The work of a `DecoderModel`, counted from its modules and its configuration."""
    decoder, config = model.language_model, model.language_model.config
    width = head_width(config)
    return Work(
        weight_bytes=_num_bytes(decoder.layers) + _num_bytes(model.head),
        kv_bytes_per_position=2
        * config.num_hidden_layers
        * config.num_key_value_heads
        * width
        * _size(model),
        decoder_weights=_num_weights(decoder.layers),
        head_weights=_num_weights(model.head),
        attention_width=config.num_attention_heads * width,
        num_layers=config.num_hidden_layers,
        encode_flops=_encode_flops(model),
    )


def _encode_flops(model: Any) -> float:
    """Tower and projector over one image; blocks behind the chosen layer are not counted."""
    tower, num_tokens = model.tower, model.processor.num_image_tokens
    vision, num_blocks = tower.config, tower.config.num_hidden_layers
    layer = getattr(getattr(model, "config", None), "vision_feature_layer", -1)
    num_needed = layer if layer >= 0 else num_blocks + 1 + layer
    # Positions of the tower: the class token too, which LLaVA drops behind it.
    patches = (vision.image_size // vision.patch_size) ** 2
    share = num_needed / num_blocks
    blocks = _num_weights(tower.encoder) * share * 2.0 * patches
    attention = 4.0 * patches**2 * vision.hidden_size * num_needed
    pixels = 2.0 * patches * vision.num_channels * vision.patch_size**2 * vision.hidden_size
    stems = (module for module in tower.modules() if isinstance(module, StemmedPatches))
    pixels += 2.0 * sum(stem.num_added_products(vision.image_size) for stem in stems)
    return float(blocks + attention + pixels + 2.0 * num_tokens * _num_weights(model.projector))


def _num_weights(module: nn.Module) -> int:
    """Of matrices alone; a layer quantised to four bits packs two weights into a number."""
    linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
    counted = {id(m.weight) for m in linears}
    others = [p for p in module.parameters() if p.ndim == 2 and id(p) not in counted]
    return sum(m.in_features * m.out_features for m in linears) + sum(p.numel() for p in others)


def _num_bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _size(model: Any) -> int:
    return int(model.dtype.itemsize)
