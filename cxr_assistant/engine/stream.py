"""One answer in the making: what was asked, how far it is, and what its reader has not taken yet.

Knows its own state; must not know slots of others, order or text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from cxr_assistant.engine.prefixes import Keys
from cxr_assistant.engine.sampling import Sampler, Token
from cxr_assistant.generation import FinishReason, IsCancelled, Prefilled, Queued, SamplingParams
from cxr_assistant.models.vlm import Prompt

__all__ = ["News", "Stream"]

News = Queued | Prefilled | Token | FinishReason | Exception


@dataclass(eq=False)
class Stream:
    """`news` is what its reader has not taken yet; a reason to finish is the last.

    Without a `session` nothing of it is kept; pictures in `public` are kept for all. `seen`: embeddings
    (P, D) of pictures that were looked at before it was asked, by digest.
    """

    prompt: Prompt
    params: SamplingParams
    is_cancelled: IsCancelled
    max_new_tokens: int
    session: str | None = None
    public: Collection[str] = ()
    seen: Mapping[str, Tensor] = field(default_factory=dict)
    news: deque[News] = field(default_factory=deque)
    is_withdrawn: bool = False
    has_ended: bool = False
    arrival: int = 0
    position: int = 0  # in the queue; 0 once it has a slot
    slot: int = -1
    keys: Keys | None = None  # of the prompt, once its slot was prepared
    reused: int = 0
    token_ids: list[int] = field(default_factory=list)
    sampler: Sampler = field(init=False)
    embeds: list[Tensor | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.session = self.session or None  # an empty name is nobody's, and never that of what all may use

    @property
    def is_running(self) -> bool:
        """Its prompt is read; every step adds a token."""
        return bool(self.token_ids)

    @property
    def wants_to_end(self) -> bool:
        return self.is_withdrawn or self.is_cancelled()
