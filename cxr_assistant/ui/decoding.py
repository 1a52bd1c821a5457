"""How tokens are chosen, as a person sets it: four fields with sane limits, narrower than the engine's own.

Knows the sampling parameters; knows no page. What a browser sends is read here and refused in words.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxr_assistant.errors import GenerationError
from cxr_assistant.generation import SamplingParams

if TYPE_CHECKING:
    from cxr_assistant.checkpoints.spec import Checkpoint

__all__ = ["LIMITS", "Decoding", "longest_answer"]

LIMITS: Mapping[str, tuple[float, float, float]] = {  # lowest, highest, step
    "temperature": (0.0, 1.5, 0.05),  # above that a report is noise
    "top_p": (0.05, 1.0, 0.05),
    "max_new_tokens": (16, 1024, 16),
    "seed": (0, 2**31 - 1, 1),  # as many as a person can copy without mistakes
}


@dataclass(frozen=True)
class Decoding:
    """The four settings; `max_new_tokens` None leaves it to the checkpoint, `seed` None to chance."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    seed: int | None = None

    @classmethod
    def read(cls, fields: Mapping[str, str]) -> Decoding:
        """The settings in the texts of a form; an empty one is its default. Raises GenerationError."""
        temperature, top_p = _number(fields, "temperature"), _number(fields, "top_p")
        longest, seed = _number(fields, "max_new_tokens"), _number(fields, "seed")
        return cls(
            0.0 if temperature is None else temperature,
            1.0 if top_p is None else top_p,
            None if longest is None else int(longest),
            None if seed is None else int(seed),
        )

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    def params(self, checkpoint: Checkpoint) -> SamplingParams:
        """What is asked of the engine, never more than `checkpoint` can write. A seed left to chance is drawn
        here, so that it can be told; greedy decoding draws nothing and keeps to its defaults."""
        longest = min(self.max_new_tokens or checkpoint.max_new_tokens, longest_answer(checkpoint))
        if self.is_greedy:
            return SamplingParams(max_new_tokens=longest)
        seed = secrets.randbelow(1_000_000) if self.seed is None else self.seed
        return SamplingParams(
            temperature=self.temperature, top_p=self.top_p, max_new_tokens=longest, seed=seed
        )

    def as_dict(self) -> dict[str, str]:
        """The texts of the form."""
        return {
            "temperature": f"{self.temperature:g}",
            "top_p": f"{self.top_p:g}",
            "max_new_tokens": "" if self.max_new_tokens is None else str(self.max_new_tokens),
            "seed": "" if self.seed is None else str(self.seed),
        }


def longest_answer(checkpoint: Checkpoint) -> int:
    """The most tokens that may be asked of `checkpoint`: half of its context leaves room for the film."""
    return int(min(LIMITS["max_new_tokens"][1], max(checkpoint.context_length // 2, 16)))


def _number(fields: Mapping[str, str], name: str) -> float | None:
    text = fields.get(name, "").strip()[:20]
    if not text:
        return None
    low, high, step = LIMITS[name]
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high or (step >= 1 and value != int(value)):
        kind = "a whole number" if step >= 1 else "a number"
        raise GenerationError(
            f"The {name.replace('_', ' ')} is {text!r}; allowed: {kind} from {low:g} to {high:.10g}.",
            hint="Change it under Settings, below the question.",
            code="bad_setting",
        )
    return value
