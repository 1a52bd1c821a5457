"""`train`: make the embedded model anew from a seed; the defaults are the recipe it was made with."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from cxr_assistant.cli.arguments import Subparsers
from cxr_assistant.cli.arguments import add_command as add
from cxr_assistant.cli.output import Console
from cxr_assistant.errors import MissingWeights, SettingsError

__all__ = ["add_command"]


def add_command(subparsers: Subparsers) -> None:
    parser = add(subparsers, "train", run, "Train the embedded model on phantoms.")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where the checkpoint is written"
    )
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="phantoms and states of the run, taken up when it is called again (default: DIR.work)",
    )
    parser.add_argument(
        "--guide",
        type=Path,
        metavar="DIR",
        help="teach a model without convolutions by this finished one, with its --work",
    )
    parser.add_argument("--seed", type=int, help="default: the recipe's")
    parser.add_argument("--processes", type=int, metavar="N", help="that train (default: the recipe's)")
    parser.add_argument("--micro", action="store_true", help="a one-minute model that proves the recipe runs")


def run(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.processes is not None and arguments.processes < 1:
        raise SettingsError(f"--processes is {arguments.processes}; allowed: 1 or more.")
    from cxr_assistant.training import train as training

    given = {} if arguments.seed is None else {"seed": arguments.seed}
    recipe = replace(training.MICRO if arguments.micro else training.EMBEDDED, **given)
    plain = replace(training.MICRO_PLAIN if arguments.micro else training.PLAIN, **given)
    work = arguments.work or arguments.out.with_name(f"{arguments.out.name}.work")
    started = time.monotonic()
    if arguments.guide is None:
        training.train(recipe, arguments.out, work, console.remark, arguments.processes)
    else:
        _require_model(arguments.guide)
        training.train_plain(arguments.guide, plain, arguments.out, work, console.remark, arguments.processes)
    seconds = round(time.monotonic() - started)
    values = {"status": "ok", "directory": str(arguments.out), "seed": recipe.seed, "seconds": seconds}
    console.result(values, f"The model is in {arguments.out}, after {seconds} s. Use it with --weights.")
    return 0


def _require_model(folder: Path) -> None:
    """Raise MissingWeights unless a finished model lies there."""
    if not (folder / "model.safetensors").is_file():
        raise MissingWeights(
            f"There is no finished model in {folder.name}.", hint="Train one first, or give weights/embedded."
        )
