"""CheXagent's prompts: the authors' exact words for every task, on the films that the task means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cxr_assistant.checkpoints import chexagent
from cxr_assistant.checkpoints.chexagent_prompts import ANATOMIES, PROMPTS
from cxr_assistant.checkpoints.spec import get_checkpoint
from cxr_assistant.conversation import Conversation
from cxr_assistant.errors import InvalidStudy, MissingRadiograph
from cxr_assistant.models.vlm import Processor, Prompt
from cxr_assistant.study import Radiograph, Study, ViewPosition
from cxr_assistant.tasks import Task

CHEXAGENT = get_checkpoint("chexagent")
FILMS = [
    Radiograph(np.full((16, 16), 40 * k + 10, np.uint8), bits_stored=8, view=view)
    for k, view in enumerate((ViewPosition.PA, ViewPosition.LATERAL, ViewPosition.AP))
]
MARKS = ("<|endoftext|>", "<|img|>", "<|/img|>")


class Letters:
    """A tokenizer of code points, so that a test can read the prompt back."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(chr(i) if i >= 0 else MARKS[-1 - i] for i in token_ids)

    def id_of(self, token: str) -> int:
        return -1 - MARKS.index(token)


PROCESSOR = Processor(
    tokenizer=Letters(),
    image=CHEXAGENT.image,
    num_image_tokens=4,
    context_length=4096,
    stop_token_ids=frozenset({-1}),
    bos_token_id=None,
)


def study(*films: Radiograph, indication: str = "") -> Study:
    return Study(tuple(films)).with_indication(indication)


def render(task: Task, asked: str = "", at: Study | None = None, name: str = "chexagent") -> Prompt:
    conversation = Conversation().ask(asked) if asked else Conversation()
    at = study(FILMS[0]) if at is None else at
    return chexagent.render(get_checkpoint(name), at, conversation, task, PROCESSOR)


def words(prompt: Prompt) -> str:
    """What the prompt asks, after the films."""
    text = Letters().decode(prompt.token_ids)
    return text.split("<|/img|>\n")[-1].split("<|user|>\n")[-1].split("<|endoftext|>\n<|assistant|>\n")[0]


@pytest.mark.parametrize(
    ("task", "asked", "expected"),
    [
        (Task.FINDINGS, "", "Write a findings section for the CXR."),
        (Task.SECTIONS, ANATOMIES[0], 'Please provide a detailed description of "Airway" in the chest X-ray'),
        (Task.IMPRESSION, "Clear.", "Write the Impression section for the following Findings: Clear."),
        (Task.QUESTION, "Is there a tube?", "Is there a tube?"),
        (
            Task.VIEW,
            "",
            "What is the view of this chest X-ray? Options: (a) PA, (b) AP, (c) LATERAL",
        ),
        (Task.GROUNDING, "left effusion", "Please locate the following phrase: left effusion"),
        (
            Task.DETECTION,
            "nodules",
            "Locate areas in the chest X-ray where nodules are present, using bounding box coordinates",
        ),
        (Task.DETECTION, "Chest tubes", PROMPTS["chest_tube_detection"]),
        (Task.DETECTION, "rib fractures", PROMPTS["rib_fracture_detection"]),
        (Task.DETECTION, "foreign objects", PROMPTS["foreign_objects_detection"]),
    ],
)
def test_tasks_are_asked_in_the_authors_words(task: Task, asked: str, expected: str) -> None:
    assert words(render(task, asked)) == expected


def test_every_prompt_of_the_authors_table_is_reached_by_a_task_or_a_template() -> None:
    """All rows, and no other words; those of the fine-tunes belong to the fine-tunes."""
    own = {name for name in PROMPTS if not name.startswith("structured_report_")}
    templates = {name for wording in CHEXAGENT.tasks.values() for name, _ in wording.templates}
    detections = {"chest_tube_detection", "rib_fracture_detection", "foreign_objects_detection"}
    words = {wording.prompt for wording in CHEXAGENT.tasks.values()}
    by_task = {name for name in own if PROMPTS[name] in words} | {"findings_generation"}
    assert by_task | templates | detections == own


