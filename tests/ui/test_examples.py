from __future__ import annotations

from pathlib import Path

import pytest

from cxr_assistant.errors import SettingsError
from cxr_assistant.ui.examples import read_examples


def test_without_a_list_there_are_no_examples(tmp_path: Path) -> None:
    assert read_examples(tmp_path) == ()


def test_an_example_names_its_films(tmp_path: Path) -> None:
    (tmp_path / "studies.json").write_text('{"Left effusion": ["a.dcm", "b.dcm"]}', encoding="utf-8")
    (example,) = read_examples(tmp_path)
    assert (example.title, example.films) == ("Left effusion", (tmp_path / "a.dcm", tmp_path / "b.dcm"))


def test_every_bundled_film_is_there() -> None:
    films = [film for example in read_examples() for film in example.films]
    assert films and all(film.is_file() for film in films)


@pytest.mark.parametrize("text", ["{", "[1]", '{"x": 3}', '{"x": [3]}'])
def test_a_list_that_makes_no_sense_says_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "studies.json").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match="examples"):
        read_examples(tmp_path)
