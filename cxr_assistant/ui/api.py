"""The door for gradio_client: six named, typed endpoints; everything else of the app stays private.

Knows Gradio's files and errors, and the verbs (programs.py). Keeps nothing: a file is read into memory once
and gone from the disk before its answer begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import FileData
from gradio_client.utils import python_type_to_json_schema

from cxr_assistant.errors import MissingRadiograph
from cxr_assistant.ui.programs import HealthReport, Programs, Reply, in_plain_words
from cxr_assistant.ui.web import make_upload_dir

__all__ = ["ENDPOINTS", "Endpoints", "open_api", "shut_the_rest"]

ENDPOINTS = ("draft_findings", "ask", "classify_view", "locate", "compare_prior", "health")


class Endpoints:
    """Each method is an endpoint of its own name; its hints are the API's types, its docstring the help."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    def draft_findings(
        self, request: gr.Request, film: FileData, indication: str = "", model: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Draft the findings of one chest radiograph (DICOM, PNG or JPEG).

        Args:
            film: the radiograph, as `handle_file(path)`
            indication: the reason for the exam, without patient data
            model: a name that `health` lists; empty for the app's own choice
        """
        yield from _sent(
            lambda: self._programs.draft_findings(
                _take(film), indication=indication, model=model, visitor=_visitor(request)
            )
        )

    def ask(
        self, request: gr.Request, film: FileData, question: str, indication: str = "", model: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Ask one question about one chest radiograph.

        Args:
            film: the radiograph, as `handle_file(path)`
            question: what you want to know, in English
            indication: the reason for the exam, without patient data
            model: a name that `health` lists; empty for the app's own choice
        """
        yield from _sent(
            lambda: self._programs.ask(
                _take(film), question, indication=indication, model=model, visitor=_visitor(request)
            )
        )

    def classify_view(self, request: gr.Request, film: FileData, model: str = "") -> Iterator[dict[str, Any]]:
        """Tell the view of one chest radiograph: PA, AP or lateral.

        Args:
            film: the radiograph, as `handle_file(path)`
            model: a name that `health` lists; empty for the app's own choice
        """
        yield from _sent(
            lambda: self._programs.classify_view(_take(film), model=model, visitor=_visitor(request))
        )

    def locate(
        self, request: gr.Request, film: FileData, phrase: str, model: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Find a phrase on one chest radiograph; the boxes are fractions of its width and height.

        Args:
            film: the radiograph, as `handle_file(path)`
            phrase: what to find, such as "left pleural effusion"
            model: a name that `health` lists; empty for a model that was trained to locate
        """
        yield from _sent(
            lambda: self._programs.locate(_take(film), phrase, model=model, visitor=_visitor(request))
        )

    def compare_prior(
        self, request: gr.Request, film: FileData, prior: FileData, finding: str, model: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Tell how one finding changed from an earlier chest radiograph to this one.

        Args:
            film: the current radiograph, as `handle_file(path)`
            prior: the earlier radiograph, as `handle_file(path)`
            finding: what to follow, such as "pleural effusion"
            model: a name that `health` lists; empty for a model that was trained to compare
        """
        yield from _sent(
            lambda: self._programs.compare_prior(
                _take(film), _take(prior), finding, model=model, visitor=_visitor(request)
            )
        )

    def health(self) -> dict[str, Any]:
        """Whether the engine answers, and which models there are, with the tasks of each."""
        return self._programs.health().as_dict()


def open_api(programs: Programs, blocks: gr.Blocks) -> None:
    """Add the endpoints to `blocks`, which are being built."""
    endpoints = Endpoints(programs)
    for name in ENDPOINTS:
        gr.api(getattr(endpoints, name), api_name=name)
    for function in _own(blocks):
        kind = HealthReport if function.api_name == "health" else Reply
        function.outputs[0]._api_info = python_type_to_json_schema(kind)
        for field in function.inputs:
            _refuse_addresses(field)


def shut_the_rest(blocks: gr.Blocks) -> None:
    """Make every event of the page private, those that Gradio added by itself, too."""
    own = _own(blocks)
    for event in blocks.fns.values():
        if event not in own:
            event.api_visibility = "private"


def _own(blocks: gr.Blocks) -> list[Any]:
    return [f for f in blocks.fns.values() if isinstance(getattr(f.fn, "__self__", None), Endpoints)]


def _refuse_addresses(field: Any) -> None:
    """Keep Gradio from downloading a file that is given as a web address: nothing here fetches for others."""
    keep = field.async_move_resource_to_block_cache

    async def kept(path: Any) -> Any:
        if path is not None and "://" in str(path):
            raise gr.Error("Send the file itself, not its address. [bad_file]", print_exception=False)
        return await keep(path)

    field.async_move_resource_to_block_cache = kept


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash or "")


def _sent(ask: Callable[[], Iterator[Reply]]) -> Iterator[dict[str, Any]]:
    """The replies as they go over the wire; a failure as one sentence."""
    try:
        for reply in ask():
            yield reply.as_dict()
    except Exception as error:  # the outermost edge
        raise gr.Error(in_plain_words(error), print_exception=False) from None


def _take(film: Any) -> bytes:
    """The bytes of an upload, which is deleted at once. Any other path is no upload, whoever names it."""
    path = film.get("path") if isinstance(film, dict) else None
    if not isinstance(path, str):
        raise MissingRadiograph("There is no file in the request.", hint="Send it with handle_file(path).")
    upload = Path(path).resolve()
    if not upload.is_relative_to(make_upload_dir().resolve()):
        raise MissingRadiograph("This file was not uploaded.", hint="Send it with handle_file(path).")
    try:
        return upload.read_bytes()
    except OSError:
        raise MissingRadiograph("The file did not arrive whole.", hint="Send it again.") from None
    finally:
        upload.unlink(missing_ok=True)
