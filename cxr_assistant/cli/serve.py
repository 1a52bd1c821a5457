"""`serve`: open the app in the browser; the same as `python app.py`, with arguments."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from cxr_assistant.cli.arguments import Subparsers
from cxr_assistant.cli.arguments import add_command as add
from cxr_assistant.cli.output import Console

__all__ = ["add_command"]


def add_command(subparsers: Subparsers) -> None:
    parser = add(subparsers, "serve", run, "Open the app in the browser.")
    parser.add_argument("--checkpoint", metavar="NAME", help="the model that is chosen when the app opens")
    parser.add_argument("--weights", metavar="DIR", type=Path, help="the folder of that checkpoint")
    parser.add_argument("--host", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, help="default: 7860")


def run(arguments: argparse.Namespace, console: Console) -> int:
    from cxr_assistant.assistant import load
    from cxr_assistant.settings import read_settings
    from cxr_assistant.ui.app import build_app, launch

    given = {
        "checkpoint": arguments.checkpoint,
        "checkpoint_dir": arguments.weights,
        "host": arguments.host,
        "port": arguments.port,
    }
    settings = replace(read_settings(), **{name: value for name, value in given.items() if value is not None})
    with load(settings=settings) as assistant:
        launch(build_app(assistant, settings), settings)
    return 0
