"""However an answer is computed, its greedy tokens are those of transformers' forward without any cache.

For every family: cached, continued from a prefix, in a batch of mixed lengths that others join and leave, in
chunks, by the recorded step, and streamed. Judged wherever the two best logits differ by more than 1e-3.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cxr_assistant.engine import scheduler
from cxr_assistant.engine.engine import Engine
from cxr_assistant.engine.graph import GraphDecoder, make_decoder
from cxr_assistant.engine.limits import Limits
from cxr_assistant.engine.prefixes import num_common, prompt_keys
from cxr_assistant.engine.sampling import Token
from cxr_assistant.generation import FinishReason, Prefilled, Queued, SamplingParams, collect
from cxr_assistant.models import places
from cxr_assistant.models.decoder import DecoderModel
from cxr_assistant.models.places import SPLIT
from cxr_assistant.models.vlm import Prompt
from tests.engine.families import FAMILIES, Judge, build, longer, make_prompt, stock_scores

NUM_TOKENS = 20
BF16_BOUND = 1.25
"""Times the distance from float32 that bfloat16 has in one pass over the sequence; root mean squares."""


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DecoderModel:
    return build(request.param, tmp_path_factory.mktemp("weights") / request.param)


@pytest.fixture
def judge() -> Iterator[Judge]:
    made = Judge()
    yield made
    made.require_most_clear()


def words(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(10, 250), k=length)


@dataclass
class Job:
    """One answer among others: when it is asked for, whether it is cancelled after some tokens, what came."""

    prompt: Prompt
    begins: int = 0
    cancelled_after: int | None = None
    session: str | None = None
    num_tokens: int = NUM_TOKENS
    ids: list[int] = field(default_factory=list)
    reused: int = 0
    reason: FinishReason | None = None

    def start(
        self, engine: Engine, model: DecoderModel
    ) -> Iterator[Queued | Prefilled | Token | FinishReason]:
        params = SamplingParams(max_new_tokens=self.num_tokens)
        return engine.steps(model, self.prompt, params, self._is_cancelled, session=self.session)

    def _is_cancelled(self) -> bool:
        return self.cancelled_after is not None and len(self.ids) >= self.cancelled_after

    def take(self, step: Queued | Prefilled | Token | FinishReason) -> None:
        match step:
            case Prefilled():
                self.reused = step.reused_tokens
            case Token():
                self.ids.append(step.token_id)
            case FinishReason():
                self.reason = step


def run(engine: Engine, model: DecoderModel, *jobs: Job) -> Sequence[Job]:
    """Pull all jobs in turn until the last one has ended."""
    waiting, streams, turn = list(jobs), {}, 0
    while waiting or streams:
        for job in [job for job in waiting if job.begins <= turn]:
            waiting.remove(job)
            streams[id(job)] = (job, job.start(engine, model))
        for key, (job, stream) in list(streams.items()):
            step = next(stream, None)
            if step is None:
                del streams[key]
            else:
                job.take(step)
        turn += 1
    return jobs


def check(model: DecoderModel, judge: Judge, *jobs: Job) -> None:
    for job in jobs:
        judge.check(model, job.prompt, job.ids)


# ---------------------------------------------------------------------------------------------- every way


def test_the_written_out_decoder_is_transformers(model: DecoderModel) -> None:
    assert model.is_written_out
    prompt = make_prompt(model, words(1, 12))
    ours = model.score(prompt, model.encode(prompt.pixel_values), model.new_cache(len(prompt)))
    torch.testing.assert_close(ours, stock_scores(model, prompt), rtol=0, atol=1e-4)


def test_cached(model: DecoderModel, judge: Judge) -> None:
    for film in (0, 1, None):
        check(model, judge, *run(Engine(), model, Job(make_prompt(model, words(2, 9), film=film))))


@pytest.mark.parametrize("chunk", [1, 7])
def test_read_in_chunks(model: DecoderModel, judge: Judge, chunk: int) -> None:
    limits = Limits(prefill_chunk=chunk)
    check(model, judge, *run(Engine(limits), model, Job(make_prompt(model, words(3, 9)))))


def test_a_chunk_attended_with_in_blocks(
    model: DecoderModel, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "QUERY_BLOCK", 5)
    check(model, judge, *run(Engine(), model, Job(make_prompt(model, words(3, 9)))))


def test_continued_from_a_prefix(model: DecoderModel, judge: Judge) -> None:
    """A follow-up, a retry, an edited question, and another film with the same words."""
    engine = Engine()
    (first,) = run(engine, model, Job(make_prompt(model, words(4, 9)), session="anna"))
    follow_up = Job(longer(first.prompt, [*first.ids, *words(5, 6)]), session="anna")
    retry = Job(first.prompt, session="anna")
    edited = Job(make_prompt(model, [*words(4, 9)[:4], *words(6, 7)]), session="anna")
    other_film = Job(make_prompt(model, words(4, 9), film=1), session="anna")
    for job in (follow_up, retry, edited, other_film):
        run(engine, model, job)
    check(model, judge, first, follow_up, retry, edited, other_film)
    start = model.processor.num_image_tokens + 4
    # The newest token of an answer is chosen, and read only when another follows it.
    assert follow_up.reused == len(first.prompt) + len(first.ids) - 1
    assert retry.reused == len(first.prompt) - 1
    assert edited.reused == start + 4
    assert other_film.reused == 4
    assert retry.ids == first.ids


def test_batched_with_mixed_lengths_arrivals_and_cancels(model: DecoderModel, judge: Judge) -> None:
    jobs = [
        Job(make_prompt(model, words(7, 3))),
        Job(make_prompt(model, words(8, 40), film=1), begins=3),
        Job(make_prompt(model, words(9, 17)), begins=4, cancelled_after=5),
        Job(make_prompt(model, words(10, 5), film=None), begins=4, num_tokens=6),
        Job(make_prompt(model, words(11, 26), film=2), begins=9, cancelled_after=11),
        Job(make_prompt(model, words(12, 9)), begins=12),
    ]
    run(Engine(Limits(max_slots=4, prefill_chunk=16)), model, *jobs)
    check(model, judge, *jobs)
    assert jobs[2].reason is FinishReason.CANCELLED
    assert all(job.reason is not FinishReason.CANCELLED for job in jobs if job.cancelled_after is None)


@pytest.mark.parametrize("fails", [False, True], ids=["together", "taken-apart"])
def test_a_prompt_read_in_the_passes_of_those_who_write(
    model: DecoderModel, judge: Judge, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """A chunk and a step share a pass; one that fails is done again in two, and nobody notices."""
    num_shared, together = 0, model.prefill_and_decode

    def count(*arguments: Any, **named: Any) -> Any:
        nonlocal num_shared
        num_shared += 1
        found = together(*arguments, **named)
        if fails:
            raise RuntimeError("a kernel that is out of order")
        return found

    monkeypatch.setattr(model, "prefill_and_decode", count)
    jobs = [
        Job(make_prompt(model, words(7, 3))),
        Job(make_prompt(model, words(8, 40), film=1), begins=3),
        Job(make_prompt(model, words(9, 17)), begins=6),
    ]
    run(Engine(Limits(max_slots=3, prefill_chunk=16)), model, *jobs)
    check(model, judge, *jobs)
    assert num_shared > 1  # some of these models stop early


def test_short_prompts_of_one_moment_are_read_in_one_pass(
    model: DecoderModel, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Questions about a film that is known, beside an answer that runs; two films are looked at in turn."""
    engine, passes = Engine(Limits(max_slots=6, prefill_chunk=48)), []
    together = model.prefill_and_decode

    def count(pieces: Any, *rest: Any) -> Any:
        passes.append(len(pieces))
        return together(pieces, *rest)

    monkeypatch.setattr(model, "prefill_and_decode", count)
    run(engine, model, Job(make_prompt(model, words(3, 9)), session="anna"))
    jobs = [
        Job(make_prompt(model, words(4, 9)), session="anna"),
        Job(make_prompt(model, words(5, 4)), session="anna", begins=2),
        Job(make_prompt(model, words(6, 12)), session="anna", begins=2),
        Job(make_prompt(model, words(7, 7)), session="anna", begins=2, cancelled_after=3),
        Job(make_prompt(model, words(8, 9), film=1), begins=2),
        Job(make_prompt(model, words(9, 5), film=2), begins=2),
    ]
    run(engine, model, *jobs)
    check(model, judge, *jobs)
    assert max(passes) >= 3, "the short ones share a pass"
    assert all(job.reused >= model.processor.num_image_tokens for job in jobs[:4])


