"""One tiny model of random weights for all tests of the engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxr_assistant.checkpoints import embedded
from cxr_assistant.conversation import Conversation
from cxr_assistant.models.vlm import Prompt, VisionLanguageModel
from cxr_assistant.study import Radiograph, Study
from cxr_assistant.tasks import Task


def random_film(seed: int) -> Radiograph:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 48), dtype=np.uint8)
    return Radiograph(stored=pixels, bits_stored=8)


def make_prompt(model: VisionLanguageModel, question: str, *, film: int = 0) -> Prompt:
    study = Study(radiographs=(random_film(film),))
    conversation = Conversation().ask(question)
    return embedded.render(embedded.CHECKPOINT, study, conversation, Task.QUESTION, model.processor)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "embedded"
    embedded.make_random(folder)
    return folder


@pytest.fixture(scope="session")
def model(tiny_folder: Path) -> VisionLanguageModel:
    return embedded.build(tiny_folder, device="cpu", precision="fp32")


@pytest.fixture
def prompt(model: VisionLanguageModel) -> Prompt:
    return make_prompt(model, "Is there a pneumothorax?")
