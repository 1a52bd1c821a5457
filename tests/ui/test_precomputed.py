"""The examples' answers are fresh and real, say that they were made before, or are not shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cxr_assistant.assistant import load
from cxr_assistant.checkpoints.spec import get_checkpoint
from cxr_assistant.errors import SettingsError
from cxr_assistant.ui.examples import read_examples
from cxr_assistant.ui.precomputed import ANSWERS_FILE, film_digests, read_answers, recall
from cxr_assistant.ui.session import Session
from tests.conftest import PROJECT_ROOT
from tests.ui.doubles import make_radiograph

EXAMPLES = PROJECT_ROOT / "examples"
LISTING = json.loads((EXAMPLES / ANSWERS_FILE).read_text("utf-8"))
ANEW = "run: python examples/make_answers.py"


def revision_of(name: str) -> str:
    return get_checkpoint(name).revision


def test_the_answers_are_those_of_the_revision_that_is_served() -> None:
    assert LISTING["revision"] == get_checkpoint(LISTING["checkpoint"]).revision, ANEW


def test_the_answers_are_about_the_films_that_are_there() -> None:
    for entry in LISTING["examples"].values():
        assert entry["films"] == film_digests(EXAMPLES / name for name in entry["films"]), ANEW


def test_every_example_brings_its_answers() -> None:
    assert all(len(example.answers) == 3 for example in read_examples()), ANEW


def test_the_real_model_gives_the_same_answers_again() -> None:
    """One example, asked anew; `-m slow` has nothing on this: the model is small."""
    from examples.make_answers import answers_of

    if not (PROJECT_ROOT / "weights" / "embedded" / "model.safetensors").exists():
        pytest.skip("weights/embedded holds no model")
    example = next(e for e in read_examples() if len(e.films) == 1)
    with load(LISTING["checkpoint"], worker="inline") as assistant:
        assert answers_of(assistant, example) == LISTING["examples"][example.title], ANEW


def test_an_answer_says_that_it_was_computed_beforehand() -> None:
    film = Session("embedded").with_film(make_radiograph(phantom=True))
    session = recall(film, read_examples()[0].answers, revision_of)
    assert session.open_item is None
    assert len(session.exchanges) == 3
    for exchange in session.exchanges:
        assert exchange.text
        (notice,) = exchange.notices
        assert "Computed beforehand by embedded at revision" in notice.text
        assert exchange.revision == revision_of("embedded")


def test_a_stale_answer_is_not_shown() -> None:
    session = recall(Session("embedded"), read_examples()[0].answers, lambda _: "f" * 40)
    assert session.log == ()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("studies.json", ANSWERS_FILE, *read_examples()[0].films):
        shutil.copy(EXAMPLES / name, tmp_path)
    return tmp_path


def test_the_answer_to_a_film_that_changed_is_not_read(folder: Path) -> None:
    title, film = read_examples()[0].title, read_examples()[0].films[0].name
    assert title in read_answers(folder)
    (folder / film).write_bytes(b"another film")
    assert title not in read_answers(folder)


def test_a_list_that_makes_no_sense_is_an_error(folder: Path) -> None:
    (folder / ANSWERS_FILE).write_text('{"examples": 3}', "utf-8")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_answers(folder)


def test_no_list_means_no_answers(tmp_path: Path) -> None:
    assert read_answers(tmp_path) == {}
