"""Logits -> one token for each stream of a batch, and how likely it was.

Knows numbers only; must not know text.
"""

# B streams, V vocabulary

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cxr_assistant.generation import SamplingParams

__all__ = ["Sampler", "Token", "choose", "most_likely"]


class Token(NamedTuple):
    """A chosen token; `logprob` is its log-probability under the model itself, whatever the temperature."""

    token_id: int
    logprob: float


class Sampler:
    """Draws the tokens of one answer; the same seed and logits give the same tokens, alone or in a batch."""

    def __init__(self, params: SamplingParams, device: torch.device) -> None:
        self._params = params
        self.is_greedy = params.is_greedy
        if not self.is_greedy:
            self._generator = torch.Generator(device=device).manual_seed(params.seed)

    def draw(self, logits: Tensor) -> Tensor:
        """The next id (1,) of logits (V,), drawn on their device."""
        probabilities = (logits / self._params.temperature).softmax(-1)
        if self._params.top_p < 1.0:
            probabilities = _nucleus(probabilities, self._params.top_p)
        return torch.multinomial(probabilities, 1, generator=self._generator)


def most_likely(logits: Tensor) -> Tensor:
    """Greedy ids and their log-probabilities, (2, B) float64, of logits (B, V); ids are exact in float64."""
    best, token_ids = logits.max(dim=-1)
    return torch.stack((token_ids.double(), (best - logits.logsumexp(-1)).double()))


@torch.inference_mode()
def choose(logits: Tensor, samplers: Sequence[Sampler], greedy: Tensor | None = None) -> list[Token]:
    """The next token of each row of float32 logits (B, V), read from the device in one transfer.

    greedy: `most_likely(logits)` where that is known already.
    """
    chosen = most_likely(logits) if greedy is None else greedy
    drawing = [row for row, sampler in enumerate(samplers) if not sampler.is_greedy]
    if drawing:
        chosen = chosen.clone()
    for row in drawing:
        token_id = samplers[row].draw(logits[row])
        chosen[0, row : row + 1] = token_id
        # Gathered, not indexed by a value: that would wait for the device at every row.
        chosen[1, row : row + 1] = logits[row].log_softmax(-1).gather(0, token_id)
    return [Token(int(token_id), logprob) for token_id, logprob in zip(*chosen.tolist(), strict=True)]


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero all but the smallest set of most likely tokens that holds `top_p`; at least one stays."""
    ordered, order = probabilities.sort(descending=True)
    mass_before = ordered.cumsum(-1) - ordered
    kept = torch.where(mass_before < top_p, ordered, 0.0)
    return torch.zeros_like(probabilities).scatter(-1, order, kept)
