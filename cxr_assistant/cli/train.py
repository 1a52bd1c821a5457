"""`train`: make the embedded model anew from a seed; the defaults are the recipe it was made with."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from cxr_assistant.cli.arguments import Subparsers
from cxr_assistant.cli.arguments import add_command as add
from cxr_assistant.cli.output import Console

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
        help="rendered phantoms and states; default: DIR with .work behind",
    )
    parser.add_argument("--seed", type=int, help="default: the recipe's")
    parser.add_argument("--micro", action="store_true", help="a one-minute model that proves the recipe runs")


def run(arguments: argparse.Namespace, console: Console) -> int:
    from cxr_assistant.training.train import EMBEDDED, MICRO, train

    recipe = MICRO if arguments.micro else EMBEDDED
    if arguments.seed is not None:
        recipe = replace(recipe, seed=arguments.seed)
    work = arguments.work or arguments.out.with_name(arguments.out.name + ".work")
    train(recipe, arguments.out, work, report=console.remark)
    console.result({"checkpoint": str(arguments.out)}, f"The model is in {arguments.out}.")
    return 0
