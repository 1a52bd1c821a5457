"""`report`: draft findings for one film, many films or whole folders, resumable.

Each film is a study of its own unless --together says that all belong to one. A film that cannot be read
or reported on is one line with its reason, and the batch goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cxr_assistant.cli.arguments import (
    Subparsers,
    add_model_arguments,
    add_sampling_arguments,
    collect_files,
    load_assistant,
    read_bytes,
    sampling_params,
    task_named,
)
from cxr_assistant.cli.arguments import (
    add_command as add,
)
from cxr_assistant.cli.ask import read_films, speak
from cxr_assistant.cli.output import Console, answer_as_dict, error_as_dict
from cxr_assistant.errors import CxrAssistantError, SettingsError, StudyError

if TYPE_CHECKING:
    from cxr_assistant.assistant import Assistant

__all__ = ["add_command"]


def add_command(subparsers: Subparsers) -> None:
    parser = add(subparsers, "report", run, "Draft findings for films or folders, one study per film.")
    parser.add_argument("films", nargs="+", metavar="FILE", help="DICOM, PNG or JPEG, or a folder of them")
    parser.add_argument("--together", action="store_true", help="all films belong to one study")
    parser.add_argument(
        "--task", default="findings", metavar="TASK", help="findings (default), report, view, ..."
    )
    parser.add_argument("--prior", metavar="FILE", help="the earlier film to compare with")
    parser.add_argument("--indication", default="", help="the reason for the exam")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="append one JSON line per study; what stands there is not done again",
    )
    add_model_arguments(parser)
    add_sampling_arguments(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    task_named(arguments.task), sampling_params(arguments)  # refuse these before a model is loaded
    files = list(collect_files(arguments.films))
    if not files:
        raise StudyError("No file was found there.", hint="Give a film or a folder of films.", code="no_file")
    batches = [files] if arguments.together else [[file] for file in files]
    with load_assistant(arguments, console) as assistant:
        reporter = Reporter(assistant, arguments, console)
        reporter.run(batches)
    return 2 if reporter.num_failed else 0


@dataclass
class Reporter:
    """Works through studies one by one and keeps the tally."""

    assistant: Assistant
    arguments: argparse.Namespace
    console: Console
    num_failed: int = 0
    num_skipped: int = 0

    def run(self, batches: list[list[str]]) -> None:
        started = time.monotonic()
        with _appending(self.arguments.out) as sink:
            done = _read_done(self.arguments.out)
            for index, films in enumerate(batches, 1):
                self._step(films, done, sink, f"{index} of {len(batches)}")
        if len(batches) > 1:
            seconds = time.monotonic() - started
            num_new = len(batches) - self.num_failed - self.num_skipped
            self.console.remark(
                f"{num_new} reported, {self.num_skipped} already there, {self.num_failed} failed, "
                f"{seconds:.0f} s"
            )

    def _step(self, films: list[str], done: set[str], sink: IO[str] | None, position: str) -> None:
        name = ", ".join(films)
        self.console.remark(f"--- {position}: {name}")
        try:
            key = self._key(films)
            if key in done:
                self.num_skipped += 1
                return
            line = {"status": "ok", "films": films, "key": key, **self._report(films)}
        except CxrAssistantError as error:
            self.num_failed += 1
            if error.code == "empty_question":  # a batch has no words of a person
                error.hint = (
                    f'Use `ask "WORDS" {films[0]} --task {self.arguments.task}`. {error.hint}'.strip()
                )
            self.console.remark(str(error))
            line = {"status": "error", "films": films, "key": None, "error": error_as_dict(error)}
        if self.console.is_json:
            self.console.result(line)
        if sink:
            sink.write(json.dumps(line, ensure_ascii=False) + "\n")
            sink.flush()

    def _report(self, films: list[str]) -> dict[str, Any]:
        from cxr_assistant.assistant import make_session_id
        from cxr_assistant.conversation import Conversation

        given, task = self.arguments, task_named(self.arguments.task)
        study = read_films(films, given.prior, given.indication, self.console)
        params = sampling_params(given)
        events = self.assistant.respond(
            study, Conversation(), task, params, checkpoint=given.checkpoint, session=make_session_id()
        )
        return {"task": task.value, **answer_as_dict(speak(events, self.console))}

    def _key(self, films: list[str]) -> str:
        """What makes this answer this answer: content, model and request; the name of a file does not."""
        given = self.arguments
        checkpoint = self.assistant.get_checkpoint(given.checkpoint or self.assistant.checkpoint)
        asked = (given.task, given.indication, given.precision, sampling_params(given))
        request = (checkpoint.name, checkpoint.revision, *asked)
        sha = hashlib.sha256(repr(request).encode())
        for file in (*films, *([given.prior] if given.prior else [])):
            sha.update(hashlib.sha256(read_bytes(file)).digest())
        return sha.hexdigest()


def _read_done(out: Path | None) -> set[str]:
    """Keys of the studies that `out` already answers; failed ones are tried again."""
    if out is None or not out.exists():
        return set()
    return {line["key"] for line in _lines(out) if line.get("status") == "ok"}


def _lines(out: Path) -> Iterator[dict[str, Any]]:
    for text in out.read_text("utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # the last line of a run that was cut off
        if isinstance(line, dict) and "key" in line:
            yield line


@contextmanager
def _appending(out: Path | None) -> Iterator[IO[str] | None]:
    """The sink of a batch; what a cut run left half-written is closed off with a line end."""
    if out is None:
        yield None
        return
    try:
        written = out.read_bytes() if out.exists() else b""
        sink = out.open("a", encoding="utf-8")
    except OSError as error:
        raise SettingsError("The file given with --out cannot be written.", hint="Choose another.") from error
    with sink:
        if written and not written.endswith(b"\n"):
            sink.write("\n")
        yield sink
