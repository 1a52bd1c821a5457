"""CXR-LLaVA's prompts: the authors' chat format on one frontal film."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_assistant.checkpoints import cxr_llava
from cxr_assistant.checkpoints.cxr_llava import CHECKPOINT, LlamaPieces
from cxr_assistant.conversation import Conversation, Role
from cxr_assistant.errors import MissingRadiograph, WeightsMismatch
from cxr_assistant.models.vlm import Processor
from cxr_assistant.study import Radiograph, Study, ViewPosition
from cxr_assistant.tasks import Task
from tests.checkpoints.golden import COPIES

FIXTURE = COPIES / "cxr_llava_tiny"


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Processor:
    target = tmp_path_factory.mktemp("converted")
    cxr_llava.convert([FIXTURE], target, precision="bf16")
    from cxr_assistant.checkpoints.convert import read_json

    return cxr_llava._read_processor(target, read_json(target / "config.json"))


def film(view: ViewPosition) -> Study:
    return Study().with_radiograph(Radiograph(np.ones((64, 64), np.uint8), bits_stored=8, view=view))


def test_a_lateral_film_alone_is_refused(processor: Processor) -> None:
    with pytest.raises(MissingRadiograph, match="reads a frontal radiograph; the study holds a lateral film"):
        cxr_llava.render(CHECKPOINT, film(ViewPosition.LATERAL), Conversation(), Task.REPORT, processor)


def test_no_film_at_all_is_refused(processor: Processor) -> None:
    with pytest.raises(MissingRadiograph):
        cxr_llava.render(CHECKPOINT, Study(), Conversation(), Task.REPORT, processor)


def test_the_prompt_of_the_next_turn_continues_that_of_the_last(processor: Processor) -> None:
    study, first = film(ViewPosition.PA), Conversation().ask("Is there a tube?")
    later = first.answer("No.").ask("Sure?")
    prompts = [cxr_llava.render(CHECKPOINT, study, c, Task.QUESTION, processor) for c in (first, later)]
    common = len(prompts[0])
    assert prompts[1].token_ids[: common - 1] == prompts[0].token_ids[:-1]


def test_neighbours_of_one_role_become_one_turn() -> None:
    merged = cxr_llava._merged([(Role.ASSISTANT, "a"), (Role.USER, "b"), (Role.USER, "c")])
    assert merged == [(Role.USER, "b\nc")]


def test_the_flag_of_the_tokenizer_decides_about_the_dummy_prefix(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = LlamaPieces.of(processor)
    modern = pieces.encode_after_special("[INST]")
    monkeypatch.setattr(pieces, "_is_legacy", True)
    assert pieces.encode_after_special("[INST]") == pieces.encode("[INST]") != modern


@pytest.mark.parametrize("key", ["attentional_pool", "no_ln_pre"])
def test_a_tower_that_is_not_computed_here_is_refused(key: str) -> None:
    with pytest.raises(WeightsMismatch, match=f"clip_vision_cfg.{key} is True"):
        cxr_llava._refuse_unknown_vision({key: True})
