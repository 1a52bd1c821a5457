"""The targets of speed, and whether the figures of a run reach them. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.pairing import Ratio, paired_ratio

__all__ = ["SPEED_TARGETS", "STREAM_SERIES", "Verdict", "judge_speed", "over_one"]

Rows = Mapping[str, dict[str, Any]]
Figure = Callable[[Rows], float | None]

FEWEST_EQUAL = 1.0

STREAM_SERIES = {
    "streams": "about one film of one visitor",
    "streams_own_films_read": "about a film each, asked about before",
    "streams_own_films": "about a new film each",
}
"""Lists of a row of speed.py, and what their streams are about."""


@dataclass(frozen=True)
class Target:
    """What is held to be good enough: `at_least` or `at_most`, of the rows on one kind of device."""

    name: str
    device: str
    figure: Figure
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Verdict:
    """`is_met` is None for what this run did not measure."""

    name: str
    device: str
    value: float | None
    bound: str
    is_met: bool | None


def judge_speed(rows: Iterable[dict[str, Any]]) -> list[Verdict]:
    """Every target, in the order of the issue."""
    by_name = {row["name"]: row for row in rows}
    return [_judge(target, target.figure(by_name)) for target in SPEED_TARGETS]


def _judge(target: Target, value: float | None) -> Verdict:
    if target.at_least is not None:
        is_met, bound = value is not None and value >= target.at_least, f">= {target.at_least:g}"
    else:
        assert target.at_most is not None
        is_met, bound = value is not None and value <= target.at_most, f"<= {target.at_most:g}"
    return Verdict(target.name, target.device, value, bound, None if value is None else is_met)


# ------------------------------------------------------------------------------------------ figures of a row


def _ratio(row: str, name: str) -> Figure:
    return lambda rows: _of(rows, row, lambda found: found["ratios"][name]["value"])


def _share(row: str) -> Figure:
    return lambda rows: _of(rows, row, lambda found: found["contenders"]["ours"]["share_of_ceiling"]["value"])


def _streams_over_one(row: str, series: str, num: int) -> Figure:
    """Tokens per second of `num` streams together, over those of one alone in the same round."""

    def figure(found: dict[str, Any]) -> float | None:
        ratio = over_one(found[series], num)
        return ratio.value if ratio else None

    return lambda rows: _of(rows, row, figure)


def over_one(series: Iterable[dict[str, Any]], num: int) -> Ratio | None:
    """`num` streams over one alone, of the streams of one row about films of one kind."""
    by_num = {streams["num"]: streams["tokens_per_s"] for streams in series}
    return paired_ratio(by_num[num], by_num[1])


def _slowest(row: str, num: int) -> Figure:
    def figure(found: dict[str, Any]) -> float:
        return float(max({s["num"]: s["slowest_over_mean"] for s in found["streams"]}[num]))

    return lambda rows: _of(rows, row, figure)


def _over_floor(row: str) -> Figure:
    def figure(found: dict[str, Any]) -> float:
        return float(found["contenders"]["ours"]["new_image_s"] / found["ceiling"]["first_token_s"])

    return lambda rows: _of(rows, row, figure)


def _is_equal(row: str, what: str) -> Figure:
    return lambda rows: _of(rows, row, lambda found: float(found["is_equal"][what]))


def _best(*figures: Figure) -> Figure:
    def best(rows: Rows) -> float | None:
        return max((value for figure in figures if (value := figure(rows)) is not None), default=None)

    return best


def _of(rows: Rows, name: str, figure: Callable[[dict[str, Any]], float | None]) -> float | None:
    """The figure of a row, or None when the row, or this part of it, was not measured."""
    try:
        return figure(rows[name])
    except (KeyError, TypeError):
        return None


def _streams(row: str, device: str, least: float) -> list[Target]:
    """The issue says "8 concurrent streams" and not about which films: each kind that is measured counts."""
    return [
        *(
            Target(
                f"{row}: 8 streams {about} / 1, total tokens/s",
                device,
                _streams_over_one(row, series, 8),
                at_least=least,
            )
            for series, about in STREAM_SERIES.items()
        ),
        Target(f"{row}: slowest of 8 streams / mean", device, _slowest(row, 8), at_most=1.5),
    ]


def _follow_up(row: str, device: str) -> list[Target]:
    return [
        Target(f"{row}: follow-up sooner with reuse", device, _ratio(row, "follow_up_sooner"), at_least=10),
        Target(f"{row}: follow-up ids identical", device, _is_equal(row, "follow_up"), at_least=FEWEST_EQUAL),
    ]


def _library(row: str, device: str, least: float) -> Target:
    return Target(
        f"{row}: tokens/s / library's best", device, _ratio(row, "tokens_per_s_over_library"), at_least=least
    )


def _demo(row: str, device: str, least: float) -> Target:
    return Target(f"{row}: tokens/s / demo", device, _ratio(row, "tokens_per_s_over_demo"), at_least=least)


_GPU = "llava-rad-bf16"

SPEED_TARGETS: tuple[Target, ...] = (
    _demo("embedded", "cpu", 2.0),
    Target(
        "embedded: same ids as transformers",
        "cpu",
        _is_equal("embedded", "contenders"),
        at_least=FEWEST_EQUAL,
    ),
    *_streams("embedded", "cpu", 3.0),
    _library("1b-fp32", "cpu", 1.0),
    _library("1b-bf16", "cpu", 1.0),
    Target(
        "1b: share of the ceiling, better of fp32 and bf16",
        "cpu",
        _best(_share("1b-fp32"), _share("1b-bf16")),
        at_least=0.6,
    ),
    Target(
        "1b-fp32: same ids as transformers", "cpu", _is_equal("1b-fp32", "contenders"), at_least=FEWEST_EQUAL
    ),
    *_follow_up("1b-fp32", "cpu"),
    *_follow_up("1b-bf16", "cpu"),
    *_streams("1b-fp32", "cpu", 3.0),
    *_streams("1b-bf16", "cpu", 3.0),
    _demo(_GPU, "cuda", 3.0),
    _library(_GPU, "cuda", 1.2),
    Target(f"{_GPU}: share of the ceiling", "cuda", _share(_GPU), at_least=0.8),
    *_streams(_GPU, "cuda", 5.0),
    Target(f"{_GPU}: first token of a new image / floor", "cuda", _over_floor(_GPU), at_most=1.5),
    *_follow_up(_GPU, "cuda"),
    Target(
        f"{_GPU}: cancel to idle, s",
        "cuda",
        lambda rows: _of(rows, _GPU, lambda r: max(r["cancel_s"].values())),
        at_most=0.1,
    ),
)
