"""One answer from prompt to last event: exactness first, then order, ends and errors."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
import torch

from cxr_assistant.engine.engine import Engine
from cxr_assistant.engine.limits import Limits
from cxr_assistant.engine.sampling import Token
from cxr_assistant.errors import OutOfMemory, PromptTooLong
from cxr_assistant.generation import (
    Answer,
    Completed,
    FinishReason,
    IsCancelled,
    Prefilled,
    SamplingParams,
    TextDelta,
    collect,
)
from cxr_assistant.models.vlm import Prompt, VisionLanguageModel
from tests.engine.conftest import make_prompt

NUM_TOKENS = 24
GREEDY = SamplingParams(max_new_tokens=NUM_TOKENS)


def naive_greedy(model: VisionLanguageModel, prompt: Prompt, num_tokens: int) -> list[int]:
    """The definition: read the whole sequence anew for every token."""
    embeds = model.encode(prompt.pixel_values)
    ids: list[int] = []
    while len(ids) < num_tokens:
        longer = Prompt((*prompt.token_ids, *ids), prompt.image_spans, prompt.pixel_values, prompt.digests)
        logits = model.prefill(longer, embeds, model.new_cache(len(longer)))
        ids.append(int(logits[0].argmax()))
        if ids[-1] in model.processor.stop_token_ids:
            break
    return ids


def token_ids(
    engine: Engine, model: VisionLanguageModel, prompt: Prompt, params: SamplingParams
) -> list[int]:
    return [s.token_id for s in engine.steps(model, prompt, params) if isinstance(s, Token)]


@pytest.mark.parametrize("film", [0, 1, 2], ids=lambda film: f"film{film}")
def test_naive_cached_and_streamed_are_equal(model: VisionLanguageModel, film: int) -> None:
    prompt = make_prompt(model, "Describe the findings of this radiograph.", film=film)
    naive = naive_greedy(model, prompt, NUM_TOKENS)
    assert token_ids(Engine(), model, prompt, GREEDY) == naive
    text_ids = [i for i in naive if i not in model.processor.stop_token_ids]
    whole = model.processor.tokenizer.decode(text_ids)
    assert collect(Engine().generate(model, prompt, GREEDY)).text == whole.lstrip()


def test_an_answer_begins_with_a_word(model: VisionLanguageModel, prompt: Prompt) -> None:
    encode = model.processor.tokenizer.encode
    script = [*encode("  "), *encode("\n The lungs "), *model.processor.stop_token_ids]

    class Scripted(Engine):
        def steps(self, *_: Any, **__: Any) -> Iterator[Any]:
            yield Prefilled(len(prompt))
            yield from (Token(token_id, -1.0) for token_id in script)
            yield FinishReason.STOP

    answer = collect(Scripted().generate(model, prompt, GREEDY))
    assert answer.text == "The lungs "
    assert len(answer.logprobs) == len(script) - 1


@pytest.mark.parametrize("chunk", [1, 7, 30])
def test_a_prompt_read_in_chunks_gives_the_same_answer(
    model: VisionLanguageModel, prompt: Prompt, chunk: int
) -> None:
    whole = token_ids(Engine(), model, prompt, GREEDY)
    assert token_ids(Engine(Limits(prefill_chunk=chunk)), model, prompt, GREEDY) == whole


def test_another_picture_gives_another_answer(model: VisionLanguageModel) -> None:
    answers = {tuple(token_ids(Engine(), model, make_prompt(model, "View?", film=f), GREEDY)) for f in (0, 1)}
    assert len(answers) == 2


def test_events_come_in_order(model: VisionLanguageModel, prompt: Prompt) -> None:
    first, *deltas, last = Engine().generate(model, prompt, GREEDY)
    assert first == Prefilled(len(prompt))
    assert deltas and all(isinstance(event, TextDelta) and event.text for event in deltas)
    assert isinstance(last, Completed)
    assert last.finish_reason is FinishReason.LENGTH


def test_usage_counts_image_tokens_and_time(model: VisionLanguageModel, prompt: Prompt) -> None:
    usage = collect(Engine().generate(model, prompt, GREEDY)).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(prompt), NUM_TOKENS)
    assert 0 < usage.time_to_first_token_s <= usage.total_s


def test_every_token_of_the_text_has_a_log_probability(model: VisionLanguageModel, prompt: Prompt) -> None:
    answer = collect(Engine().generate(model, prompt, GREEDY))
    assert len(answer.logprobs) == NUM_TOKENS
    assert all(logprob <= 0 for logprob in answer.logprobs)


def test_the_first_log_probability_is_the_models(model: VisionLanguageModel, prompt: Prompt) -> None:
    logits = model.prefill(prompt, model.encode(prompt.pixel_values), model.new_cache(len(prompt)))
    expected = logits[0].log_softmax(-1).max().item()
    tokens = [s for s in Engine().steps(model, prompt, GREEDY) if isinstance(s, Token)]
    assert tokens[0].logprob == pytest.approx(expected, abs=1e-6)


# ---------------------------------------------------------------------------------------------- sampling


def sample(model: VisionLanguageModel, prompt: Prompt, **options: Any) -> list[int]:
    return token_ids(Engine(), model, prompt, SamplingParams(max_new_tokens=NUM_TOKENS, **options))


def test_a_seed_repeats_a_sampled_answer(model: VisionLanguageModel, prompt: Prompt) -> None:
    assert sample(model, prompt, temperature=1.0, seed=3) == sample(model, prompt, temperature=1.0, seed=3)


def test_seeds_differ(model: VisionLanguageModel, prompt: Prompt) -> None:
    assert sample(model, prompt, temperature=1.0, seed=3) != sample(model, prompt, temperature=1.0, seed=4)


def test_a_narrow_nucleus_is_greedy(model: VisionLanguageModel, prompt: Prompt) -> None:
    assert sample(model, prompt, temperature=1.0, top_p=1e-6) == token_ids(Engine(), model, prompt, GREEDY)


def test_the_image_marker_is_never_said(model: VisionLanguageModel, prompt: Prompt) -> None:
    marker = model.processor.tokenizer.id_of("<image>")
    logits = model.prefill(prompt, model.encode(prompt.pixel_values), model.new_cache(len(prompt)))[0]
    assert logits[marker] < logits.sort().values[1] - 10
    assert torch.isfinite(logits).all()


# -------------------------------------------------------------------------------------------------- ends


def first_words(model: VisionLanguageModel, prompt: Prompt) -> str:
    return collect(Engine().generate(model, prompt, GREEDY)).text


def test_a_stop_string_ends_the_text_before_it(model: VisionLanguageModel, prompt: Prompt) -> None:
    text = first_words(model, prompt)
    stop = text[len(text) // 2 :][:3]
    answer = collect(
        Engine().generate(model, prompt, SamplingParams(max_new_tokens=NUM_TOKENS, stop=(stop,)))
    )
    assert answer.text == text[: text.find(stop)]
    assert answer.finish_reason is FinishReason.STOP


def test_a_stop_token_ends_the_answer(
    model: VisionLanguageModel, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = token_ids(Engine(), model, prompt, GREEDY)
    text = model.processor.tokenizer.decode(ids[: ids.index(ids[5])])
    stopping = type(model.processor)(**{**vars(model.processor), "stop_token_ids": frozenset({ids[5]})})
    monkeypatch.setattr(model, "processor", stopping)
    answer = collect(Engine().generate(model, prompt, GREEDY))
    assert (answer.text, answer.finish_reason) == (text, FinishReason.STOP)


def test_the_context_bounds_the_answer(
    model: VisionLanguageModel, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = type(model.processor)(**{**vars(model.processor), "context_length": len(prompt) + 3})
    monkeypatch.setattr(model, "processor", short)
    answer = collect(Engine().generate(model, prompt, GREEDY))
    assert (answer.usage.completion_tokens, answer.finish_reason) == (3, FinishReason.LENGTH)


def test_a_prompt_that_does_not_fit_is_refused(model: VisionLanguageModel) -> None:
    prompt = make_prompt(model, "Is there a nodule? " * 200)
    with pytest.raises(PromptTooLong, match="this model reads at most 511"):
        next(Engine().generate(model, prompt, GREEDY))


# ------------------------------------------------------------------------------------------------ cancel


def cancel_at_look(number: int) -> IsCancelled:
    looks = count()
    return lambda: next(looks) >= number


def test_a_cancel_before_prefill_reads_nothing(
    model: VisionLanguageModel, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "encode", lambda _: pytest.fail("the image was encoded"))
    (only,) = Engine().generate(model, prompt, GREEDY, lambda: True)
    assert isinstance(only, Completed)
    assert only.finish_reason is FinishReason.CANCELLED


def test_a_cancel_stops_between_two_chunks_of_the_prompt(model: VisionLanguageModel, prompt: Prompt) -> None:
    (only,) = Engine(Limits(prefill_chunk=5)).generate(model, prompt, GREEDY, cancel_at_look(3))
    assert isinstance(only, Completed)
    assert (only.finish_reason, only.usage.completion_tokens) == (FinishReason.CANCELLED, 0)


def test_a_cancel_stops_at_the_next_token(model: VisionLanguageModel, prompt: Prompt) -> None:
    answer = collect(Engine().generate(model, prompt, GREEDY, cancel_at_look(7)))
    # One look before anything, one before the step that reads the prompt and brings two tokens, then one.
    assert (answer.usage.completion_tokens, answer.finish_reason) == (7, FinishReason.CANCELLED)


def test_an_answer_can_be_pulled_from_changing_threads(model: VisionLanguageModel, prompt: Prompt) -> None:
    expected = first_words(model, prompt)
    events = Engine().generate(model, prompt, GREEDY)
    pulled = []
    while True:
        with ThreadPoolExecutor(1) as fresh_thread:
            event = fresh_thread.submit(next, events, None).result()
        if event is None:
            break
        pulled.append(event)
    assert collect(pulled).text == expected
    assert not torch.is_inference_mode_enabled()


def test_two_answers_can_take_turns(model: VisionLanguageModel) -> None:
    engine, prompts = Engine(), [make_prompt(model, "View?", film=film) for film in (0, 1)]
    alone = [collect(engine.generate(model, prompt, GREEDY)).text for prompt in prompts]
    streams: list[Iterator[Any]] = [engine.generate(model, prompt, GREEDY) for prompt in prompts]
    pulled: list[list[Any]] = [[], []]
    for _ in range(2 * NUM_TOKENS):
        for events, stream in zip(pulled, streams, strict=True):
            events.extend(event for event in [next(stream, None)] if event)
    assert [collect(events).text for events in pulled] == alone


# ------------------------------------------------------------------------------------------------ memory


@pytest.mark.requirement("D5")
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
@pytest.mark.parametrize("verb", ["encode", "prefill", "decode"])
def test_no_memory_is_said_in_a_sentence(
    model: VisionLanguageModel, prompt: Prompt, verb: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(model, verb, fail)
    with pytest.raises(OutOfMemory, match="no memory left"):
        collect(Engine().generate(model, prompt, GREEDY))


def test_other_failures_are_not_called_lack_of_memory(
    model: VisionLanguageModel, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(model, "prefill", fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        collect(Engine().generate(model, prompt, GREEDY))


# ------------------------------------------------------------------------------------------- remembering


@pytest.fixture
def encoded(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of `encode` was given."""
    calls: list[int] = []
    encode = model.encode

    def counting(pixel_values: Any) -> Any:
        calls.append(len(pixel_values))
        return encode(pixel_values)

    monkeypatch.setattr(model, "encode", counting)
    return calls