@pytest.mark.parametrize("name", ["named_entity_recognition", "findings_summarization"])
def test_a_request_about_text_comes_without_a_picture(name: str) -> None:
    prompt = render(Task.QUESTION, PROMPTS[name].replace("{text}", "Small left effusion."))
    assert prompt.image_spans == ()
    assert words(prompt).endswith("Small left effusion.")


@pytest.mark.parametrize(
    "task", [t for t, w in CHEXAGENT.tasks.items() if w.needs_text and t is not Task.PROGRESSION]
)
def test_a_question_already_in_the_tasks_words_is_not_wrapped_twice(task: Task) -> None:
    full = CHEXAGENT.tasks[task].prompt.replace("{text}", "pneumonia")
    assert words(render(task, full)) == words(render(task, "pneumonia"))


def test_the_indication_is_given_as_in_training() -> None:
    at = study(FILMS[0], indication="cough")
    expected = 'Given the indication: "cough", write a structured findings section for the CXR.'
    assert words(render(Task.FINDINGS, at=at)) == expected


def test_an_impression_without_words_concludes_from_the_last_answer() -> None:
    conversation = Conversation().ask("Findings?").answer("The lungs are clear.").ask("")
    prompt = chexagent.render(CHEXAGENT, study(FILMS[0]), conversation, Task.IMPRESSION, PROCESSOR)
    assert words(prompt).endswith("Findings: The lungs are clear.")
    assert prompt.image_spans == ()  # as in the authors' demo: the impression is made from text


def test_two_films_are_numbered_and_stand_in_order() -> None:
    prompt = render(Task.VIEW_MATCHING, at=study(FILMS[0], FILMS[1]))
    text = Letters().decode(prompt.token_ids)
    assert text.index("Picture 1:") < text.index("Picture 2:")
    assert words(prompt) == "Do these images belong to the same study?"
    assert len(prompt.pixel_values) == 2
    assert not np.array_equal(*prompt.pixel_values)


def test_a_comparison_shows_the_earlier_film_first() -> None:
    at = study(FILMS[0]).with_prior(study(FILMS[2]))
    prompt = render(Task.PROGRESSION, "pneumonia", at)
    alone = [render(Task.VIEW, at=study(film)).digests[0] for film in (FILMS[2], FILMS[0])]
    assert list(prompt.digests) == alone
    assert words(prompt) == (
        "You are given two images: one reference image and one new image. Please identify the progression "
        "of pneumonia:\n(a) worsening\n(b) stable\n(c) improving"
    )


def test_a_comparison_without_a_prior() -> None:
    with pytest.raises(MissingRadiograph, match="prior"):
        render(Task.PROGRESSION, "pneumonia")


def test_two_views_cannot_be_matched_on_one_film() -> None:
    with pytest.raises(MissingRadiograph, match="needs 2 films; the study holds 1"):
        render(Task.VIEW_MATCHING)


def test_too_many_films() -> None:
    with pytest.raises(InvalidStudy, match="at most 2 films at once; the study holds 3"):
        render(Task.FINDINGS, at=study(*FILMS))


@pytest.mark.parametrize("task", [Task.VIEW, Task.GROUNDING, Task.DETECTION])
def test_tasks_on_one_film_take_the_first(task: Task) -> None:
    assert len(render(task, "x" * (task is not Task.VIEW), study(*FILMS[:2])).image_spans) == 1


def test_a_fine_tune_is_a_line_of_data() -> None:
    prompt = render(Task.FINDINGS, name="chexagent-srrg-findings", at=study(FILMS[0], indication="cough"))
    assert words(prompt) == "Structured Radiology Report Generation for Findings Section"


def test_boxes_refer_to_the_film_that_was_asked_about() -> None:
    from cxr_assistant.generation import Grounding, TextDelta

    events = chexagent.interpret([TextDelta("<|box|>(1,2),(3,4)<|/box|>")], study(*FILMS[:2]), Task.GROUNDING)
    (box,) = (event for event in events if isinstance(event, Grounding))
    assert box.digest == FILMS[0].digest
