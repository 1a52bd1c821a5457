from __future__ import annotations

import pytest

from cxr_assistant.errors import GenerationError
from cxr_assistant.ui.decoding import LIMITS, Decoding, longest_answer
from tests.ui.doubles import EMBEDDED


def test_an_empty_form_is_greedy_and_as_long_as_the_authors_allow() -> None:
    params = Decoding.read({}).params(EMBEDDED)
    assert params.is_greedy and params.max_new_tokens == EMBEDDED.max_new_tokens


def test_what_a_person_set_reaches_the_engine() -> None:
    form = {"temperature": "0.7", "top_p": "0.9", "max_new_tokens": "64", "seed": "11"}
    decoding = Decoding.read(form)
    params = decoding.params(EMBEDDED)
    assert (params.temperature, params.top_p, params.max_new_tokens, params.seed) == (0.7, 0.9, 64, 11)
    assert decoding.as_dict() == form


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", ["-1", "1e99", "nan", "inf", "many", "٣٣٣٣٣٣٣٣٣٣٣٣"])
def test_a_setting_outside_its_limits_is_refused_in_words(name: str, value: str) -> None:
    with pytest.raises(GenerationError, match="allowed: a") as caught:
        Decoding.read({name: value})
    assert caught.value.code == "bad_setting" and caught.value.hint


def test_half_a_token_is_refused() -> None:
    with pytest.raises(GenerationError, match="whole number"):
        Decoding.read({"max_new_tokens": "16.5"})


def test_an_answer_is_never_longer_than_the_model_can_write() -> None:
    wanted = Decoding(max_new_tokens=1024).params(EMBEDDED).max_new_tokens
    assert wanted == longest_answer(EMBEDDED) == EMBEDDED.context_length // 2


def test_a_seed_left_to_chance_is_drawn_and_told_and_greedy_draws_none() -> None:
    drawn = {Decoding(temperature=0.5).params(EMBEDDED).seed for _ in range(20)}
    assert len(drawn) > 1
    assert {Decoding().params(EMBEDDED).seed for _ in range(20)} == {0}
