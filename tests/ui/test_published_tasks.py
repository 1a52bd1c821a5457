"""Every task of every published model has its button, and pressing it asks in the words of its training."""

from __future__ import annotations

import pytest

from cxr_assistant.checkpoints.spec import Checkpoint, list_checkpoints
from cxr_assistant.tasks import Task
from cxr_assistant.ui.asking import Inquiry
from cxr_assistant.ui.chat import Chat
from cxr_assistant.ui.exchange import Phase
from cxr_assistant.ui.session import Session
from cxr_assistant.ui.switchboard import Switchboard
from cxr_assistant.ui.transcript import chat_view
from tests.ui.doubles import ScriptedAssistant, make_radiograph

MENU = list_checkpoints()
TASKS = [(c, task) for c in MENU if not c.phantoms_only for task in c.tasks]
FOUND = "pleural effusion"


@pytest.fixture
def assistant() -> ScriptedAssistant:
    return ScriptedAssistant(menu=MENU)


def reading(checkpoint: Checkpoint) -> Session:
    """Two films and a prior on the viewbox, as any task may want them."""
    earlier, *films = (make_radiograph(seed) for seed in range(3))
    session = Session(checkpoint.name)
    for film in (*films, earlier):
        session = session.with_film(film)
    return session.with_prior(earlier.digest)


def buttons(session: Session, checkpoint: Checkpoint) -> dict[str, dict]:
    return {button["task"]: button for button in chat_view(session, checkpoint, (), frozenset())["tasks"]}


@pytest.mark.parametrize(("checkpoint", "task"), TASKS, ids=lambda value: getattr(value, "name", value))
def test_a_task_is_reached_from_the_page(
    assistant: ScriptedAssistant, checkpoint: Checkpoint, task: Task
) -> None:
    session = reading(checkpoint)
    typed = {"prompt": "{text}", "needs_text": True}  # a free question has the composer, and no button
    button = typed if task is Task.QUESTION else buttons(session, checkpoint)[task.value]
    assert button["needs_text"] or "{text}" not in button["prompt"]
    prompt = button["prompt"].replace("{text}", FOUND)
    *_, after = Chat(assistant, Switchboard()).send(session, "ann", Inquiry(task=task.value, prompt=prompt))
    assert after.exchanges[-1].phase is Phase.DONE
    asked = assistant.worker.requests
    assert {(request.checkpoint, request.task) for request in asked} == {(checkpoint.name, task)}
    wording = checkpoint.tasks[task]
    gaps = wording.choices if task is Task.SECTIONS else (FOUND,)
    expected = [wording.prompt.replace("{text}", gap) for gap in gaps] if wording.needs_text else [prompt]
    assert [request.conversation.last_question for request in asked] == expected
    assert (asked[0].study.prior is not None) is wording.needs_prior


def test_a_comparison_is_offered_once_there_is_a_prior() -> None:
    chexagent = next(c for c in MENU if c.name == "chexagent")
    alone = Session("chexagent").with_film(make_radiograph(1))
    assert Task.PROGRESSION.value not in buttons(alone, chexagent)
    assert Task.PROGRESSION.value in buttons(reading(chexagent), chexagent)
