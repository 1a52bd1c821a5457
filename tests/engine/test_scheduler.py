"""Who gets a slot and when, what those who wait are told, and that nobody's trouble is another's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
import torch

from cxr_assistant.engine.engine import Engine
from cxr_assistant.engine.limits import Limits
from cxr_assistant.engine.sampling import Token
from cxr_assistant.engine.scheduler import Scheduler
from cxr_assistant.engine.stream import Stream
from cxr_assistant.errors import Busy, OutOfMemory
from cxr_assistant.generation import Completed, FinishReason, Prefilled, Queued, SamplingParams, collect
from cxr_assistant.models.vlm import Piece, Prompt, VisionLanguageModel
from tests.engine.conftest import make_prompt

LONG = 30


def make_stream(prompt: Prompt, session: str | None = None, num_tokens: int = LONG) -> Stream:
    params = SamplingParams(max_new_tokens=num_tokens)
    return Stream(prompt, params, lambda: False, num_tokens, session=session)


def open_streams(scheduler: Scheduler, *streams: Stream) -> None:
    """Submit all of them, and take one step."""
    for stream in streams:
        scheduler.submit(stream)
    scheduler.pull(streams[0])


def step(scheduler: Scheduler, stream: Stream) -> None:
    """One step, pulled by a reader who has taken all that came before."""
    stream.news.clear()
    scheduler.pull(stream)


def finish(scheduler: Scheduler, stream: Stream) -> None:
    while not stream.has_ended:
        step(scheduler, stream)


@pytest.fixture
def narrow(model: VisionLanguageModel) -> Scheduler:
    """Two slots; three more may wait."""
    return Scheduler(model, Limits(max_slots=2, max_waiting=3))


def test_those_who_wait_are_told_how_many_are_in_front(narrow: Scheduler, prompt: Prompt) -> None:
    streams = [make_stream(prompt) for _ in range(4)]
    open_streams(narrow, *streams)
    assert [stream.position for stream in streams] == [0, 0, 1, 2]
    assert streams[3].news.popleft() == Queued(2)
    narrow.withdraw(streams[0])
    narrow.pull(streams[3])
    assert streams[3].position == 1


def test_one_more_than_may_wait_is_refused(narrow: Scheduler, prompt: Prompt) -> None:
    open_streams(narrow, *(make_stream(prompt) for _ in range(5)))
    with pytest.raises(Busy, match="3 questions wait already"):
        narrow.submit(make_stream(prompt))


def test_one_that_gave_up_makes_room_in_the_queue(narrow: Scheduler, prompt: Prompt) -> None:
    streams = [make_stream(prompt) for _ in range(5)]
    open_streams(narrow, *streams)
    narrow.withdraw(streams[4])
    narrow.submit(make_stream(prompt))


def test_nobodys_second_question_comes_before_anothers_first(narrow: Scheduler, prompt: Prompt) -> None:
    busy = [make_stream(prompt, "greedy") for _ in range(3)]
    modest = make_stream(prompt, "modest")
    open_streams(narrow, *busy, modest)
    assert [stream.slot for stream in (busy[0], modest)] == [0, 1]
    assert [stream.position for stream in busy] == [0, 1, 2]


def test_a_newcomer_overtakes_the_second_question_of_one_who_is_served(
    narrow: Scheduler, prompt: Prompt
) -> None:
    busy = [make_stream(prompt, "greedy") for _ in range(3)]
    open_streams(narrow, *busy)
    modest = make_stream(prompt, "modest")
    narrow.submit(modest)
    step(narrow, busy[0])
    assert (modest.position, busy[2].position) == (1, 2)


def test_strangers_are_served_in_the_order_of_their_coming(narrow: Scheduler, prompt: Prompt) -> None:
    streams = [make_stream(prompt) for _ in range(5)]
    open_streams(narrow, *streams)
    assert [stream.position for stream in streams] == [0, 0, 1, 2, 3]


def test_a_freed_slot_is_taken_at_the_next_step(narrow: Scheduler, prompt: Prompt) -> None:
    first, second, third = (make_stream(prompt) for _ in range(3))
    open_streams(narrow, first, second, third)
    narrow.withdraw(first)
    step(narrow, third)
    assert (third.slot, third.position) == (0, 0)


def test_a_model_that_shares_no_pass_reads_one_prompt_after_the_other(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that are read from disk at each forward would be read again for each prompt of a pass."""
    monkeypatch.setattr(type(model), "reads_together", property(lambda _: False))
    monkeypatch.setattr(model, "prefill_and_decode", None)  # not to be called
    scheduler = Scheduler(model, Limits(max_slots=3))
    streams = [make_stream(make_prompt(model, text), num_tokens=3) for text in ("View?", "Nodule?", "Mass?")]
    open_streams(scheduler, *streams)
    assert [stream.is_running for stream in streams] == [True, False, False]
    for stream in streams:
        finish(scheduler, stream)
    assert all(len(stream.token_ids) == 3 or stream.news[-1] is FinishReason.STOP for stream in streams)


