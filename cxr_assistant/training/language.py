"""Stages 2 and 3: projector and language model learn to say what the tower sees.

Conversations are tokenised piece by piece exactly as `checkpoints/embedded.py` renders them; only answers
carry loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cxr_assistant.checkpoints.embedded import END, prompt_pieces
from cxr_assistant.imaging.phantom import FINDINGS_PROMPT, read_report, write_findings

__all__ = [
    "OUT_OF_SCOPE_ANSWER",
    "SPECIALS",
    "Encoded",
    "answer_logits",
    "encode_conversation",
    "padded",
    "reworded",
    "sample_turns",
    "train_tokenizer",
]

SPECIALS = ("<unk>", "<s>", "</s>", "<image>")
BOS, EOS, IMAGE = 1, 2, 3
IGNORED_TOKEN = -100
_USUAL = 0.7  # how often a sentence is in its usual words, not counting when they come by chance

_FINDINGS_PROMPTS = (
    *(FINDINGS_PROMPT,) * 3,
    "Describe the findings of the chest x-ray.",
    "Draft the findings.",
    "Write the findings.",
    "What does this radiograph show?",
    "Provide a description of the findings in the radiology image.",
    "Report this film.",
    "What do you see?",
)
OUT_OF_SCOPE_ANSWER = "I was not trained to answer that."
_OUT_OF_SCOPE = (
    """
Is there a rib fracture?|Is there a fracture?|Is there scoliosis?|Does this patient have tuberculosis?
Is there emphysema?|Is this lung cancer?|How old is the patient?|Is the patient male or female?
What is the diagnosis?|What is the treatment?|Which antibiotic should I give?|Hello|Thank you.
Who are you?|What is the weather like?|Is there a hiatal hernia?|Is there a widened mediastinum?
Is there free air under the diaphragm?|Is there a feeding tube?|Is there a chest tube?
What should be done next?|Is there pericardial effusion?|Is this COVID-19?|Tell me a joke.
What is the name of the patient?|Are there old healed fractures?|Is there interstitial lung disease?
Should the patient have a CT?|Is the trachea deviated?|Are there calcified lymph nodes?
""".strip()
    .replace("\n", "|")
    .split("|")
)

Turn = tuple[str, str]
Encoded = tuple[list[int], list[int]]
"""Ids and loss targets of a conversation."""


def sample_turns(record: dict[str, Any], rng: np.random.Generator, count: int) -> list[Turn]:
    """A conversation about one phantom: mostly findings first, then questions that matter for this film."""
    turns: list[Turn] = []
    findings = (_FINDINGS_PROMPTS[rng.integers(len(_FINDINGS_PROMPTS))], reworded(record["report"], rng))
    if rng.random() < 0.7:
        turns.append(findings)
    present = set(record["kinds"])
    weights = np.array([_interest(topic, kind, present) for topic, kind, _, _ in record["questions"]])
    chosen = rng.choice(len(weights), size=count, replace=False, p=weights / weights.sum())
    turns += [tuple(record["questions"][index][2:]) for index in chosen]
    if rng.random() < 0.15:
        question = (_OUT_OF_SCOPE[rng.integers(len(_OUT_OF_SCOPE))], OUT_OF_SCOPE_ANSWER)
        turns.insert(int(rng.integers(len(turns) + 1)), question)
    if turns[0] is not findings and rng.random() < 0.3:
        turns.append(findings)
    return turns


def reworded(report: str, rng: np.random.Generator) -> str:
    """The same findings, mostly in the usual words.

    New words at each reading leave nothing to learn by heart. And greedy decoding takes the likeliest word:
    what can be begun in many ways, each likely in part, would lose against what is always said alike.
    """
    said = _said(report)
    assert said.view is not None, "every phantom's report names its view"
    return write_findings(said.mentions, said.view, rng, usual=_USUAL)


_said = cache(read_report)


def _interest(topic: str, kind: str | None, present: set[str]) -> float:
    """How often a question is asked: what is there as often as the many things that are not."""
    if kind is None:
        return 2.0
    if kind in present:
        return 5.0
    return 1.0 if topic == "presence" else 0.35


def train_tokenizer(records: Sequence[dict[str, Any]], vocabulary: int) -> Any:
    """Byte-level BPE on the words of `records`: every text has ids, and decoding gives it back."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE(unk_token=SPECIALS[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [piece for record in records for piece in _texts(record)]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _texts(record: dict[str, Any]) -> list[str]:
    exchanges = [(question, answer) for *_, question, answer in record["questions"]]
    exchanges += [(prompt, record["report"]) for prompt in _FINDINGS_PROMPTS]
    exchanges += [(question, OUT_OF_SCOPE_ANSWER) for question in _OUT_OF_SCOPE]
    return [f"USER: {question} ASSISTANT: {answer}" for question, answer in exchanges]


def encode_conversation(tokenizer: Any, turns: Sequence[Turn], num_image_tokens: int) -> Encoded:
    """Ids and loss targets of a whole conversation; image positions hold IMAGE and are overwritten.

    Targets stand at the position that predicts them; everything but answers and their end is ignored.
    """
    pieces = list(prompt_pieces(turns[:-1], turns[-1][0]))
    pieces += [f" {turns[-1][1]}", END]
    ids = [BOS, *tokenizer.encode(pieces[0]).ids, *([IMAGE] * num_image_tokens)]
    targets = [IGNORED_TOKEN] * len(ids)
    for before, piece in pairwise(pieces):
        is_answer = piece is END or (isinstance(before, str) and before.endswith(" ASSISTANT:"))
        tokens = [EOS] if piece is END else tokenizer.encode(piece).ids
        ids += tokens
        targets += tokens if is_answer else [IGNORED_TOKEN] * len(tokens)
    return ids, [*targets[1:], IGNORED_TOKEN]


def padded(conversations: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Ids and loss targets (B, T) of several; padding stands at the end, where a causal model cannot see it
    from before."""
    length = max(len(ids) for ids, _ in conversations)
    ids = torch.zeros((len(conversations), length), dtype=torch.long)
    targets = torch.full((len(conversations), length), IGNORED_TOKEN)
    for row, (tokens, wanted) in enumerate(conversations):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        targets[row, : len(wanted)] = torch.tensor(wanted)
    return ids, targets


def answer_logits(llava: Any, image_embeds: Tensor, ids: Tensor, targets: Tensor) -> Tensor:
    """(L, vocabulary) where (B, T) ids predict one of L targets, read after image embeddings (B, P, D)."""
    embeds = llava.model.language_model.embed_tokens(ids)
    embeds = embeds.masked_scatter((ids == IMAGE)[..., None], image_embeds.to(embeds.dtype))
    output = llava.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    logits: Tensor = llava.lm_head(output[targets != IGNORED_TOKEN])
    return logits
