"""The benchmark of speed measures what it says: its ceiling is arithmetic, its ratios are paired."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import driving, gpu
from benchmarks.ceiling import Rates, Work, measure_work
from benchmarks.contenders import Demo, Library, Ours, Question
from benchmarks.crowd import Films, questions_of
from benchmarks.pairing import middle, paired_ratio
from benchmarks.speed import joined, main
from benchmarks.speed_table import speed_table
from benchmarks.subjects import SUBJECTS, follow_up, make_prompt
from benchmarks.ties import find_parting
from benchmarks.verdicts import SPEED_TARGETS, STREAM_SERIES, judge_speed
from cxr_assistant.generation import Prefilled
from tests.engine.families import FAMILIES, build
from tests.engine.families import make_prompt as make_film_prompt

NUM_TOKENS = 6
WORK = Work(
    weight_bytes=1000,
    kv_bytes_per_position=10,
    decoder_weights=500,
    head_weights=100,
    attention_width=8,
    num_layers=2,
    encode_flops=4000.0,
)


@pytest.fixture(scope="module")
def tiny() -> Any:
    return SUBJECTS["tiny"].make(SUBJECTS["tiny"], Path("unused"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("speed") / "speed.json"
    assert main(["--quick", "--out", str(out)]) == 0
    return json.loads(out.read_text("utf-8"))  # type: ignore[no-any-return]


def test_a_token_moves_the_weights_once_and_the_cache_of_every_stream() -> None:
    assert WORK.token_bytes(20) == 1200
    assert WORK.token_bytes(20, num_streams=4) == 1800


def test_the_floor_is_whatever_takes_longer_of_multiplying_and_reading() -> None:
    flops = 4000 + 2 * 500 * 10 + 2 * 100 + 2 * 10**2 * 8 * 2
    assert WORK.floor_s(Rates(read_bytes_per_s=1e9, flops_per_s=100), 10) == pytest.approx(flops / 100)
    assert WORK.floor_s(Rates(read_bytes_per_s=100, flops_per_s=1e9), 10) == pytest.approx(10.0)


def test_the_work_of_a_model_counts_every_matrix_of_its_decoder(tiny: Any) -> None:
    work = measure_work(tiny)
    layers, head = tiny.language_model.layers, tiny.head
    matrices = sum(p.numel() for p in layers.parameters() if p.ndim == 2)
    assert work.decoder_weights == matrices
    assert work.weight_bytes == 4 * sum(p.numel() for m in (layers, head) for p in m.parameters())
    # keys and values: 2 layers, 2 heads of 16, float32
    assert work.kv_bytes_per_position == 2 * 2 * 2 * 16 * 4


def test_a_ratio_is_the_median_over_pairs() -> None:
    ratio = paired_ratio([2.0, 40.0, 6.0], [1.0, 10.0, 2.0])
    assert ratio is not None
    assert (ratio.value, ratio.num) == (3.0, 3)
    assert 2.0 <= ratio.low <= ratio.value <= ratio.high <= 4.0


def test_what_has_no_partner_is_refused() -> None:
    with pytest.raises(ValueError, match="2 measurements cannot be paired with 1"):
        paired_ratio([1.0, 2.0], [1.0])


def test_nothing_measured_is_none_and_not_zero() -> None:
    assert paired_ratio([], []) is None
    assert middle([]) is None
    assert {verdict.is_met for verdict in judge_speed([])} == {None}


def test_three_ways_say_the_same_on_the_same_weights(tiny: Any) -> None:
    question = Question(make_prompt(tiny, 1))
    room = len(question.prompt) + NUM_TOKENS
    ways = (Demo(tiny), Library(tiny, room, compiles=False), Ours(tiny))
    answers = [way.answer(question, NUM_TOKENS) for way in ways]
    assert len({answer.text for answer in answers}) == 1
    assert {answer.num_rest for answer in answers} == {NUM_TOKENS - 1}


def test_two_answers_part_where_they_first_differ(tiny: Any) -> None:
    prompt = make_prompt(tiny, 1)
    ids = Ours(tiny).token_ids(prompt, NUM_TOKENS)
    assert find_parting(tiny, prompt, ids, ids) is None
    parting = find_parting(tiny, prompt, ids, [*ids[:2], ids[2] + 1, *ids[3:]])
    assert parting is not None and parting.token == 2
    scores = tiny.score(replace(prompt, token_ids=(*prompt.token_ids, *ids[:2])), *_read(tiny, prompt))[-1]
    best, second = scores.topk(2).values.tolist()
    assert parting.margin == pytest.approx(best - second)


def test_ids_are_told_alike_by_every_way(tiny: Any) -> None:
    prompt = make_prompt(tiny, 1)
    room = len(prompt) + NUM_TOKENS
    told = [
        way.token_ids(prompt, NUM_TOKENS)
        for way in (Demo(tiny), Library(tiny, room, compiles=False), Ours(tiny))
    ]
    assert told[0] == told[1] == told[2]


def _read(model: Any, prompt: Any) -> tuple[Any, Any]:
    return model.encode(prompt.pixel_values), model.new_cache(len(prompt) + NUM_TOKENS)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_goes_the_three_ways_to_the_same_ids(family: str, tmp_path: Path) -> None:
    """The rows of a GPU take CheXagent too, which transformers has no class for: it gets embeddings."""
    model = build(family, tmp_path / family)
    model.processor = replace(model.processor, stop_token_ids=frozenset())
    prompt = make_film_prompt(model, (11, 12, 13))
    ways = [Demo(model), Library(model, len(prompt) + 16, compiles=False), Ours(model)]
    ids = {way.name: way.token_ids(prompt, 8) for way in ways}
    assert ids["demo"] == ids["library"] == ids["ours"]
    for way in ways:
        answered = way.answer(Question(prompt), 8)
        assert (answered.num_rest, answered.first_s > 0, answered.rest_s > 0) == (7, True, True)


def test_a_demo_that_fails_says_so_instead_of_waiting_for_ever(tiny: Any) -> None:
    with pytest.raises(ValueError, match="max_new_tokens"):
        Demo(tiny).answer(Question(make_prompt(tiny, 1)), 0)


def test_a_follow_up_begins_with_the_whole_first_turn(tiny: Any) -> None:
    prompt = make_prompt(tiny, 1)
    later = follow_up(tiny, prompt, "w17 w4", "And on the left?")
    assert later.token_ids[: len(prompt)] == prompt.token_ids
    assert later.token_ids[len(prompt) : len(prompt) + 2] == (17, 4)
    assert later.digests == prompt.digests


@pytest.mark.parametrize(("films", "is_read"), [("one", True), ("own_new", False), ("own_read", True)])
def test_streams_are_about_films_that_were_read_before_or_not(tiny: Any, films: Films, is_read: bool) -> None:
    ours = Ours(tiny)
    questions = questions_of(tiny, ours, ["a", "b"], films)
    assert (questions[0].prompt.digests == questions[1].prompt.digests) == (films == "one")
    for question in questions:
        (prefilled,) = [event for event in ours.open(question, 1) if isinstance(event, Prefilled)]
        assert (prefilled.reused_tokens >= question.prompt.image_spans[-1].stop) == is_read
        assert prefilled.reused_tokens < len(question.prompt) - 5, "the question itself is new"


def test_visitors_with_new_films_are_not_those_who_asked_before(tiny: Any) -> None:
    ours = Ours(tiny)
    new, read = (questions_of(tiny, ours, ["a", "b"], films) for films in ("own_new", "own_read"))
    assert {question.session for question in new}.isdisjoint(question.session for question in read)
    assert {question.prompt.digests for question in new}.isdisjoint(q.prompt.digests for q in read)


def test_a_quick_run_measures_every_column(results: dict[str, Any]) -> None:
    (row,) = results["rows"]
    assert row["is_equal"] == {"contenders": True, "follow_up": True}
    assert set(row["contenders"]) == {"demo", "library", "ours"}
    ours = row["contenders"]["ours"]
    columns = ("encode_s", "new_image_s", "same_image_s", "follow_up_s", "token_s", "tokens_per_s")
    assert all(ours[column] > 0 for column in (*columns, "memory_bytes"))
    assert all(ratio["num"] == 2 for ratio in row["ratios"].values())
    for films in ("streams", "streams_own_films", "streams_own_films_read"):
        assert [streams["num"] for streams in row[films]] == [1, 2]
    assert row["cancel_s"].keys() == {"writing", "reading"}
    assert 0 < row["cancel_s"]["writing"] < 1 and 0 < row["cancel_s"]["reading"] < 1


def test_a_result_becomes_tables_without_a_number_typed_by_hand(results: dict[str, Any]) -> None:
    table = speed_table([results])
    (row,) = results["rows"]
    assert f"{row['contenders']['ours']['tokens_per_s']:.1f}" in table
    assert results["hardware"]["title"] in table
    assert all(about in table for about in STREAM_SERIES.values())
    assert f"measured {row['date']}." in table
    assert "Not measured" in speed_table([])


def test_the_table_says_how_many_times_one_stream_eight_are(results: dict[str, Any]) -> None:
    row = results["rows"][0] | {"streams_own_films": [_streams(1, 10.0), _streams(8, 29.0)]}
    (line,) = [line for line in speed_table([results | {"rows": [row]}]).splitlines() if "new film" in line]
    assert line.endswith("| 2.90x (2.90 to 2.90) | 1.10 |")


def test_every_target_is_judged_when_its_row_is_there() -> None:
    rows = [_good_row(name) for name in ("embedded", "1b-fp32", "1b-bf16", "llava-rad-bf16")]
    verdicts = judge_speed(rows)
    assert [verdict.name for verdict in verdicts] == [target.name for target in SPEED_TARGETS]
    assert all(verdict.is_met for verdict in verdicts)


def test_a_figure_below_its_target_is_missed() -> None:
    row = _good_row("embedded")
    row["ratios"]["tokens_per_s_over_demo"]["value"] = 1.9
    missed = [verdict.name for verdict in judge_speed([row]) if verdict.is_met is False]
    assert missed == ["embedded: tokens/s / demo"]


@pytest.mark.parametrize(("films", "about"), STREAM_SERIES.items())
def test_streams_about_every_kind_of_films_are_a_target(films: str, about: str) -> None:
    row = _good_row("embedded")
    row[films] = [_streams(1, 10.0), _streams(8, 29.0)]
    missed = [verdict.name for verdict in judge_speed([row]) if verdict.is_met is False]
    assert missed == [f"embedded: 8 streams {about} / 1, total tokens/s"]
    del row[films]  # not measured is not met
    assert [v.is_met for v in judge_speed([row]) if about in v.name and v.name.startswith("embedded")] == [
        None
    ]


def _good_row(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "ceiling": {"first_token_s": 1.0},
        "contenders": {"ours": {"share_of_ceiling": {"value": 0.9}, "new_image_s": 1.2}},
        "ratios": {
            "tokens_per_s_over_demo": {"value": 4.0},
            "tokens_per_s_over_library": {"value": 1.5},
            "follow_up_sooner": {"value": 20.0},
        },
        "is_equal": {"contenders": True, "follow_up": True},
        **{films: [_streams(1, 10.0), _streams(8, 60.0)] for films in STREAM_SERIES},
        "cancel_s": {"writing": 0.01, "reading": 0.05},
    }


def _streams(num: int, tokens_per_s: float) -> dict[str, Any]:
    return {
        "num": num,
        "tokens_per_s": [tokens_per_s],
        "slowest_over_mean": [1.1],
        "first_token_s": [0.1],
        "last_first_token_s": [0.2],
    }


def test_runs_of_one_machine_are_joined_and_judged_anew(results: dict[str, Any], tmp_path: Path) -> None:
    other = results | {"rows": [results["rows"][0] | {"name": "embedded"}], "seconds": 5}
    paths = [tmp_path / "first.json", tmp_path / "second.json"]
    for path, run in zip(paths, (results, other), strict=True):
        path.write_text(json.dumps(run), "utf-8")
    out = tmp_path / "joined.json"
    assert main(["--join", *map(str, paths), "--out", str(out)]) == 0
    found = json.loads(out.read_text("utf-8"))
    assert [row["name"] for row in found["rows"]] == ["tiny", "embedded"]
    assert found["seconds"] == results["seconds"] + 5
    assert any(target["is_met"] is not None for target in found["targets"])


def test_runs_of_two_machines_are_not_joined(results: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="differ in hardware"):
        joined([results, results | {"hardware": {"title": "another"}}])


def test_every_way_to_drive_the_engine_serves_every_reader(capsys: pytest.CaptureFixture[str]) -> None:
    assert driving.main(["--quick", "--rounds", "2", "--readers", "1", "3", "--tokens", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["readers"] for row in found["rows"]] == [1, 3]
    assert all(len(row["seconds"]) == 3 for row in found["rows"])


def test_one_command_takes_the_rows_of_a_gpu_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        commands.append(command[1:])
        row = command[command.index("--rows") + 1] if "--rows" in command else None
        if row is not None and row != "llava-rad-int8":  # that one ends badly, and writes nothing
            Path(command[command.index("--out") + 1]).write_text("{}", "utf-8")
        return SimpleNamespace(returncode=int(row == "llava-rad-int8"))

    monkeypatch.setattr(gpu.subprocess, "run", run)
    assert gpu.main(["--work", str(tmp_path)]) == 1
    tests, *rows, join = commands
    assert "tests/checkpoints/test_gpu.py" in tests and not any("tests/ui" in part for part in tests)
    assert [row[row.index("--rows") + 1] for row in rows] == [
        f"{name}-{precision}" for name in ("llava-rad", "chexagent") for precision in ("bf16", "int8", "nf4")
    ]
    assert sum(part.endswith(".json") for part in join) == 5 + 1  # what was measured, and where it goes
    assert "failed: llava-rad-int8" in capsys.readouterr().out


@pytest.mark.parametrize("machine", ["the same", "another"])
def test_rows_of_an_earlier_command_stay_on_the_same_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    """Where the time of a command is bounded, rows are taken one command after the other."""
    result = tmp_path / "speed-cuda.json"
    result.write_text(json.dumps({"hardware": "the same", "versions": {}}), "utf-8")
    monkeypatch.setattr(gpu, "RESULT", result)
    joins: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        if "--join" in command:
            joins.append(command[command.index("--join") + 1 : command.index("--out")])
        else:
            measured = json.dumps({"hardware": machine, "versions": {}})
            Path(command[command.index("--out") + 1]).write_text(measured, "utf-8")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(gpu.subprocess, "run", run)
    assert gpu.main(["--work", str(tmp_path), "--no-tests", "--rows", "chexagent-nf4"]) == 0
    fresh = str(tmp_path / "speed-chexagent-nf4.json")
    assert joins == [[str(result), fresh] if machine == "the same" else [fresh]]
