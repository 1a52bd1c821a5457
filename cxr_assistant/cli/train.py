"""`train`: make the embedded model anew from a seed; the defaults are the recipe it was made with."""

from __future__ import annotations

import argparse
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
    parser.add_argument("--seed", type=int, help="default: the recipe's")
    parser.add_argument("--micro", action="store_true", help="a one-minute model that proves the recipe runs")


def run(arguments: argparse.Namespace, console: Console) -> int:
    raise SystemExit("filled in when training/ exists")