def ask(
    engine: Engine,
    model: VisionLanguageModel,
    film: int,
    *,
    session: str | None = "anna",
    is_public: bool = False,
    question: str = "Normal?",
) -> Answer:
    prompt = make_prompt(model, question, film=film)
    params = SamplingParams(max_new_tokens=3)
    public = prompt.digests if is_public else ()
    return collect(engine.generate(model, prompt, params, session=session, public=public))


def test_a_second_question_does_not_encode_again(model: VisionLanguageModel, encoded: list[int]) -> None:
    engine = Engine()
    ask(engine, model, film=0)
    ask(engine, model, film=0)
    assert encoded == [1]


def test_another_film_is_encoded(model: VisionLanguageModel, encoded: list[int]) -> None:
    engine = Engine()
    ask(engine, model, film=0)
    ask(engine, model, film=1)
    assert encoded == [1, 1]


@pytest.mark.parametrize("session", [None, "boris"], ids=["nobody", "another"])
def test_nothing_is_kept_for_anybody_else(
    model: VisionLanguageModel, encoded: list[int], session: str | None
) -> None:
    engine = Engine()
    ask(engine, model, film=0)
    assert ask(engine, model, film=0, session=session).usage.reused_tokens == 0
    assert encoded == [1, 1]


def test_without_a_session_nothing_is_kept(model: VisionLanguageModel, encoded: list[int]) -> None:
    engine = Engine()
    answers = [ask(engine, model, film=0, session=None) for _ in range(2)]
    assert [answer.usage.reused_tokens for answer in answers] == [0, 0]
    assert encoded == [1, 1]


