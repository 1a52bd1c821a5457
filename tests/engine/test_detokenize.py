"""Streamed text equals whole text, whatever the ids are; a stop string is found wherever it is cut."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cxr_assistant.checkpoints.tokenizer import FolderTokenizer, convert_sentencepiece
from cxr_assistant.engine.detokenize import Detokenizer, StopStrings

TEXTS = (
    "No pneumothorax.  Two spaces,\ttab\nand newline.",
    "Température 37 µSv, → 😀😀 naïve 胸部X線",
    " leading and trailing ",
)
SENTENCEPIECE = next(
    (Path(__file__).parent.parent / "fixtures" / "golden").glob("*/vicuna-like/tokenizer.model")
)


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece"])
def tokenizer(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> FolderTokenizer:
    if request.param == "byte-level":
        return FolderTokenizer(tiny_folder)
    folder = tmp_path_factory.mktemp("tokenizer")
    convert_sentencepiece(SENTENCEPIECE, folder / "tokenizer.json", image_token="<image>")
    return FolderTokenizer(folder)


def stream(tokenizer: FolderTokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer.decode)
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.finish()]


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_piece_by_piece(tokenizer: FolderTokenizer, text: str) -> None:
    assert "".join(stream(tokenizer, tokenizer.encode(text))) == text


@pytest.mark.parametrize("seed", range(40))
def test_any_ids_stream_to_the_text_of_all_of_them(tokenizer: FolderTokenizer, seed: int) -> None:
    rng = random.Random(seed)
    ids = [rng.randrange(3, 380) for _ in range(60)]
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("seed", range(20))
def test_runs_of_broken_bytes_stream_like_the_whole(tokenizer: FolderTokenizer, seed: int) -> None:
    rng = random.Random(seed)
    good = tokenizer.encode("😀é")
    ids = [rng.choice([*good, rng.randrange(3, 300)]) for _ in range(40)]
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


def test_half_a_character_is_never_shown(tokenizer: FolderTokenizer) -> None:
    *deltas, _ = stream(tokenizer, tokenizer.encode("a 😀 é 胸"))
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(deltas)


def test_half_a_character_at_the_end_is_not_lost(tokenizer: FolderTokenizer) -> None:
    ids = tokenizer.encode("a😀")[:-1]
    assert "".join(stream(tokenizer, ids)).endswith("\N{REPLACEMENT CHARACTER}")


def test_special_tokens_in_a_text_stay_text(tokenizer: FolderTokenizer) -> None:
    text = "</s> <image> <s>"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.id_of("</s>") not in ids


@pytest.mark.parametrize("seed", range(60))
def test_stop_strings_cut_where_they_first_appear(seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choice("abc") for _ in range(30))
    stops = tuple("".join(rng.choice("abc") for _ in range(rng.randint(1, 4))) for _ in range(2))
    stopper, shown, rest = StopStrings(stops), "", text
    while rest and not stopper.has_stopped:
        size = rng.randint(1, 4)
        shown += stopper.push(rest[:size])
        rest = rest[size:]
    shown += "" if stopper.has_stopped else stopper.finish()
    # A stop that is complete first ends the text, even if a longer one began before it.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    assert stopper.has_stopped == bool(ends)
    assert text.startswith(shown)
    assert shown == text if not ends else not any(stop in shown for stop in stops)


def test_text_that_cannot_become_a_stop_is_shown_at_once() -> None:
    stopper = StopStrings(("USER:",))
    assert stopper.push("clear. U") == "clear. "
    assert stopper.push("pper") == "Upper"
