"""CheXagent's own words: every prompt of its training, and what is put in them.

Knows sentences, tasks and what a person typed; must not know tokens, films or weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cxr_assistant.checkpoints.spec import Checkpoint, TaskWording
from cxr_assistant.conversation import Conversation
from cxr_assistant.study import Study
from cxr_assistant.tasks import Task

__all__ = ["ANATOMIES", "PROMPTS", "WORDINGS", "ask_in_words", "is_about_text_alone"]

ANATOMIES = (
    "Airway",
    "Breathing",
    "Cardiac",
    "Diaphragm",
    "Everything else (e.g., mediastinal contours, bones, soft tissues, tubes, valves, and pacemakers)",
)

# The words of the authors' wrapper and demos (GitHub Stanford-AIMI/CheXagent, e4f31e6), by their names there.
PROMPTS: Mapping[str, str] = {
    "view_classification": "What is the view of this chest X-ray? Options: (a) PA, (b) AP, (c) LATERAL",
    "view_matching": "Do these images belong to the same study?",
    "binary_disease_classification": "Does this chest X-ray contain a {text}?",
    "disease_identification": "Given the CXR, identify any diseases. Options:\n{text}",
    "findings_generation": 'Given the indication: "{text}", write a structured findings section for the CXR.',
    "findings_generation_without_indication": "Write a findings section for the CXR.",  # templates.py
    "findings_generation_section_by_section": (
        'Please provide a detailed description of "{text}" in the chest X-ray'
    ),
    "image_text_matching": "Decide if the provided image matches the following text: {text}",
    "phrase_grounding": "Please locate the following phrase: {text}",
    "abnormality_detection": (
        "Locate areas in the chest X-ray where {text} are present, using bounding box coordinates"
    ),
    "chest_tube_detection": "Locate chest tubes and specify their positions with bounding box coordinates",
    "rib_fracture_detection": (
        "Locate rib fractures and specify their positions with bounding box coordinates"
    ),
    "foreign_objects_detection": (
        "Examine the chest X-ray for the presence of foreign objects, such as tubes, clips, or hardware, "
        "and provide their locations with bounding box coordinates."
    ),
    # The official call puts the list of image paths where the disease belongs: not reproduced.
    "temporal_image_classification": (
        "You are given two images: one reference image and one new image. Please identify the progression "
        "of {text}:\n(a) worsening\n(b) stable\n(c) improving"
    ),
    "findings_summarization": "Summarize the following Findings: {text}",
    "named_entity_recognition": (
        "Given the list of entity types [Observation (Definitely Absent), Observation (Definitely Present), "
        "Observation (Uncertain), Anatomy], find out all words/phrases that indicate the above types of "
        "named entities. Sentence: {text}"
    ),
    "demo_view": "Determine the view of this CXR",
    "demo_impression": "Write the Impression section for the following Findings: {text}",
    "structured_report_findings": "Structured Radiology Report Generation for Findings Section",
    "structured_report_impression": "Structured Radiology Report Generation for Impression Section",
}

_NAMED_DETECTIONS = {
    "chest tubes": PROMPTS["chest_tube_detection"],
    "rib fractures": PROMPTS["rib_fracture_detection"],
    "foreign objects": PROMPTS["foreign_objects_detection"],
}

# Rows of the authors' table that have no button of their own; the last two are about text alone.
_TEXT_ONLY = ("findings_summarization", "named_entity_recognition")
_QUESTIONS = (
    "binary_disease_classification",
    "disease_identification",
    "image_text_matching",
    "demo_view",
    *_TEXT_ONLY,
)

WORDINGS = {
    Task.FINDINGS: TaskWording(
        prompt=PROMPTS["findings_generation_without_indication"],
        hint="The reason for the exam, when given, is added in the words used in training.",
    ),
    Task.SECTIONS: TaskWording(
        prompt=PROMPTS["findings_generation_section_by_section"],
        hint="One answer per part of the chest.",
        needs_text=True,
        choices=ANATOMIES,
    ),
    Task.IMPRESSION: TaskWording(
        prompt=PROMPTS["demo_impression"],
        hint="The findings to conclude from; the last answer is taken when this is left empty.",
        needs_text=True,
        num_images=0,
        most_images=0,
    ),
    Task.QUESTION: TaskWording(
        prompt="{text}",
        hint="Any question about the film.",
        needs_text=True,
        follow_ups={"presence": (PROMPTS["binary_disease_classification"].replace("a {text}", "{a_noun}"),)},
        templates=tuple((name, PROMPTS[name]) for name in _QUESTIONS),
    ),
    Task.VIEW: TaskWording(
        prompt=PROMPTS["view_classification"], most_images=1, choices=("PA", "AP", "LATERAL")
    ),
    Task.VIEW_MATCHING: TaskWording(prompt=PROMPTS["view_matching"], num_images=2),
    Task.GROUNDING: TaskWording(
        prompt=PROMPTS["phrase_grounding"], hint="The phrase to locate.", needs_text=True, most_images=1
    ),
    Task.DETECTION: TaskWording(
        prompt=PROMPTS["abnormality_detection"],
        hint="What to detect, such as pleural effusion.",
        needs_text=True,
        most_images=1,
        choices=tuple(_NAMED_DETECTIONS),
    ),
    Task.PROGRESSION: TaskWording(
        prompt=PROMPTS["temporal_image_classification"],
        hint="The finding to follow, such as pneumonia.",
        needs_text=True,
        needs_prior=True,
        num_images=2,
    ),
}


def ask_in_words(checkpoint: Checkpoint, study: Study, conversation: Conversation, task: Task) -> str:
    """The task's words around what the person typed."""
    asked, wording = conversation.last_question.strip(), checkpoint.tasks.get(task)
    if wording is None:
        return asked
    if task is Task.FINDINGS and "{text}" not in wording.prompt and asked in ("", wording.prompt):
        is_general = wording.prompt == PROMPTS["findings_generation_without_indication"]
        if is_general and study.indication:
            return PROMPTS["findings_generation"].replace("{text}", study.indication)
        return wording.prompt
    if not wording.needs_text:
        return asked or wording.prompt
    text = _bare_text(wording.prompt, asked)
    if task is Task.IMPRESSION and not text:
        text = conversation.last_answer
    if task is Task.DETECTION and text.lower() in _NAMED_DETECTIONS:
        return _NAMED_DETECTIONS[text.lower()]
    return wording.prompt.replace("{text}", text)


def is_about_text_alone(question: str) -> bool:
    """True for the requests of the table that come without a picture."""
    return any(_bare_text(PROMPTS[name], question) != question for name in _TEXT_ONLY)


def _bare_text(prompt: str, asked: str) -> str:
    """What stands in the place of {text} when `asked` has the form of `prompt`; `asked` itself otherwise."""
    form = re.escape(prompt).replace(re.escape("{text}"), "(.*)")
    match = re.fullmatch(form, asked, re.DOTALL)
    return match[1] if match else asked
