"""The speed tables of README.md, from the result files. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from benchmarks.verdicts import STREAM_SERIES, over_one

__all__ = ["speed_table"]

GIB = 1024**3

_NAMES = {
    "demo": "`generate()` and a streamer",
    "library": "`generate()`, static cache",
    "ours": "**this engine**",
}
_CEILING = (
    "model",
    "a token moves",
    "tokens/s at most",
    "first token at least, s",
    "tokens/s: this engine / demo",
    "this engine / library's best",
    "follow-up sooner than without reuse",
)
_HEADER = (
    "model",
    "way",
    "new image, s",
    "same image, s",
    "follow-up, s",
    "ms/token",
    "tokens/s",
    "of the ceiling",
    "memory",
)
_STREAMS = (1, 2, 4, 8, 16)


def speed_table(runs: Sequence[dict[str, Any]]) -> str:
    """Three tables and a paragraph per run, or a sentence when nothing has been measured."""
    if not runs:
        return "Not measured yet: `python benchmarks/speed.py`."
    return "\n\n".join(part for run in runs for part in _parts(run))


def _parts(run: dict[str, Any]) -> Iterable[str]:
    rows = run["rows"]
    yield _table(_CEILING, map(_ceiling_line, rows))
    yield _table(_HEADER, [line for row in rows for line in _lines(row)])
    header = (
        "streams at once: tokens/s in all (first token, s)",
        *map(str, _STREAMS),
        "8 / 1",
        "slowest of 8 / mean",
    )
    yield _table(header, [line for row in rows for line in _stream_lines(row)])
    yield _sentences(run)


def _ceiling_line(row: dict[str, Any]) -> tuple[str, ...]:
    ceiling, ratios = row["ceiling"], row["ratios"]
    return (
        row["title"],
        f"{ceiling['token_bytes'] / 1e6:.0f} MB at {ceiling['read_bytes_per_s'] / 1e9:.0f} GB/s",
        f"{ceiling['tokens_per_s']:.0f}",
        _seconds(ceiling["first_token_s"]),
        *(
            _times(ratios[name])
            for name in ("tokens_per_s_over_demo", "tokens_per_s_over_library", "follow_up_sooner")
        ),
    )


def _lines(row: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    for name, found in row["contenders"].items():
        # Whoever keeps nothing reads the same image as a new one.
        same = found.get("same_image_s", found["new_image_s"])
        share = found["share_of_ceiling"]
        yield (
            row["title"] if name == "demo" else "",
            _NAMES[name],
            *map(_seconds, (found["new_image_s"], same, found.get("follow_up_s"))),
            f"{1000 * found['token_s']:.1f}",
            f"{found['tokens_per_s']:.1f}",
            f"{100 * share['value']:.0f} %" if share else "",
            f"{found['memory_bytes'] / GIB:.2f} GiB",
        )


def _stream_lines(row: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    for number, (name, about) in enumerate(STREAM_SERIES.items()):
        by_num = {streams["num"]: streams for streams in row.get(name, [])}
        if not by_num:
            continue
        cells = [
            f"{median(found['tokens_per_s']):.0f} ({median(found['first_token_s']):.2f})"
            if (found := by_num.get(num))
            else ""
            for num in _STREAMS
        ]
        ratio = over_one(row[name], 8) if {1, 8} <= by_num.keys() else None
        slowest = f"{max(by_num[8]['slowest_over_mean']):.2f}" if 8 in by_num else ""
        yield (
            f"{'' if number else row['title'] + ', '}{about}",
            *cells,
            _times(ratio._asdict() if ratio else None),
            slowest,
        )


def _sentences(run: dict[str, Any]) -> str:
    hardware, versions = run["hardware"], run["versions"]
    said = [
        f"{hardware['title']}, {hardware['threads']} threads; torch {versions['torch']}, "
        f"transformers {versions['transformers']}."
    ]
    for row in run["rows"]:
        ours, library = row["contenders"]["ours"], row["contenders"]["library"]
        loading = f", loaded in {_seconds(row['load_s'])} s" if row["load_s"] else ""
        said.append(
            f"{row['title']}: {row['prompt_tokens']} tokens of prompt, image encoded in "
            f"{_seconds(ours['encode_s'])} s{loading}; the library's best: {library['remark']}; "
            f"{row['num_repetitions']} repetitions, {_num_rounds(row)} rounds of streams; "
            f"measured {row['date']}."
        )
    missed = [found["name"] for found in run["targets"] if found["is_met"] is False]
    said.append(f"Targets missed: {'; '.join(missed)}." if missed else "Every target measured is met.")
    return " ".join(said)


def _num_rounds(row: dict[str, Any]) -> int:
    return len(row["streams"][0]["tokens_per_s"])


def _times(ratio: dict[str, Any] | None) -> str:
    return f"{ratio['value']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "unmeasured"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value < 1 else f"{value:.1f}"


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines))