def test_of_a_public_picture_the_embedding_is_shared_and_the_prefix_is_not(
    model: VisionLanguageModel, encoded: list[int]
) -> None:
    engine = Engine()
    ask(engine, model, film=0, is_public=True)
    assert ask(engine, model, film=0, session="boris", is_public=True).usage.reused_tokens == 0
    assert encoded == [1]


def test_a_forgotten_session_begins_anew(model: VisionLanguageModel, encoded: list[int]) -> None:
    engine = Engine()
    ask(engine, model, film=0)
    engine.forget("anna")
    assert ask(engine, model, film=0).usage.reused_tokens == 0
    assert encoded == [1, 1]


def test_a_released_model_takes_what_is_kept_with_it(model: VisionLanguageModel, encoded: list[int]) -> None:
    engine = Engine()
    ask(engine, model, film=0)
    engine.release(model)
    assert ask(engine, model, film=0).usage.reused_tokens == 0
    assert encoded == [1, 1]


def test_another_question_about_the_same_picture_reads_only_its_own_words(model: VisionLanguageModel) -> None:
    engine = Engine()
    ask(engine, model, film=0, question="Is there an effusion?")
    first, second = (make_prompt(model, q).token_ids for q in ("Is there an effusion?", "Is there a nodule?"))
    shared = next(i for i, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1])
    assert ask(engine, model, film=0, question="Is there a nodule?").usage.reused_tokens == shared


