"""`serve`: open the app in the browser; the same as `python app.py`, with arguments."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from cxr_assistant.cli.arguments import Subparsers
from cxr_assistant.cli.arguments import add_command as add
from cxr_assistant.cli.output import Console
from cxr_assistant.errors import CxrAssistantError

if TYPE_CHECKING:
    from cxr_assistant.assistant import Assistant
    from cxr_assistant.settings import Settings

__all__ = ["add_command", "end_in_order_when_told"]


def add_command(subparsers: Subparsers) -> None:
    parser = add(subparsers, "serve", run, "Open the app in the browser.")
    parser.add_argument("--checkpoint", metavar="NAME", help="the model that is chosen when the app opens")
    parser.add_argument("--weights", metavar="DIR", type=Path, help="the folder of that checkpoint")
    parser.add_argument("--precision", help="how its weights are held (default: auto, the best that fits)")
    parser.add_argument("--host", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, help="default: 7860")
    parser.add_argument(
        "--profile", choices=["demo", "onprem"], help="onprem: log in, keep an audit log (default: demo)"
    )
    parser.add_argument("--users", metavar="FILE", type=Path, help="who may log in; see `user add`")
    parser.add_argument("--audit-log", metavar="FILE", type=Path, help="where the audit log is kept")
    parser.add_argument("--metrics-port", metavar="PORT", type=int, help="Prometheus metrics (default: off)")


def run(arguments: argparse.Namespace, console: Console) -> int:
    settings = _settings(arguments)
    end_in_order_when_told()
    from cxr_assistant.loading import load
    from cxr_assistant.ui.app import build_app, launch
    from cxr_assistant.ui.web.profiles import check_profile

    check_profile(settings)  # before anything is loaded or opened

    with load(settings=settings) as assistant:
        # The page opens at once, and the first question need not wait for the model.
        Thread(target=_warm_up, args=(assistant,), daemon=True).start()
        launch(
            build_app(assistant, settings),
            settings,
            announce=lambda url: console.result(
                {"status": "listening", "url": url}, f"CXR Assistant listens on {url}"
            ),
        )
    return 0


def end_in_order_when_told() -> None:
    """Let SIGTERM end this process the way in which its main function ends.

    The server hands the signal back once it has shut down; by default that would end the process there and
    then, with uploads on the disk and an engine that nobody has told.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def _settings(arguments: argparse.Namespace) -> Settings:
    """What was given on the command line, checked as the environment is."""
    from cxr_assistant.settings import read_settings

    given = {
        "CXR_CHECKPOINT": arguments.checkpoint,
        "CXR_CHECKPOINT_DIR": arguments.weights,
        "CXR_PRECISION": arguments.precision,
        "CXR_HOST": arguments.host,
        "CXR_PORT": arguments.port,
        "CXR_PROFILE": arguments.profile,
        "CXR_USERS_FILE": arguments.users,
        "CXR_AUDIT_LOG": arguments.audit_log,
        "CXR_METRICS_PORT": arguments.metrics_port,
    }
    return read_settings(
        os.environ | {name: str(value) for name, value in given.items() if value is not None}
    )


def _warm_up(assistant: Assistant) -> None:
    from cxr_assistant.imaging.sandbox import default_sandbox

    default_sandbox().start()
    # What is wrong with the weights is said to the person who asks, at the first question.
    with suppress(CxrAssistantError):
        assistant.warm_up()
