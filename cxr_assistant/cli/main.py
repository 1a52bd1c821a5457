"""Parse the command line, run one subcommand, and turn what goes wrong into a sentence and an exit code.

Exit codes: 0 all went well, 2 something given could not be used, 130 interrupted, 1 a defect of ours.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from cxr_assistant import __version__
from cxr_assistant.cli import ask, checkpoints, inspect, phantom, report, serve, train, user
from cxr_assistant.cli.output import Console
from cxr_assistant.errors import CxrAssistantError

__all__ = ["main"]

_SUBCOMMANDS = (report, ask, inspect, checkpoints, phantom, train, serve, user)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing but a defect of ours ends in exit code 1."""
    arguments = _parser().parse_args(argv)
    console = Console(is_json=arguments.json)
    try:
        return int(arguments.run(arguments, console))
    except CxrAssistantError as error:
        console.fail(error)
        return 2
    except KeyboardInterrupt:
        console.remark("Interrupted.")
        return 130
    except BrokenPipeError:  # `| head` closed our output: nothing is wrong, and nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the outermost edge: a person sees a sentence, CXR_DEBUG=1 the traceback
        if os.environ.get("CXR_DEBUG"):
            raise
        console.remark(f"A defect of this program ({type(error).__name__}); CXR_DEBUG=1 shows where.")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cxr_assistant",
        description="Reads chest radiographs with vision-language models. Research only, no medical device.",
    )
    parser.add_argument("--version", action="version", version=f"cxr-assistant {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in _SUBCOMMANDS:
        module.add_command(subparsers)
    return parser
