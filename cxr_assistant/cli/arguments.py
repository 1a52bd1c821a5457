"""What several subcommands have in common: their arguments, reading files, and building the assistant."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_assistant.errors import SettingsError, StudyError, UnreadableImage
from cxr_assistant.generation import SamplingParams
from cxr_assistant.settings import PRECISIONS
from cxr_assistant.tasks import Task

if TYPE_CHECKING:
    from cxr_assistant.assistant import Assistant
    from cxr_assistant.checkpoints.progress import Progress
    from cxr_assistant.cli.output import Console
    from cxr_assistant.study import Radiograph

__all__ = [
    "FilmReader",
    "Subparsers",
    "add_command",
    "add_model_arguments",
    "add_sampling_arguments",
    "collect_files",
    "load_assistant",
    "read_bytes",
    "sampling_params",
    "task_named",
]

Subparsers = Any  # argparse keeps the type of add_subparsers() to itself
Run = Callable[[argparse.Namespace, "Console"], int]


def add_command(subparsers: Subparsers, name: str, run: Run, summary: str) -> argparse.ArgumentParser:
    """One subcommand with --json."""
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=summary, description=summary)
    parser.add_argument("--json", action="store_true", help="one JSON object per line on stdout")
    parser.set_defaults(run=run)
    return parser


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", metavar="NAME", help="who answers (default: embedded, or CXR_CHECKPOINT)"
    )
    parser.add_argument(
        "--weights", metavar="DIR", type=Path, help="the folder of that checkpoint, published or converted"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="how its weights are held (default: auto, the best that fits, or CXR_PRECISION)",
    )
    parser.add_argument(
        "--accept-licence",
        metavar="NAME",
        action="append",
        default=[],
        help="accept the terms of a checkpoint",
    )


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0 is greedy and can be repeated (default)"
    )
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0, help="for sampling")


def sampling_params(arguments: argparse.Namespace) -> SamplingParams:
    return SamplingParams(
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        max_new_tokens=arguments.max_new_tokens,
        seed=arguments.seed,
    )


def task_named(name: str) -> Task:
    """The task of that name; raises SettingsError with the names that there are."""
    try:
        return Task(name)
    except ValueError as error:
        raise SettingsError(f"Unknown task {name!r}; allowed: {', '.join(Task)}.") from error


def load_assistant(arguments: argparse.Namespace, console: Console) -> Assistant:
    """The assistant of this command line, with the engine in this very process."""
    from cxr_assistant.checkpoints.licences import accept_licence
    from cxr_assistant.checkpoints.spec import get_checkpoint
    from cxr_assistant.loading import load

    for name in arguments.accept_licence:
        accept_licence(get_checkpoint(name))
    if arguments.weights is not None:
        _prepare(arguments, console)
    return load(
        checkpoint=arguments.checkpoint,
        weights=arguments.weights,
        precision=arguments.precision,
        worker="inline",
    )


def _prepare(arguments: argparse.Namespace, console: Console) -> None:
    """Convert what lies in the folder of --weights, once; minutes for a 7B model, so it is seen at work."""
    from cxr_assistant.checkpoints.spec import get_checkpoint
    from cxr_assistant.checkpoints.weights import locate
    from cxr_assistant.settings import read_settings

    settings = read_settings()
    checkpoint = get_checkpoint(arguments.checkpoint or settings.checkpoint)
    remark = [f"{checkpoint.title}: its published files are converted, once."]

    def show(progress: Progress) -> None:
        while remark:
            console.remark(remark.pop())
        console.progress(progress.sentence)

    locate(checkpoint, arguments.weights, weights_dir=settings.weights_dir, on_progress=show)
    console.end_progress()


def collect_files(paths: Iterable[str]) -> Iterator[str]:
    """The files that are meant, in order: folders recursively, whatever their extension; hidden ones not."""
    for path in paths:
        if os.path.isdir(path):
            yield from _files_below(path)
        else:
            yield path


def _files_below(folder: str) -> Iterator[str]:
    for directory, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(directory, name) for name in sorted(files) if not name.startswith("."))


@dataclass(frozen=True)
class FilmReader:
    """Reads the films of one command; `session_key` makes them comparable with each other only."""

    session_key: bytes

    def read(self, file: str) -> Radiograph:
        """The radiograph in `file`; raises StudyError, which does not name the file."""
        from cxr_assistant.imaging.read import read_radiograph

        return read_radiograph(read_bytes(file), session_key=self.session_key)

    def read_named(self, file: str) -> Radiograph:
        """As `read`; every error begins with the file as it was given."""
        try:
            return self.read(file)
        except StudyError as error:
            raise type(error)(f"{file}: {error.message}", hint=error.hint, code=error.code) from error


def read_bytes(file: str) -> bytes:
    """The content of `file`; raises StudyError when there is none or it may not be read."""
    try:
        return Path(file).read_bytes()
    except FileNotFoundError as error:
        raise StudyError("There is no such file.", code="no_file") from error
    except OSError as error:
        raise UnreadableImage(
            "The file cannot be opened.", hint="Check its permissions.", code="no_file"
        ) from error
