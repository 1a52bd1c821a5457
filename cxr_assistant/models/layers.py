"""Llama and Phi decoders written out: the arithmetic of transformers' layers without their bookkeeping.

Knows the two kinds of layer, whose weights stay in the modules they came from; must not know towers, prompts
or checkpoints. For a small model Python and dispatch are most of a token's time, for a large one on a GPU the
launches are, and only code without host values can be recorded.
"""

# n positions, D width, H query heads, G key-value heads, K head width

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cxr_assistant.models.kv_cache import KVCache
from cxr_assistant.models.packing import PackedProduct, can_pack
from cxr_assistant.models.places import Places, RotaryTable

__all__ = ["WrittenDecoder", "can_write_out", "head_width"]

Map = Callable[[Tensor], Tensor]

FUSE_BYTES = 64 * 2**20
"""On the CPU, float32 decoders below this gain more by fewer calls than they lose by being copied; larger
ones, and those in their stored type, stay mapped to their file."""

_FIXED_ROTARY = frozenset({"default", "linear", "llama3"})  # tables that do not depend on the length


def can_write_out(language_model: Any) -> bool:
    """True for LlamaModel and PhiModel whose weights are in memory."""
    rotary = getattr(language_model, "rotary_emb", None)
    if type(language_model).__name__ not in _KINDS or getattr(rotary, "rope_type", "") not in _FIXED_ROTARY:
        return False
    is_on_disk = any(getattr(layer, "stays_on_disk", False) for layer in language_model.layers)
    return not is_on_disk and not getattr(language_model.config, "qk_layernorm", False)


def head_width(config: Any) -> int:
    """K of a decoder; older configurations leave it to be computed."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


class WrittenDecoder:
    """Hidden states in, hidden states out, final norm included; keys and values go to the cache."""

    def __init__(self, language_model: Any) -> None:
        config, weight = language_model.config, language_model.get_input_embeddings().weight
        width = head_width(config)
        self.dtype: torch.dtype = weight.dtype
        self.rotary = RotaryTable(language_model.rotary_emb, width, dtype=weight.dtype, device=weight.device)
        kind = _KINDS[type(language_model).__name__]
        num_bytes = sum(p.numel() * p.element_size() for p in language_model.layers.parameters())
        fuses = weight.is_cuda or (weight.dtype == torch.float32 and num_bytes < FUSE_BYTES)
        packs = not weight.is_cuda and can_pack(language_model.layers)
        self._layers = [kind(layer, config, width, _Layout(fuses, packs)) for layer in language_model.layers]
        self._norm = kind.norm(language_model, config)

    def __call__(self, hidden: Tensor, places: Places, kv_cache: KVCache) -> Tensor:
        """(n, D) -> (n, D)."""
        for layer, keys, values in zip(self._layers, kv_cache.keys, kv_cache.values, strict=True):
            hidden = layer(hidden, places, keys, values)
        return self._norm(hidden)


class _Layout(NamedTuple):
    """How the matrices of a decoder lie: as they are, those of one input joined, or packed for the CPU."""

    fuses: bool
    packs: bool

    def joined(self, *layers: nn.Module) -> Map:
        """The products of one input, side by side; quantised layers stay as they are."""
        plain = [layer for layer in layers if type(layer) is nn.Linear]
        fused = _fused(plain) if len(plain) == len(layers) > 1 and self.fuses else None
        if len(plain) == len(layers) and self.packs:
            return PackedProduct(plain, fused)
        if fused is not None:
            return fused
        products = [_product(layer) for layer in layers]
        if len(products) == 1:
            return products[0]
        return lambda hidden: torch.cat([product(hidden) for product in products], dim=-1)


class _Layer(ABC):
    """What both kinds share: attention between a product in front and one behind."""

    def __init__(self, attention: Any, output: nn.Module, config: Any, width: int, layout: _Layout) -> None:
        self._num_queries: int = config.num_attention_heads
        self._num_turned: int = config.num_attention_heads + config.num_key_value_heads
        self._width = width
        self._qkv = layout.joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self._output = layout.joined(output)

    @staticmethod
    @abstractmethod
    def norm(language_model: Any, config: Any) -> Map:
        """The decoder's last norm."""

    @abstractmethod
    def __call__(self, hidden: Tensor, places: Places, keys: Tensor, values: Tensor) -> Tensor: ...

    def _attention(self, hidden: Tensor, places: Places, keys: Tensor, values: Tensor) -> Tensor:
        heads = self._qkv(hidden).view(len(hidden), -1, self._width)
        turned = places.turn(heads[:, : self._num_turned])
        places.store(keys, turned[:, self._num_queries :])
        places.store(values, heads[:, self._num_turned :])
        return self._output(places.attend(turned[:, : self._num_queries], keys, values))