def test_a_retry_reads_one_position(model: VisionLanguageModel) -> None:
    engine = Engine()
    first, again = ask(engine, model, film=0), ask(engine, model, film=0)
    assert again.usage.reused_tokens == again.usage.prompt_tokens - 1
    assert again.text == first.text


def test_what_is_reused_is_said_when_the_prompt_is_read(model: VisionLanguageModel) -> None:
    engine = Engine()
    ask(engine, model, film=0)
    prompt = make_prompt(model, "Normal?")
    assert next(engine.generate(model, prompt, GREEDY, session="anna")) == Prefilled(
        len(prompt), len(prompt) - 1
    )


def test_a_prefix_that_was_pushed_out_is_read_again(model: VisionLanguageModel) -> None:
    engine = Engine(Limits(prefix_bytes=10))
    texts = {ask(engine, model, film=0).text for _ in range(2)}
    assert len(texts) == 1
    assert ask(engine, model, film=0).usage.reused_tokens == 0


def test_the_least_recently_used_picture_is_forgotten(model: VisionLanguageModel, encoded: list[int]) -> None:
    bytes_per_picture = 49 * 64 * 4  # 49 tokens, width 64, float32
    engine = Engine(Limits(embedding_bytes=2 * bytes_per_picture, prefix_bytes=0))
    for film in (0, 1, 0, 2):  # 2 pushes 1 out, because 0 was used since
        ask(engine, model, film)
    ask(engine, model, film=0)
    assert sum(encoded) == 3
    ask(engine, model, film=1)
    assert sum(encoded) == 4
