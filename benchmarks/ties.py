"""Where two ways say different things, and how nearly the model itself was undecided there.

Knows ids and logits; must not know who said what. Two orders of summation give logits that differ in their
last digits, and greedy decoding goes separate ways for good where the two best are closer than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from cxr_assistant.models.vlm import Prompt

__all__ = ["Parting", "find_parting"]

CLEAR_MARGIN = 1e-3
"""Between the two best logits in float32: what differs by more must be chosen by everybody."""


class Parting(NamedTuple):
    """The first token at which two answers differ; `margin` between the model's two best logits there."""

    token: int
    margin: float

    @property
    def is_tie(self) -> bool:
        return self.margin <= CLEAR_MARGIN


def find_parting(model: Any, prompt: Prompt, one: Sequence[int], other: Sequence[int]) -> Parting | None:
    """None where both say the same, as far as the shorter goes."""
    pairs = zip(one, other, strict=False)
    token = next((place for place, (first, second) in enumerate(pairs) if first != second), None)
    if token is None:
        return None
    whole = replace(prompt, token_ids=(*prompt.token_ids, *one[:token]))
    embeds = model.encode(prompt.pixel_values) if prompt.digests else []
    scores = model.score(whole, embeds, model.new_cache(len(whole)))[-1]
    best, second = scores.topk(2).values.tolist()
    return Parting(token, best - second)