def test_a_model_that_is_not_written_out_reads_pieces_without_anybody_writing(
    model: VisionLanguageModel,
) -> None:
    prompts = [make_prompt(model, text) for text in ("View?", "Nodule?")]
    cache, alone = model.new_cache(256, num_slots=2), model.new_cache(256, num_slots=2)
    pieces = [
        Piece(prompt, model.encode(prompt.pixel_values), slot, len(prompt))
        for slot, prompt in enumerate(prompts)
    ]
    mixed = VisionLanguageModel._mixed_logits
    embedded = [(model._prompt_embeds(p.prompt, p.image_embeds, 0, p.stop), p.slot) for p in pieces]
    with torch.inference_mode():
        read, step = mixed(model, embedded, torch.zeros(0, dtype=torch.int64), cache, ())
    assert len(step) == 0
    for piece, row in zip(pieces, read, strict=True):
        expected = model.prefill(piece.prompt, piece.image_embeds, alone, slot=piece.slot)
        torch.testing.assert_close(row[None], expected)


def test_running_answers_do_not_stall_while_a_prompt_is_read(model: VisionLanguageModel) -> None:
    scheduler = Scheduler(model, Limits(prefill_chunk=4))
    running, reading = make_stream(make_prompt(model, "View?")), make_stream(make_prompt(model, "Nodule?"))
    scheduler.submit(running)
    while not running.is_running:
        scheduler.pull(running)
    scheduler.submit(reading)
    heard = []
    while not reading.is_running:
        before = len(running.token_ids)
        step(scheduler, running)
        heard.append(len(running.token_ids) - before)
    assert len(heard) > 5
    assert set(heard) == {1}


def test_all_who_run_get_one_token_a_step(model: VisionLanguageModel, prompt: Prompt) -> None:
    scheduler = Scheduler(model, Limits())
    streams = [make_stream(prompt) for _ in range(8)]
    open_streams(scheduler, *streams)
    while not all(stream.is_running for stream in streams):
        step(scheduler, streams[0])
    before = [len(stream.token_ids) for stream in streams]
    step(scheduler, streams[0])
    assert [len(s.token_ids) - b for s, b in zip(streams, before, strict=True)] == [1] * 8


def test_a_cancel_while_waiting_ends_it_there(model: VisionLanguageModel, prompt: Prompt) -> None:
    engine = Engine(Limits(max_slots=1))
    running = engine.generate(model, prompt, SamplingParams(max_new_tokens=LONG))
    next(running)
    looks: list[bool] = []
    waiting = engine.generate(model, prompt, SamplingParams(), lambda: len(looks) > 0)
    assert next(waiting) == Queued(1)
    looks.append(True)
    (only,) = waiting
    assert isinstance(only, Completed)
    assert only.finish_reason is FinishReason.CANCELLED
    assert collect(running).finish_reason is FinishReason.LENGTH


def test_the_one_who_waited_is_told_when_it_is_their_turn(model: VisionLanguageModel, prompt: Prompt) -> None:
    engine = Engine(Limits(max_slots=1))
    running = engine.generate(model, prompt, SamplingParams(max_new_tokens=4))
    next(running)
    first, second, *_ = engine.generate(model, prompt, SamplingParams(max_new_tokens=2))
    assert (first, second) == (Queued(1), Queued(0)) or isinstance(second, Prefilled)
    assert collect(running).finish_reason is FinishReason.LENGTH


