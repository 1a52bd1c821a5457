"""The values of the foundation: what is wrong cannot be built, and verbs return new values."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from cxr_assistant.conversation import Conversation, Role
from cxr_assistant.errors import InvalidStudy, SettingsError
from cxr_assistant.generation import (
    Completed,
    FinishReason,
    Grounding,
    Notice,
    Prefilled,
    SamplingParams,
    TextDelta,
    Usage,
    collect,
)
from cxr_assistant.report import BoundingBox, Report
from cxr_assistant.study import LookupTable, Radiograph, Study, ViewPosition
from cxr_assistant.tasks import Task


def film(value: int = 0, **facts: object) -> Radiograph:
    return Radiograph(stored=np.full((4, 6), value, np.uint16), bits_stored=12, **facts)  # type: ignore[arg-type]


def test_the_pixels_of_a_radiograph_cannot_be_written() -> None:
    for radiograph in (film(), pickle.loads(pickle.dumps(film()))):
        with pytest.raises(ValueError, match="read-only"):
            radiograph.stored[0, 0] = 1


def test_a_colour_picture_is_no_radiograph() -> None:
    with pytest.raises(InvalidStudy, match="two dimensions"):
        Radiograph(stored=np.zeros((4, 4, 3), np.uint8), bits_stored=8)


def test_the_digest_follows_pixels_polarity_and_tables() -> None:
    table = LookupTable(first_mapped=0, values=np.arange(4, dtype=np.uint16), bits=12)
    films = [film(), film(1), film(is_inverted=True), film(voi_luts=(table,)), film(modality=table)]
    assert len({radiograph.digest for radiograph in films}) == len(films)
    assert film() == film() and hash(film()) == hash(film())


def test_a_picture_and_a_dicom_of_the_same_pixels_are_two_films() -> None:
    # They are rendered differently, so embeddings of one must not answer for the other.
    assert film(source="PNG") != film(source="DICOM")


def test_a_study_takes_each_film_once() -> None:
    study = Study().with_radiograph(film()).with_radiograph(film()).with_radiograph(film(1))
    assert len(study.radiographs) == 2
    assert study.without_radiograph(film().digest).radiographs == (film(1),)
    assert Study().is_empty


def test_the_indication_is_one_line() -> None:
    assert Study().with_indication(" cough\n  and fever ").indication == "cough and fever"


def test_a_prior_needs_a_film() -> None:
    with pytest.raises(InvalidStudy, match="prior"):
        Study().with_prior(Study())


def test_the_frontal_film_is_the_first_that_is_not_lateral() -> None:
    lateral = film(view=ViewPosition.LATERAL)
    assert Study((lateral, film(1))).frontal == film(1)
    assert Study((lateral,)).frontal is None


def test_a_strangers_prior_is_noticed_and_its_days_are_counted() -> None:
    ours = film(patient_hash="a", day_offset=500)
    theirs = film(1, patient_hash="b", day_offset=88)
    assert Study((ours,)).with_prior(Study((theirs,))).prior_is_of_another_patient
    assert not Study((ours,)).with_prior(Study((film(2),))).prior_is_of_another_patient
    assert Study((ours,)).days_since(theirs) == 412
    assert Study((film(2),)).days_since(theirs) is None


@pytest.mark.parametrize(
    "corners", [(-0.1, 0, 1, 1), (0, 0, 1, float("nan")), (0.6, 0, 0.5, 1), (0, 0.6, 1, 0.5)]
)
def test_a_wrong_bounding_box_cannot_exist(corners: tuple[float, float, float, float]) -> None:
    with pytest.raises(InvalidStudy):
        BoundingBox(*corners)


def test_a_report_is_split_at_its_headings() -> None:
    report = Report.parse("Lungs are clear.\nIMPRESSION: Normal.\nComparison: None.")
    assert report == Report(comparison="None.", findings="Lungs are clear.", impression="Normal.")


def test_a_conversation_knows_its_last_question_and_who_spoke() -> None:
    first = Conversation().ask("View?").answer("PA.", "embedded")
    assert first.ask("Effusion?").last_question == "Effusion?"
    assert (first.ask("Effusion?").last_answer, Conversation().last_answer) == ("PA.", "")
    assert first.turns[1].role is Role.ASSISTANT


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 3.0}, {"top_p": 0.0}, {"max_new_tokens": 0}, {"seed": -1}, {"seed": 2**63}],
    ids=str,
)
def test_sampling_parameters_outside_their_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="allowed"):
        SamplingParams(**wrong)  # type: ignore[arg-type]


def test_collect_gathers_one_whole_answer() -> None:
    box = Grounding("effusion", BoundingBox(0, 0, 1, 1))
    done = Completed(FinishReason.STOP, Usage(prompt_tokens=9), "embedded", "1")
    answer = collect(
        [Notice("n"), Prefilled(9), TextDelta("No ", (-0.1,)), TextDelta("effusion.", (-0.2,)), box, done]
    )
    assert (answer.text, answer.logprobs) == ("No effusion.", (-0.1, -0.2))
    assert (answer.notices, answer.groundings) == ((Notice("n"),), (box,))
    assert (answer.finish_reason, answer.checkpoint) == (FinishReason.STOP, "embedded")


def test_a_stream_that_ends_early_counts_as_cancelled() -> None:
    assert collect([TextDelta("The")]).finish_reason is FinishReason.CANCELLED


def test_every_task_has_words_for_its_button() -> None:
    assert len({task.label for task in Task}) == len(Task)
