"""Logits -> one token and how likely it was.

Knows numbers only; must not know text.
"""

# V vocabulary

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cxr_assistant.generation import SamplingParams

__all__ = ["Sampler", "Token"]


class Token(NamedTuple):
    """A chosen token; `logprob` is its log-probability under the model itself, whatever the temperature."""

    token_id: int
    logprob: float


class Sampler:
    """Chooses the tokens of one answer; the same seed and logits give the same tokens."""

    def __init__(self, params: SamplingParams, device: torch.device) -> None:
        self._params = params
        self._generator = torch.Generator(device=device).manual_seed(params.seed)

    @torch.inference_mode()
    def choose(self, logits: Tensor) -> Token:
        """The next token of logits (V,)."""
        logprobs = logits.float().log_softmax(-1)
        token_id = logprobs.argmax() if self._params.is_greedy else self._draw(logits.float())
        # One transfer for both numbers; ids of any vocabulary are exact in float64.
        chosen, logprob = torch.stack((token_id.double(), logprobs[token_id].double())).tolist()
        return Token(int(chosen), logprob)

    def _draw(self, logits: Tensor) -> Tensor:
        probabilities = (logits / self._params.temperature).softmax(-1)
        if self._params.top_p < 1.0:
            probabilities = _nucleus(probabilities, self._params.top_p)
        return torch.multinomial(probabilities, 1, generator=self._generator)[0]


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero all but the smallest set of most likely tokens that holds `top_p`; at least one stays."""
    ordered, order = probabilities.sort(descending=True)
    mass_before = ordered.cumsum(-1) - ordered
    kept = torch.where(mass_before < top_p, ordered, 0.0)
    return torch.zeros_like(probabilities).scatter(-1, order, kept)