def test_an_error_in_one_prompt_leaves_the_others_alone(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Scheduler(model, Limits())
    good, bad = make_stream(make_prompt(model, "View?")), make_stream(make_prompt(model, "View?", film=1))
    encode = model.encode

    def fail_for_the_second(pixel_values: Any) -> Any:
        if pixel_values is not None and (pixel_values == bad.prompt.pixel_values).all():
            raise MemoryError
        return encode(pixel_values)

    monkeypatch.setattr(model, "encode", fail_for_the_second)
    open_streams(scheduler, good, bad)
    assert isinstance(scheduler.pull(bad), OutOfMemory)
    finish(scheduler, good)
    assert len(good.token_ids) == LONG


@pytest.mark.parametrize("verb", ["encode", "prefill", "decode"])
@pytest.mark.parametrize("failing", [0, 1, 2], ids=lambda n: f"call{n}")
def test_memory_that_fails_at_any_call_leaves_an_engine_that_answers(
    model: VisionLanguageModel, prompt: Prompt, verb: str, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SamplingParams(max_new_tokens=6)
    expected = collect(Engine().generate(model, prompt, params)).text
    engine, whole, calls = Engine(Limits(max_slots=2, max_waiting=0)), getattr(model, verb), count()

    def fail_once(*args: Any, **options: Any) -> Any:
        if next(calls) == failing:
            raise MemoryError
        return whole(*args, **options)

    monkeypatch.setattr(model, verb, fail_once)
    num_failed = 0
    for _ in range(4):
        try:
            assert collect(engine.generate(model, prompt, params)).text == expected
        except OutOfMemory:
            num_failed += 1
    assert num_failed == 1


def test_a_batch_draws_what_each_answer_would_draw_alone(model: VisionLanguageModel, prompt: Prompt) -> None:
    def params(seed: int) -> SamplingParams:
        return SamplingParams(max_new_tokens=12, temperature=1.0, top_p=0.9, seed=seed)

    alone = [collect(Engine().generate(model, prompt, params(seed))).text for seed in (1, 2, 3)]
    engine = Engine()
    streams = [engine.generate(model, prompt, params(seed)) for seed in (1, 2, 3)]
    events: list[list[Any]] = [[], [], []]
    for _ in range(20):
        for told, stream in zip(events, streams, strict=True):
            told.extend(event for event in [next(stream, None)] if event)
    assert [collect(told).text for told in events] == alone


def test_readers_in_several_threads_share_the_steps(model: VisionLanguageModel) -> None:
    engine, params = Engine(Limits(max_slots=3)), SamplingParams(max_new_tokens=10)
    prompts = [make_prompt(model, f"Is it {n}?", film=n) for n in range(5)]
    alone = [collect(Engine().generate(model, prompt, params)).text for prompt in prompts]
    with ThreadPoolExecutor(5) as readers:
        together = list(readers.map(lambda p: collect(engine.generate(model, p, params)).text, prompts))
    assert together == alone


def test_what_a_forgotten_visitor_is_still_told_is_not_kept(
    model: VisionLanguageModel, prompt: Prompt
) -> None:
    scheduler = Scheduler(model, Limits())
    running = make_stream(prompt, "anna")
    open_streams(scheduler, running)
    scheduler.forget("anna")
    finish(scheduler, running)
    again = make_stream(prompt, "anna")
    open_streams(scheduler, again)
    assert again.reused == 0


def test_the_news_of_a_stream_end_with_a_reason(model: VisionLanguageModel, prompt: Prompt) -> None:
    scheduler = Scheduler(model, Limits())
    stream = make_stream(prompt, num_tokens=3)
    scheduler.submit(stream)
    while not stream.has_ended:
        scheduler.pull(Stream(prompt, stream.params, lambda: False, 1))  # somebody else pulls
    first, *tokens, last = stream.news
    assert first == Prefilled(len(prompt))
    assert all(isinstance(token, Token) for token in tokens) and len(tokens) == 3
    assert last is FinishReason.LENGTH