class _LlamaLayer(_Layer):
    """Attention, then a gated MLP, each behind a root-mean-square norm (transformers LlamaDecoderLayer)."""

    def __init__(self, layer: Any, config: Any, width: int, layout: _Layout) -> None:
        super().__init__(layer.self_attn, layer.self_attn.o_proj, config, width, layout)
        self._first_norm = _rms_norm(layer.input_layernorm)
        self._second_norm = _rms_norm(layer.post_attention_layernorm)
        self._gate_and_up = layout.joined(layer.mlp.gate_proj, layer.mlp.up_proj)
        self._activation: Map = _activation(layer.mlp.act_fn)
        self._down = layout.joined(layer.mlp.down_proj)

    @staticmethod
    def norm(language_model: Any, config: Any) -> Map:
        return _rms_norm(language_model.norm)

    def __call__(self, hidden: Tensor, places: Places, keys: Tensor, values: Tensor) -> Tensor:
        hidden = hidden + self._attention(self._first_norm(hidden), places, keys, values)
        gate, up = self._gate_and_up(self._second_norm(hidden)).chunk(2, dim=-1)
        return hidden + self._down(self._activation(gate) * up)


class _PhiLayer(_Layer):
    """Attention and MLP side by side behind one layer norm (transformers PhiDecoderLayer)."""

    def __init__(self, layer: Any, config: Any, width: int, layout: _Layout) -> None:
        super().__init__(layer.self_attn, layer.self_attn.dense, config, width, layout)
        self._norm = _layer_norm(layer.input_layernorm)
        self._activation: Map = _activation(layer.mlp.activation_fn)
        self._up, self._down = layout.joined(layer.mlp.fc1), layout.joined(layer.mlp.fc2)

    @staticmethod
    def norm(language_model: Any, config: Any) -> Map:
        return _layer_norm(language_model.final_layernorm)

    def __call__(self, hidden: Tensor, places: Places, keys: Tensor, values: Tensor) -> Tensor:
        normed = self._norm(hidden)
        attended = self._attention(normed, places, keys, values)
        return attended + self._down(self._activation(self._up(normed))) + hidden


_KINDS: dict[str, type[_LlamaLayer] | type[_PhiLayer]] = {"LlamaModel": _LlamaLayer, "PhiModel": _PhiLayer}


def _rms_norm(module: Any) -> Map:
    weight: Tensor = module.weight
    shape, eps = tuple(weight.shape), float(module.variance_epsilon)
    if weight.dtype == torch.float32:
        return partial(functional.rms_norm, normalized_shape=shape, weight=weight, eps=eps)
    # Half precision rounds before the weight is multiplied, as in transformers and in training.
    return lambda hidden: functional.rms_norm(hidden, shape, eps=eps) * weight


def _layer_norm(module: Any) -> Map:
    return partial(
        functional.layer_norm,
        normalized_shape=module.normalized_shape,
        weight=module.weight,
        bias=module.bias,
        eps=module.eps,
    )


def _activation(module: nn.Module) -> Map:
    """transformers spells the tanh approximation of GELU out in seven operations."""
    name = type(module).__name__
    if name == "NewGELUActivation":
        return partial(functional.gelu, approximate="tanh")
    return functional.silu if name == "SiLUActivation" else module


def _product(layer: nn.Module) -> Map:
    """A plain linear layer as the bare function; a quantised one as it is."""
    if type(layer) is nn.Linear:
        return partial(functional.linear, weight=layer.weight, bias=layer.bias)
    return layer


def _fused(layers: Sequence[nn.Linear]) -> Map:
    """One matrix of several; the layers keep their weights as parts of it, so none exists twice."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    sizes = [layer.out_features for layer in layers]
    for layer, part in zip(layers, torch.split(weight, sizes), strict=True):
        layer.weight = nn.Parameter(part, requires_grad=False)
    biases = [layer.bias for layer in layers if layer.bias is not None]
    bias = torch.cat([b.detach() for b in biases]) if len(biases) == len(layers) else None
    return partial(functional.linear, weight=weight, bias=bias)