def test_what_answers_of_one_visitor_share_is_read_once(
    model: DecoderModel, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Questions about one film, one of which ends early and leaves a gap, until another visitor joins."""
    in_two, shared = places.Step._attend_in_two, []

    def count(step: places.Step, *tensors: Any) -> Any:
        shared.append(step._num_shared)
        return in_two(step, *tensors)

    monkeypatch.setattr(scheduler, "SHARED_BYTES", 1)
    monkeypatch.setattr(places.Step, "_attend_in_two", count)
    engine = Engine(Limits(max_slots=5, prefill_chunk=48))
    run(engine, model, Job(make_prompt(model, words(3, 9)), session="anna"))
    jobs = [
        Job(make_prompt(model, words(4, 9)), session="anna"),
        Job(make_prompt(model, words(5, 4)), session="anna", cancelled_after=6),
        Job(make_prompt(model, words(6, 23)), session="anna", begins=1),
        Job(make_prompt(model, words(4, 3)), session="anna"),
        Job(make_prompt(model, words(4, 9)), session="bert", begins=14),
    ]
    run(engine, model, *jobs)
    check(model, judge, *jobs)
    film_and_words = model.processor.num_image_tokens + 4  # before the film
    assert set(shared) == {film_and_words}
    if model.is_written_out:
        layers = model.kv_shape.num_layers
        assert 2 * layers <= len(shared) < NUM_TOKENS * layers, "not once bert is there"


def test_a_torch_without_the_sums_shares_nothing(
    model: DecoderModel, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_such_kernel(*_: Any) -> Any:
        raise AttributeError("'_OpNamespace' 'aten' object has no such attribute")

    monkeypatch.setattr(scheduler, "SHARED_BYTES", 1)
    monkeypatch.setattr(places, "_attention_and_sum", no_such_kernel)
    places._gives_sums.cache_clear()
    try:
        jobs = [Job(make_prompt(model, words(seed, 9)), session="anna") for seed in (4, 5)]
        check(model, judge, *run(Engine(), model, *jobs))
    finally:
        places._gives_sums.cache_clear()


def test_nothing_is_shared_between_visitors(model: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("read for one from what was read for another")

    monkeypatch.setattr(scheduler, "SHARED_BYTES", 1)
    monkeypatch.setattr(places.Step, "_attend_in_two", never)
    prompt = make_prompt(model, words(3, 9))
    for sessions in (("anna", "bert"), (None, None), ("anna", None)):
        run(Engine(), model, *(Job(prompt, session=session) for session in sessions))


@pytest.mark.parametrize("is_busy", [False, True], ids=["in-blocks", "up-to-a-quarter"])
def test_recorded(model: DecoderModel, judge: Judge, monkeypatch: pytest.MonkeyPatch, is_busy: bool) -> None:
    """The step that a GPU records, run without a recording: mixed lengths, a slot in between left out."""
    prompts = [make_prompt(model, words(seed, seed)) for seed in (13, 30, 21)]
    reach = -(-(len(prompts[1]) + NUM_TOKENS) // SPLIT) * SPLIT
    monkeypatch.setattr(places, "BUSY_PAIRS", 1 if is_busy else 10_000)
    max_tokens = 4 * reach if is_busy else reach
    assert places.reaches(3 * model.kv_shape.num_heads, max_tokens)[-1] == reach
    cache = model.new_cache(max_tokens, num_slots=3)
    assert model.prepare_static(max_tokens)
    newest = [
        int(model.prefill(prompt, model.encode(prompt.pixel_values), cache, slot=slot).argmax())
        for slot, prompt in enumerate(prompts)
    ]
    ids = [[token_id] for token_id in newest]
    positions = torch.tensor(cache.lengths)
    with torch.inference_mode():
        for _ in range(NUM_TOKENS - 1):
            logits = model.static_logits(torch.tensor(newest), positions, cache, reach=reach)
            chosen = logits.argmax(-1)
            positions, newest = positions + 1, chosen.tolist()
            for told, token_id in zip(ids, newest, strict=True):
                told.append(token_id)
    for prompt, told in zip(prompts, ids, strict=True):
        judge.check(model, prompt, told)


def test_streamed(model: DecoderModel, judge: Judge) -> None:
    prompt = make_prompt(model, words(14, 9))
    (job,) = run(Engine(), model, Job(prompt))
    text = collect(Engine().generate(model, prompt, SamplingParams(max_new_tokens=NUM_TOKENS))).text
    kept = [token_id for token_id in job.ids if token_id not in model.processor.stop_token_ids]
    assert text == model.processor.tokenizer.decode(kept).lstrip()
    check(model, judge, job)


@pytest.mark.gpu
@pytest.mark.parametrize("is_busy", [False, True], ids=["in-blocks", "several-reaches"])
@pytest.mark.parametrize("family", FAMILIES)
def test_replayed_on_a_gpu(
    family: str, is_busy: bool, tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded by hand for 1, 2 and 4 slots; judged like every other way, by transformers' whole pass."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setattr(places, "BUSY_PAIRS", 1 if is_busy else 10_000)
    model = build(family, tmp_path / family, device="cuda")
    prompts = [make_prompt(model, words(seed, seed)) for seed in (13, 30, 21)]
    longest = -(-(len(prompts[1]) + NUM_TOKENS) // SPLIT) * SPLIT
    cache = model.new_cache(4 * longest, num_slots=4)
    decoder = make_decoder(model, cache)
    assert isinstance(decoder, GraphDecoder)
    for slots in ([0], [0, 1], [0, 1, 2], [0, 2]):
        for slot in slots:
            cache.truncate(0, slot=slot)
        newest = [
            int(model.prefill(prompts[s], model.encode(prompts[s].pixel_values), cache, slot=s).argmax())
            for s in slots
        ]
        told = [[token_id] for token_id in newest]
        for _ in range(NUM_TOKENS - 1):
            newest = [int(number) for number in decoder.step(newest, slots).greedy[0].tolist()]
            for ids, token_id in zip(told, newest, strict=True):
                ids.append(token_id)
        for slot, ids in zip(slots, told, strict=True):
            judge.check(model, prompts[slot], ids)


@pytest.mark.parametrize("shares", [False, True], ids=["each-its-own", "shared"])
def test_in_bfloat16_every_way_stays_near_the_whole_sequence(
    model: DecoderModel,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    shares: bool,
) -> None:
    """Teacher-forced: the same tokens by one pass, and by batched steps behind a prefix."""
    family, folder = request.node.callspec.params["model"], tmp_path_factory.mktemp("half")
    full, half = build(family, folder / family), build(family, folder / family, precision="bf16")
    prompts = [make_prompt(half, words(seed, 24)) for seed in (15, 16)]
    exact, whole = (
        [made.score(p, made.encode(p.pixel_values), made.new_cache(len(p))) for p in prompts]
        for made in (full, half)
    )
    cache = half.new_cache(len(prompts[0]), num_slots=2)
    num_shared = num_common([prompt_keys(prompt) for prompt in prompts]) if shares else 0
    assert shares == bool(num_shared)
    for slot, prompt in enumerate(prompts):
        half.prefill(
            prompt, half.encode(prompt.pixel_values), cache, stop=len(prompt) - 12 - 3 * slot, slot=slot
        )
    half.prefill(prompts[1], half.encode(prompts[1].pixel_values), cache, stop=len(prompts[1]) - 12, slot=1)
    last = range(len(prompts[0]) - 12, len(prompts[0]))
    stepped = []
    for position in last:
        newest = torch.tensor([prompt.token_ids[position] for prompt in prompts])
        stepped.append(half.decode(newest, cache, (0, 1), num_shared))
    steps = torch.stack(stepped, dim=1)  # (2, 12, V)
    exactly, at_once = (torch.stack([scores[last.start :] for scores in found]) for found in (exact, whole))
    error = (steps - exactly).square().mean().sqrt()
    assert error < BF16_BOUND * (at_once - exactly).square().mean().sqrt()


# ------------------------------------------------------------------------------------- drawn conversations


@dataclass
class Visitor:
    """A conversation as ids: follow-ups, retries, edits and cancels in any order."""

    name: str
    rng: random.Random
    film: int
    history: list[Prompt] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)

    def ask(self, model: DecoderModel) -> Job:
        """The next thing this visitor does; a new film now and then."""
        asked = self.rng.choices(range(10, 250), k=self.rng.randint(1, 9))
        deed = self.rng.choice(("follow-up", "follow-up", "retry", "edit", "new film"))
        room = len(self.history[-1]) + 60 < model.processor.context_length if self.history else False
        if not room or deed == "new film":
            self.film += 1
            self.history = [make_prompt(model, asked, film=self.film)]
        elif deed == "follow-up":
            self.history.append(longer(self.history[-1], [*self.answer, *asked]))
        elif deed == "edit":
            kept = self.rng.choice(self.history)
            cut = self.rng.randint(model.processor.num_image_tokens + 4, len(kept))
            self.history.append(replace(kept, token_ids=(*kept.token_ids[:cut], *asked)))
        job = Job(self.history[-1], session=self.name, begins=self.rng.randint(0, 12))
        job.num_tokens = self.rng.randint(1, 14)
        if self.rng.random() < 0.3:
            job.cancelled_after = self.rng.randint(0, job.num_tokens)
        return job


@pytest.mark.parametrize("seed", [1, 2])
def test_drawn_conversations_of_several_visitors(model: DecoderModel, judge: Judge, seed: int) -> None:
    """Three visitors at a time, slots and memory scarce; every answer is what it would have been alone."""
    rng = random.Random(seed)
    one_film = model.kv_shape.bytes_per_token * (model.processor.num_image_tokens + 40)
    chunk, num_films = rng.choice((5, 16, 64)), rng.choice((1, 3, 50))
    engine = Engine(Limits(max_slots=2, prefill_chunk=chunk, prefix_bytes=num_films * one_film))
    visitors = [Visitor(f"visitor {n}", random.Random(10 * seed + n), film=10 * n) for n in range(3)]
    num_reused = 0
    for _ in range(5):
        jobs = [visitor.ask(model) for visitor in visitors]
        run(engine, model, *jobs)
        check(model, judge, *jobs)
        num_reused += sum(job.reused for job in jobs)
        for visitor, job in zip(visitors, jobs, strict=True):
            visitor.answer = job.ids
        if rng.random() < 0.2:
            engine.forget(rng.choice(visitors).name)
    assert num_reused > 0
