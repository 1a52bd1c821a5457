"""Write the answers of the examples anew, with the real model: `python examples/make_answers.py`.

Run it after a change of the weights or of the films; a test compares revision and films with the list.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cxr_assistant import Answer, Assistant, Conversation, Study, Task, collect, load  # noqa: E402
from cxr_assistant.ui.examples import Example, read_examples  # noqa: E402
from cxr_assistant.ui.precomputed import ANSWERS_FILE, film_digests  # noqa: E402

QUESTIONS = (
    (Task.FINDINGS, ""),
    (Task.VIEW, ""),
    (Task.QUESTION, "Is there a pleural effusion?"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--checkpoint", default="embedded", help="the model that answers")
    name = parser.parse_args().checkpoint
    with load(name, worker="inline") as assistant:
        listing = {
            "checkpoint": name,
            "revision": assistant.get_checkpoint(name).revision,
            "examples": {example.title: answers_of(assistant, example) for example in read_examples()},
        }
    text = json.dumps(listing, indent=2, ensure_ascii=False)
    (HERE / ANSWERS_FILE).write_text(text + "\n", encoding="utf-8")


def answers_of(assistant: Assistant, example: Example) -> dict[str, Any]:
    """The questions asked one after the other, as a person would in one conversation."""
    study, conversation, said = Study(), Conversation(), []
    for film in example.films:
        study = study.with_radiograph(assistant.read(film.read_bytes()))
    for task, text in QUESTIONS:
        prompt = assistant.in_words(task, text)
        answer = collect(assistant.respond(study, conversation.ask(prompt), task))
        conversation = conversation.ask(prompt).answer(answer.text, answer.checkpoint)
        said.append(as_dict(task, prompt, answer))
    return {"films": film_digests(example.films), "answers": said}


def as_dict(task: Task, prompt: str, answer: Answer) -> dict[str, str]:
    return {
        "task": task.value,
        "prompt": prompt,
        "text": answer.text,
        "finish_reason": answer.finish_reason.value,
    }


if __name__ == "__main__":
    main()
