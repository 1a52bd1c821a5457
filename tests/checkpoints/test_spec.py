"""The menu as data, and one contract over every checkpoint on it."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from cxr_assistant.checkpoints import spec
from cxr_assistant.checkpoints.spec import (
    Checkpoint,
    RemoteFile,
    find_module,
    get_checkpoint,
    list_checkpoints,
)
from cxr_assistant.errors import CheckpointError, UnknownCheckpoint
from cxr_assistant.settings import PROJECT_ROOT
from cxr_assistant.tasks import Task
from tests.doubles import make_checkpoint

MENU = list_checkpoints()
PINNED = re.compile("[0-9a-f]{40}")


@pytest.fixture(params=MENU, ids=lambda checkpoint: checkpoint.name)
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    return request.param


def test_the_embedded_checkpoint_is_on_the_menu_first() -> None:
    assert MENU[0].name == "embedded"
    assert {"llava-rad", "embedded"} <= {checkpoint.name for checkpoint in MENU}


def test_listing_imports_neither_torch_nor_transformers() -> None:
    script = (
        "import sys; from cxr_assistant.checkpoints.spec import list_checkpoints; list_checkpoints();"
        "print(sorted({'torch', 'transformers', 'huggingface_hub', 'pydicom'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_answered_with_the_menu() -> None:
    with pytest.raises(UnknownCheckpoint) as caught:
        get_checkpoint("llava_rad")
    names = ", ".join(sorted(checkpoint.name for checkpoint in MENU))
    assert caught.value.message == f"Unknown checkpoint 'llava_rad'; available: {names}."


def test_two_checkpoints_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "_declared_in", lambda _: iter([make_checkpoint("twin")]))
    spec._menu.cache_clear()
    try:
        with pytest.raises(CheckpointError, match="Two checkpoints are called 'twin'"):
            list_checkpoints()
    finally:
        spec._menu.cache_clear()


@pytest.mark.parametrize("revision", ["main", "v1.0", "abc123", "A" * 40])
def test_a_revision_that_is_not_pinned_is_refused(revision: str) -> None:
    with pytest.raises(CheckpointError, match="allowed: a commit of 40 hexadecimal digits"):
        RemoteFile(repository="a/b", revision=revision, path="config.json")
    with pytest.raises(CheckpointError, match="pinned"):
        replace(MENU[0], revision=revision)


def test_the_embedded_model_is_shown_films_and_asked_as_in_its_training() -> None:
    from cxr_assistant.imaging.phantom import FINDINGS_PROMPT, VIEW_PROMPT
    from cxr_assistant.training.recipe import EMBEDDED

    embedded = get_checkpoint("embedded")
    assert embedded.image == EMBEDDED.image_spec
    prompts = (embedded.tasks[Task.FINDINGS].prompt, embedded.tasks[Task.VIEW].prompt)
    assert prompts == (FINDINGS_PROMPT, VIEW_PROMPT)


# ------------------------------------------------------------------------------------------- the contract


def test_the_card_is_complete(checkpoint: Checkpoint) -> None:
    texts = [checkpoint.title, checkpoint.summary, checkpoint.weakness, checkpoint.citation]
    texts += [checkpoint.licence.name, checkpoint.licence.terms, *checkpoint.can, *checkpoint.cannot]
    assert checkpoint.can and checkpoint.cannot
    assert all(text.strip() for text in texts)
    assert checkpoint.licence.url.startswith("https://")


@pytest.mark.requirement("W1")
def test_every_file_is_pinned(checkpoint: Checkpoint) -> None:
    assert PINNED.fullmatch(checkpoint.revision)
    assert checkpoint.is_embedded or checkpoint.files
    assert all(PINNED.fullmatch(file.revision) for file in checkpoint.files)
    names = [(file.repository, file.path) for file in checkpoint.files]
    assert len(names) == len(set(names))


def test_every_task_is_worded(checkpoint: Checkpoint) -> None:
    assert checkpoint.tasks
    for wording in checkpoint.tasks.values():
        assert wording.prompt.strip()
        assert not wording.needs_text or wording.hint
        assert wording.num_images <= checkpoint.max_images
        assert not wording.needs_prior or checkpoint.supports_prior


def test_numbers_make_sense(checkpoint: Checkpoint) -> None:
    assert checkpoint.max_new_tokens < checkpoint.context_length
    assert checkpoint.num_parameters > 0
    assert checkpoint.max_images >= 1
    assert checkpoint.views


def test_a_card_survives_the_way_between_processes(checkpoint: Checkpoint) -> None:
    assert pickle.loads(pickle.dumps(checkpoint)) == checkpoint


def test_the_file_has_its_five_parts(checkpoint: Checkpoint) -> None:
    module: Any = find_module(checkpoint.name)
    assert "Known weakness" in module.__doc__
    assert module.WEIGHT_MAP
    assert callable(module.render)
    assert callable(module.build)
    assert checkpoint.is_embedded or callable(module.convert)


def test_only_what_is_free_needs_no_acceptance(checkpoint: Checkpoint) -> None:
    assert checkpoint.licence.needs_acceptance is not checkpoint.is_embedded


def test_only_the_embedded_model_knows_phantoms_only(checkpoint: Checkpoint) -> None:
    assert checkpoint.phantoms_only is checkpoint.is_embedded
