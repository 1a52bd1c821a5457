"""`user`: who may log in to an app that runs with CXR_USERS_FILE."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path

from cxr_assistant.cli.arguments import Subparsers
from cxr_assistant.cli.arguments import add_command as add
from cxr_assistant.cli.output import Console
from cxr_assistant.errors import SettingsError

__all__ = ["add_command"]


def add_command(subparsers: Subparsers) -> None:
    parser = add(subparsers, "user", run, "Add a user who may log in, or change a password.")
    parser.add_argument("action", choices=["add"], help="add a user, or give one a new password")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--file", metavar="FILE", type=Path, help="default: CXR_USERS_FILE")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """The password is typed twice, or is the first line of what is piped in."""
    from cxr_assistant.ui.web.login import add_user

    file = arguments.file or Path(os.environ.get("CXR_USERS_FILE", ""))
    if not file.name:
        raise SettingsError("There is no file of users.", hint="Give one with --file, or set CXR_USERS_FILE.")
    add_user(file, arguments.name, _password())
    console.result({"status": "ok", "user": arguments.name}, f"{arguments.name} may log in.")
    return 0


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    first, second = getpass.getpass("Password: "), getpass.getpass("Once more: ")
    if first != second:
        raise SettingsError("The two passwords differ.", hint="Type the same one twice.")
    return first
