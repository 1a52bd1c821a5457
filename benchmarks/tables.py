"""The generated tables of README.md and of the model card: python benchmarks/tables.py writes them anew.

Checkpoints come from their declarations, figures from benchmarks/results; no number is typed by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.speed_table import speed_table  # noqa: E402
from cxr_assistant.checkpoints.spec import list_checkpoints  # noqa: E402
from cxr_assistant.models.precision import GIB, Device, Footprint, list_fits  # noqa: E402
from cxr_assistant.settings import Limits  # noqa: E402

__all__ = [
    "checkpoints_table",
    "limits_table",
    "memory_table",
    "quality_table",
    "speed_table",
    "with_tables",
]

DOCUMENTS = (ROOT / "README.md", ROOT / "weights" / "embedded" / "CARD.md")
RESULTS = ROOT / "benchmarks" / "results"
QUALITY, FRESH, FAINT = (RESULTS / f"quality{which}.json" for which in ("", "-fresh", "-faint"))
SPEED = [RESULTS / f"speed-{device}.json" for device in ("cpu", "cuda")]


def with_tables(text: str) -> str:
    """`text` with each `<!-- table: NAME -->` ... `<!-- end of table -->` filled anew."""
    tables = {
        "checkpoints": checkpoints_table(),
        "memory": memory_table(_loading_results()),
        "limits": limits_table(),
        "quality": quality_table(_read(QUALITY), _read(FRESH), _read(FAINT)),
        "speed": speed_table([run for path in SPEED if (run := _read(path)) is not None]),
    }

    def fill(block: re.Match[str]) -> str:
        return f"{block[1]}\n{tables[block[2]]}\n{block[3]}"

    pattern = r"(<!-- table: (\w+) -->)\n.*?(<!-- end of table -->)"
    return re.sub(pattern, fill, text, flags=re.DOTALL)


def checkpoints_table() -> str:
    rows = [
        _row("`--checkpoint`", "what it does", "tasks", "films", "licence of the weights"),
        _row(*["---"] * 5),
    ]
    for checkpoint in list_checkpoints():
        licence = checkpoint.licence
        films = "1" if checkpoint.max_images == 1 else f"up to {checkpoint.max_images}"
        tasks = ", ".join(task.value for task in checkpoint.tasks)
        terms = f"[{licence.name}]({licence.url}). {licence.terms}"
        rows.append(_row(f"`{checkpoint.name}`", checkpoint.summary, tasks, films, terms))
    return "\n".join(rows)


def memory_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """What each precision needs, as it is computed before loading, and what a GPU was seen to hold.

    results: name of a checkpoint -> the content of its loading-NAME-cuda.json.
    """
    rows = [_row("`--checkpoint`", *_PRECISIONS), _row(*["---"] * (1 + len(_PRECISIONS)))]
    for checkpoint in list_checkpoints():
        if checkpoint.is_embedded or "-srrg-" in checkpoint.name:
            continue  # runs anywhere; needs what its parent needs
        measured = results.get(checkpoint.name, {}).get("precisions", {})
        footprint = Footprint.estimate(checkpoint.num_parameters)
        fits = {fit.precision.value: fit for fit in list_fits(footprint, _NOWHERE)}
        cells = []
        for precision in _PRECISIONS:
            seen = measured.get(precision, {}).get("device_peak_bytes")
            cells.append(
                f"{fits[precision].needed_bytes / GIB:.1f}" + (f", {seen / GIB:.1f}" if seen else "")
            )
        rows.append(_row(f"`{checkpoint.name}`", *cells))
    devices = sorted({r["precisions"]["device"] for r in results.values() if "precisions" in r})
    seen = f"after the comma, what {' and '.join(devices)} was seen to hold" if devices else _NO_GPU
    return "\n".join([*rows, "", f"GiB, 1.5 of them for cache and activations; {seen}."])


_PRECISIONS = ("fp32", "bf16", "fp16", "int8", "nf4")
_NOWHERE = Device("none", "no device", 0, 0, (9, 0))
_NO_GPU = "computed, and not yet measured on a GPU ([how](benchmarks/README.md))"


def _loading_results() -> dict[str, dict[str, Any]]:
    found = {c.name: _read(RESULTS / f"loading-{c.name}-cuda.json") for c in list_checkpoints()}
    return {name: content for name, content in found.items() if content is not None}


def limits_table() -> str:
    """Every limit of the web layer with its variable, as settings.py declares it."""
    rows = ["| variable | default | what it bounds |", "| --- | --- | --- |"]
    rows += [
        f"| `CXR_{limit.name.upper()}` | {limit.default} | {limit.metadata['meaning']} |"
        for limit in fields(Limits)
    ]
    return "\n".join(rows)


def quality_table(
    results: dict[str, Any] | None,
    fresh: dict[str, Any] | None = None,
    faint: dict[str, Any] | None = None,
) -> str:
    """The figures of benchmarks/quality.py, or a sentence when it has not been run.

    fresh: the same of seeds whose figures nobody knew while training was decided on. faint: the same with
    fainter nodules counted. Either is left out when it is of other weights.
    """
    if results is None:
        return "Not measured yet: `python benchmarks/quality.py`."
    test, unseen = results["test"], results["unseen_anatomy"]
    header = (
        "figure",
        "unseen seeds (95 % interval)",
        "another phantom's image",
        "constant answer",
        "unseen anatomy",
    )
    rows = [_row(*header), _row(*["---"] * 5)]
    for name, figure in _FIGURES:
        found, there = test[figure], unseen[figure]["value"]["value"] if unseen["num"] else None
        blind, constant = found["replaced"]["value"], found["constant"]
        rows.append(_row(name, _with_interval(found["value"]), *map(_number, (blind, constant, there))))
    for kind, scores in test["findings"].items():
        there = unseen["findings"][kind]["f1"]["value"] if unseen["num"] else None
        others = (scores["f1_replaced"], scores["f1_constant"], there)
        rows.append(
            _row(f"F1, {kind.replace('-', ' ')}", _with_interval(scores["f1"]), *map(_number, others))
        )
    alike = (run if run and run["revision"] == results["revision"] else None for run in (fresh, faint))
    return "\n".join([*rows, "", " ".join(_sentences(results, *alike))])


_FIGURES = (
    ("view", "view"),
    ("presence, macro-F1", "macro_f1"),
    ("side", "side"),
    ("severity", "severity"),
    ("yes/no questions", "yes_no"),
)


def _sentences(
    results: dict[str, Any], fresh: dict[str, Any] | None, faint: dict[str, Any] | None
) -> Iterator[str]:
    test, unseen, swap, films, made = (
        results[key] for key in ("test", "unseen_anatomy", "swap", "real_films", "made_with")
    )
    yield f"{test['num']} phantoms of unseen seeds, {unseen['num']} of unseen anatomy."
    if swap["num"]:
        yield (
            f"With the finding on the other side the answer follows in {_number(swap['swapped']['value'])} "
            f"of {swap['num']} cases, with mirrored pixels in {_number(swap['mirrored_pixels']['value'])}."
        )
    elsewhere = f" ({_number(unseen['gate_admits'])} of unseen anatomy)" if unseen["num"] else ""
    refused = f" and refuses {films['num_refused']} of {films['num']} real films" if films["num"] else ""
    yield (
        f"The phantom gate admits {_number(test['gate_admits'])} of the phantoms{elsewhere}{refused}; a "
        "phantom that is declined counts as wrong, except for side and severity, which are judged where the "
        "finding was named."
    )
    yield _verdict(results["targets"], "Every target is reached on these.")
    if fresh is not None:
        macro, view = (fresh["test"][figure]["value"] for figure in ("macro_f1", "view"))
        yield (
            f"On {fresh['test']['num']} further phantoms, whose figures nobody knew while training was "
            f"decided on: macro-F1 {_with_interval(macro)}, view {_number(view['value'])}{_followed(fresh)}. "
        ) + _verdict(
            [target for target in fresh["targets"] if target["value"] is not None],
            "Every target that was measured there is reached.",
        )
    if faint is not None:
        nodule, macro = faint["test"]["findings"]["nodule"]["f1"], faint["test"]["macro_f1"]["value"]
        yield (
            f"Were a nodule counted from {faint['nodule_contrast']} of the display range on, {nodule['num']} "
            f"of {faint['test']['num']} films would show one: F1 {_with_interval(nodule)}, macro-F1 "
            f"{_with_interval(macro)}{_followed(faint)}."
        )
    yield f"torch {made['torch']}, transformers {made['transformers']}, CPU."


def _followed(results: dict[str, Any]) -> str:
    swap = results["swap"]
    if not swap["num"]:
        return ""
    return f", the answer follows in {_with_interval(swap['swapped'])} of {swap['num']} cases"


def _verdict(targets: Sequence[Mapping[str, Any]], praise: str) -> str:
    missed = [target["name"] for target in targets if not target["is_reached"]]
    return f"Targets not reached: {', '.join(missed)}." if missed else praise


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _with_interval(estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return "unscored"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


def _number(value: float | None) -> str:
    return "unscored" if value is None else f"{value:.3f}"


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text("utf-8")) if path.exists() else None


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(with_tables(document.read_text("utf-8")), "utf-8")
