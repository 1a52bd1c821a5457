"""`ask`: one question, or several in turn, about one study."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cxr_assistant.cli.arguments import (
    FilmReader,
    Subparsers,
    add_model_arguments,
    add_sampling_arguments,
    load_assistant,
    sampling_params,
    task_named,
)
from cxr_assistant.cli.arguments import (
    add_command as add,
)
from cxr_assistant.cli.output import Console, answer_as_dict
from cxr_assistant.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cxr_assistant.assistant import Assistant
    from cxr_assistant.generation import Answer, GenerationEvent
    from cxr_assistant.study import Study

__all__ = ["add_command", "read_films", "speak"]


def add_command(subparsers: Subparsers) -> None:
    parser = add(subparsers, "ask", run, "Ask about a study; all films given belong to it.")
    parser.add_argument("question", help="the question, or the phrase to locate")
    parser.add_argument("films", nargs="+", metavar="FILE", help="DICOM, PNG or JPEG")
    parser.add_argument(
        "--then", action="append", default=[], metavar="QUESTION", help="a follow-up question"
    )
    parser.add_argument(
        "--task", default="question", metavar="TASK", help="what kind of question (default: question)"
    )
    parser.add_argument(
        "--template",
        metavar="NAME",
        help="put the question into these words of the model's training (`checkpoints list --json` has them)",
    )
    parser.add_argument("--prior", metavar="FILE", help="the earlier film to compare with")
    parser.add_argument("--indication", default="", help="the reason for the exam")
    add_model_arguments(parser)
    add_sampling_arguments(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    from cxr_assistant.assistant import make_session_id
    from cxr_assistant.conversation import Conversation

    task, params, session = task_named(arguments.task), sampling_params(arguments), make_session_id()
    study = read_films(arguments.films, arguments.prior, arguments.indication, console)
    conversation = Conversation()
    with load_assistant(arguments, console) as assistant:
        for question in (arguments.question, *arguments.then):
            asked = assistant.in_words(task, question, arguments.checkpoint)
            if arguments.template:
                asked = _in_template(assistant, arguments, question)
            conversation = conversation.ask(asked)
            events = assistant.respond(
                study, conversation, task, params, checkpoint=arguments.checkpoint, session=session
            )
            answer = speak(events, console)
            conversation = conversation.answer(answer.text, answer.checkpoint)
            if console.is_json:
                console.result(
                    {"status": "ok", "task": task.value, "question": asked, **answer_as_dict(answer)}
                )
    return 0


def _in_template(assistant: Assistant, arguments: argparse.Namespace, question: str) -> str:
    checkpoint = assistant.get_checkpoint(arguments.checkpoint or assistant.checkpoint)
    templates = dict(template for wording in checkpoint.tasks.values() for template in wording.templates)
    if arguments.template not in templates:
        allowed = ", ".join(templates) or f"none with {checkpoint.title}"
        raise SettingsError(f"Unknown template {arguments.template!r}; allowed: {allowed}.")
    return templates[arguments.template].replace("{text}", question)


def read_films(films: list[str], prior: str | None, indication: str, console: Console) -> Study:
    """One study of all `films`; what the reader remarks about them goes to stderr."""
    from cxr_assistant.assistant import make_session_key
    from cxr_assistant.study import Study

    reader = FilmReader(make_session_key())
    radiographs = tuple(reader.read_named(file) for file in films)
    study = Study(radiographs).with_indication(indication)
    for notice in dict.fromkeys(notice for radiograph in radiographs for notice in radiograph.notices):
        console.remark(notice)
    return study.with_prior(Study((reader.read_named(prior),))) if prior else study


def speak(events: Iterator[GenerationEvent], console: Console) -> Answer:
    """Show an answer while it is written, its notices before it and who spoke after it."""
    from cxr_assistant.generation import collect

    answer = collect(_shown(events, console))
    console.stream("\n")
    usage = answer.usage
    precision = f"{answer.precision}, " if answer.precision else ""
    console.remark(
        f"[{answer.checkpoint} {answer.revision[:12]}, {precision}{usage.completion_tokens} tokens, "
        f"{usage.total_s:.1f} s, {answer.finish_reason.value}]"
    )
    return answer


def _shown(events: Iterator[GenerationEvent], console: Console) -> Iterator[GenerationEvent]:
    from cxr_assistant.generation import Grounding, Notice, TextDelta

    for event in events:
        match event:
            case Notice():
                console.remark(event.text)
            case TextDelta():
                console.stream(event.text)
            case Grounding():
                box = event.box
                corners = f"x {box.x_min:.2f}-{box.x_max:.2f}, y {box.y_min:.2f}-{box.y_max:.2f}"
                console.remark(f"{event.phrase}: {corners}")
        yield event
