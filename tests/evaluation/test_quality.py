"""The quality benchmark itself: a reader that knows the truth scores 1, a blind one nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks import reading
from benchmarks.figures import TARGETS, figures, judge, swap_figures
from benchmarks.quality import FAINT_RESULTS, FRESH_RESULTS, RESULTS, _arguments, _chunks
from benchmarks.reading import Reader, read_phantoms, read_swaps, read_view, read_yes_no
from cxr_assistant.imaging.phantom import FindingKind, Phantom, Threshold, make_phantom
from cxr_assistant.study import Radiograph
from cxr_assistant.tasks import Task

SEEDS = range(40_000_000, 40_000_016)


@pytest.fixture(scope="module")
def drawn() -> Iterator[dict[str, Phantom]]:
    """Every phantom that the benchmark draws, small and each once, by the digest of its film."""
    phantoms: dict[str, Phantom] = {}

    @cache
    def make_small(seed: int, findings: Any = None, **wishes: Any) -> Phantom:
        phantom = make_phantom(seed, findings=findings, size_px=96, **wishes)
        return phantoms.setdefault(phantom.radiograph.digest, phantom)

    def make(seed: int, findings: Any = None, visibility: Any = None, **wishes: Any) -> Phantom:
        assert not visibility  # a dictionary cannot be part of what is looked up
        return make_small(seed, None if findings is None else tuple(findings), **wishes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "make_phantom", make)
        yield phantoms


@pytest.fixture(scope="module")
def oracle_results(drawn: dict[str, Phantom]) -> dict[str, Any]:
    """Figures of a reader that knows the truth of every phantom, and declines any other picture."""

    def read(radiograph: Radiograph, task: Task, question: str) -> str | None:
        phantom = drawn.get(radiograph.digest)
        if phantom is None or task is Task.FINDINGS:
            return phantom.report if phantom else None
        if task is Task.VIEW:
            return f"This is a {phantom.view} view."
        kind = next(q.kind for p in drawn.values() for q in p.questions if q.question == question)
        return "Yes." if kind in {f.kind for f in phantom.visible} else "No."

    return results_of(read)


def say_always(text: str) -> Reader:
    return lambda radiograph, task, question: text


def results_of(reader: Reader) -> dict[str, Any]:
    test = figures(read_phantoms(reader, SEEDS, "training"))
    return {"test": test, "swap": swap_figures(read_swaps(reader, SEEDS))}


def test_a_reader_that_knows_the_truth_reaches_every_figure(oracle_results: dict[str, Any]) -> None:
    test = oracle_results["test"]
    for figure in ("view", "macro_f1", "side", "severity", "yes_no"):
        assert test[figure]["value"]["value"] == 1.0, figure
    assert (test["exact_reports"], test["gate_admits"]) == (1.0, 1.0)
    assert oracle_results["swap"]["swapped"]["value"] == 1.0
    assert oracle_results["swap"]["mirrored_pixels"]["value"] == 0.0


def test_the_truth_of_another_image_scores_worse(oracle_results: dict[str, Any]) -> None:
    test = oracle_results["test"]
    for figure in ("view", "macro_f1", "yes_no"):
        assert test[figure]["replaced"]["value"] < 0.8, figure


def test_one_sentence_for_all_films_scores_no_better_than_the_constant_answer(
    drawn: dict[str, Phantom],
) -> None:
    test = results_of(say_always("Yes. PA view. There is a small left pleural effusion."))["test"]
    for figure in ("view", "macro_f1", "yes_no"):
        assert test[figure]["value"]["value"] <= test[figure]["constant"], figure


def test_a_reader_that_declines_every_film_is_counted_as_wrong(drawn: dict[str, Phantom]) -> None:
    results = results_of(lambda radiograph, task, question: None)
    test = results["test"]
    assert (test["gate_admits"], test["view"]["value"]["value"], test["exact_reports"]) == (0.0, 0.0, 0.0)
    assert test["yes_no"]["value"]["num_unscored"] == test["yes_no"]["value"]["num"]
    assert test["side"]["value"]["value"] is None
    assert not any(verdict["is_reached"] for verdict in judge(results)[:7])


def test_every_target_gets_a_verdict(oracle_results: dict[str, Any]) -> None:
    verdicts = judge(oracle_results)
    assert [verdict["name"] for verdict in verdicts] == [target.name for target in TARGETS]
    assert all(verdict["is_reached"] for verdict in verdicts[:7])


@pytest.mark.parametrize(
    ("films", "is_reached"),
    [
        pytest.param({"num": 3, "num_refused": 3}, True, id="all"),
        pytest.param({"num": 3, "num_refused": 2}, False, id="not-all"),
        pytest.param({"num": 0, "num_refused": 0}, False, id="not-measured"),
    ],
)
def test_a_real_film_that_is_read_misses_a_target(
    oracle_results: dict[str, Any], films: dict[str, int], is_reached: bool
) -> None:
    verdict = judge({**oracle_results, "real_films": films})[-1]
    assert (verdict["name"], verdict["is_reached"]) == ("gate refuses real films (--films)", is_reached)


@pytest.mark.parametrize("num", [0, 1, 2, 21, 40])
def test_every_seed_is_in_one_group(num: int) -> None:
    groups = _chunks(100, num)
    assert [seed for group in groups for seed in group] == list(range(100, 100 + num))
    assert num < 2 or min(map(len, groups)) >= 2


@pytest.mark.parametrize(
    ("parse", "text", "meaning"),
    [
        (read_view, "This is a lateral view.", "LATERAL"),
        (read_view, "AP", "AP"),
        (read_view, "I cannot say.", None),
        (read_yes_no, "Yes, there is a small effusion.", "yes"),
        (read_yes_no, "no", "no"),
        (read_yes_no, "Nobody knows.", None),
        (read_yes_no, None, None),
    ],
)
def test_answers_are_read_by_their_words(parse: Callable[[Any], Any], text: str, meaning: str) -> None:
    assert parse(text) == meaning


def test_thresholds_that_are_asked_for_reach_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A nodule between 0.06 and 0.08 of the display range, at the size that the product draws."""
    monkeypatch.setattr(reading, "make_phantom", make_phantom)
    faint = {FindingKind.NODULE: Threshold(0.06, 0.6)}
    shown = [
        FindingKind.NODULE
        in read_phantoms(say_always(""), [40_000_032], "training", thresholds)[0].truth.kinds
        for thresholds in (None, faint)
    ]
    assert shown == [False, True]


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ([], RESULTS),
        (["--nodule-contrast", "0.08"], RESULTS),
        (["--fresh"], FRESH_RESULTS),
        (["--nodule-contrast", "0.06"], FAINT_RESULTS),
    ],
)
def test_figures_of_one_kind_never_take_the_file_of_another(words: list[str], path: Path) -> None:
    assert _arguments(words).out == path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fresh", "--nodule-contrast", "0.06"], "--out"),
        (["--nodule-contrast", "0"], "above 0, up to 1"),
        (["--nodule-contrast", "nan"], "above 0, up to 1"),
    ],
)
def test_wrong_thresholds_are_refused(words: list[str], told: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        _arguments(words)
    assert told in capsys.readouterr().err
