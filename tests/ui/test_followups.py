from __future__ import annotations

from dataclasses import replace

import pytest

from cxr_assistant.checkpoints.embedded import CHECKPOINT as EMBEDDED
from cxr_assistant.checkpoints.spec import get_checkpoint, list_checkpoints
from cxr_assistant.imaging.phantom.words import questions
from cxr_assistant.study import Study
from cxr_assistant.tasks import Task
from cxr_assistant.ui.followups import MAX_SUGGESTIONS, mentioned, suggest
from tests.ui.doubles import make_radiograph

STUDY = Study((make_radiograph(),))
WITH_PRIOR = STUDY.with_prior(Study((make_radiograph(2),)))


def titles(text: str, name: str = "embedded", study: Study = STUDY) -> list[str]:
    return [offer.title for offer in suggest(get_checkpoint(name), study, text)]


@pytest.mark.parametrize(
    ("text", "nouns"),
    [
        ("There is a small left pleural effusion. No pneumothorax.", ["pleural effusion"]),
        ("Heart size is normal. The lungs are clear.", []),
        ("The heart is mildly enlarged.", ["cardiomegaly"]),
        ("Without consolidation; a mass in the right upper zone.", ["mass"]),
        ("NODULE seen. Mild oedema.", ["nodule", "pulmonary edema"]),
    ],
)
def test_what_is_affirmed_is_found_and_what_is_denied_is_not(text: str, nouns: list[str]) -> None:
    assert [sign.noun for sign, _ in mentioned(text)] == nouns


def test_what_the_answer_left_open_is_asked_first() -> None:
    assert titles("There is a pleural effusion.")[:2] == [
        "On which side is the pleural effusion?",
        "How large is the pleural effusion?",
    ]
    assert "side" not in " ".join(titles("There is a left pleural effusion."))


def test_nothing_is_offered_twice_and_never_more_than_fit() -> None:
    text = "There is a mass, a nodule, a pneumothorax and consolidation."
    offered = suggest(EMBEDDED, STUDY, text)
    assert len(offered) == MAX_SUGGESTIONS == len({offer.prompt for offer in offered})
    again = suggest(EMBEDDED, STUDY, text, frozenset(offer.prompt for offer in offered))
    assert not {offer.prompt for offer in offered} & {offer.prompt for offer in again}


@pytest.mark.parametrize("checkpoint", list_checkpoints(), ids=lambda c: c.name)
@pytest.mark.parametrize("text", ["There is a pleural effusion and cardiomegaly.", "Normal.", ""])
def test_only_declared_tasks_are_offered(checkpoint: object, text: str) -> None:
    for offer in suggest(checkpoint, WITH_PRIOR, text):  # type: ignore[arg-type]
        assert offer.task in checkpoint.tasks  # type: ignore[attr-defined]
        assert "{" not in offer.prompt


def test_the_embedded_model_is_asked_in_words_of_its_training() -> None:
    from cxr_assistant.imaging.phantom import make_phantom

    trained = {qa.question for seed in range(40) for qa in questions(make_phantom(seed, size_px=64))}
    for text in ("There is a pleural effusion.", "Cardiomegaly.", "A nodule.", "Clear lungs."):
        for offer in suggest(EMBEDDED, STUDY, text):
            assert offer.prompt in trained


def test_a_model_that_draws_boxes_is_asked_to_show_the_finding() -> None:
    assert titles("A right pneumothorax is present.", "chexagent")[0] == "Show the pneumothorax"


def test_a_change_is_offered_with_a_prior_alone() -> None:
    text = "A right pneumothorax is present."
    assert "Has the pneumothorax changed?" in titles(text, "chexagent", WITH_PRIOR)
    assert "Has the pneumothorax changed?" not in titles(text, "chexagent")


def test_a_model_without_questions_is_offered_none() -> None:
    findings_only = replace(EMBEDDED, tasks={Task.FINDINGS: EMBEDDED.tasks[Task.FINDINGS]})
    assert suggest(findings_only, STUDY, "There is a pleural effusion.") == ()
