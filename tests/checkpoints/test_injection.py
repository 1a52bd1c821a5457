"""Nothing that a person writes, and nothing that a model wrote before, changes the template of any family."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr_assistant.bounds import in_plain_words, with_plain_indication
from cxr_assistant.checkpoints.random_sizes import TINY_SIZES
from cxr_assistant.checkpoints.random_weights import write_random_checkpoint
from cxr_assistant.checkpoints.spec import find_module, get_checkpoint
from cxr_assistant.conversation import Conversation
from cxr_assistant.models.vlm import Prompt
from cxr_assistant.settings import PROJECT_ROOT
from cxr_assistant.study import Radiograph, Study, ViewPosition
from cxr_assistant.tasks import Task
from tests.payloads import INJECTIONS, PAYLOADS

FAMILIES = ("embedded", "chexagent", "cxr-llava", "llava-rad")
STUDY = Study(
    (
        Radiograph(
            stored=np.arange(4096, dtype=np.uint16).reshape(64, 64), bits_stored=12, view=ViewPosition.PA
        ),
    )
)


class Family:
    def __init__(self, name: str, folder: Path) -> None:
        self.checkpoint, self.module = get_checkpoint(name), find_module(name)
        converted = PROJECT_ROOT / "weights" / "embedded"
        if not self.checkpoint.is_embedded:
            converted = folder / "converted"
            converted.mkdir()
            write_random_checkpoint(self.checkpoint, folder / "random", sizes=TINY_SIZES)
            published = sorted((folder / "random").iterdir())
            self.module.convert(published, converted, precision="fp32")
        self.processor = self.module.build(converted, device="cpu", precision="fp32").processor
        self.task = Task.QUESTION if Task.QUESTION in self.checkpoint.tasks else Task.FINDINGS

    def render(self, conversation: Conversation, indication: str = "") -> Prompt:
        study, said = with_plain_indication(STUDY.with_indication(indication)), in_plain_words(conversation)
        prompt: Prompt = self.module.render(self.checkpoint, study, said, self.task, self.processor)
        return prompt

    def frame(self, prompt: Prompt) -> tuple[Any, ...]:
        """What the template is made of: its special tokens in order, its images, and how it ends."""
        inside = {i for s in prompt.image_spans for i in range(s.start, s.start + s.length)}
        special = self.processor.tokenizer._special_ids
        kept = [t for i, t in enumerate(prompt.token_ids) if i not in inside and t in special]
        return kept, len(prompt.image_spans), prompt.token_ids[-3:]

    def num_words(self, prompt: Prompt, word: str) -> int:
        return Counter(self.processor.tokenizer.decode(prompt.token_ids).split())[word]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.requirement("O1")
def test_a_question_cannot_change_the_template(family: Family) -> None:
    plain = family.frame(family.render(Conversation().ask("Is the heart enlarged?")))
    for payload in (*INJECTIONS, *PAYLOADS):
        asked = family.render(Conversation().ask(f"Is {payload} the heart enlarged?"))
        assert family.frame(asked) == plain, payload


@pytest.mark.requirement("O1")
def test_an_earlier_answer_cannot_change_the_template(family: Family) -> None:
    def told(words: str) -> Conversation:
        return Conversation().ask("Findings?").answer(words, family.checkpoint.name).ask("And the heart?")

    plain = family.frame(family.render(told("No effusion.")))
    for payload in INJECTIONS:
        assert family.frame(family.render(told(f"No {payload} effusion."))) == plain, payload


@pytest.mark.requirement("O1")
def test_an_indication_cannot_change_the_template(family: Family) -> None:
    plain = family.frame(family.render(Conversation().ask("Findings?"), indication="cough"))
    for payload in INJECTIONS:
        asked = family.render(Conversation().ask("Findings?"), indication=f"cough {payload} fever")
        assert family.frame(asked) == plain, payload


@pytest.mark.requirement("O1")
def test_no_word_that_begins_a_turn_comes_out_of_a_turn() -> None:
    said = Conversation().ask(" ".join(INJECTIONS)).answer(" ".join(INJECTIONS))
    told = [turn.text for turn in in_plain_words(said).turns]
    told.append(with_plain_indication(STUDY.with_indication(" ".join(INJECTIONS))).indication)
    for text in told:
        assert not any(word in text for word in ("USER:", "ASSISTANT:", "[INST]", "[/INST]", "<<SYS>>"))
