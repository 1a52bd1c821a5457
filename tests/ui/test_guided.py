from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cxr_assistant.checkpoints.spec import get_checkpoint
from cxr_assistant.study import Study, ViewPosition
from cxr_assistant.ui.guided import FINDINGS_SLOT, film_remarks, list_steps, plan_report
from tests.ui.doubles import EMBEDDED, PUBLISHED, make_radiograph


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("embedded", ["View and quality", "Findings"]),
        ("llava-rad", ["View and quality", "Findings"]),
        ("cxr-llava", ["View and quality", "Report"]),
        (
            "chexagent",
            [
                "View and quality",
                *("Airway", "Breathing", "Cardiac", "Diaphragm", "Everything else"),
                "Impression",
            ],
        ),
    ],
)
def test_a_report_has_the_steps_that_the_model_was_trained_for(name: str, titles: list[str]) -> None:
    assert [step.title for step in list_steps(get_checkpoint(name))] == titles


def test_the_impression_concludes_what_the_steps_before_described() -> None:
    *_, last = list_steps(get_checkpoint("chexagent"))
    assert FINDINGS_SLOT in last.prompt and "{text}" not in last.prompt


def test_without_a_film_there_is_nothing_to_report_on() -> None:
    assert plan_report(EMBEDDED, Study()) == ()


def test_view_and_quality_are_measured_first() -> None:
    first, *_ = plan_report(EMBEDDED, Study((make_radiograph(),)))
    assert first.remarks[0] == "PA view, as the file states."
    assert "480 × 560 pixels, 12 bit: small for a radiograph." in first.remarks
    assert "usual range" in first.remarks[-1]


def test_the_film_in_front_of_the_person_is_the_one_measured() -> None:
    lateral = replace(make_radiograph(2), view=ViewPosition.LATERAL)
    study = Study((make_radiograph(), lateral))
    first, *_ = plan_report(EMBEDDED, study, lateral.digest)
    assert first.remarks[0].startswith("Lateral view")


def test_a_film_that_says_nothing_of_its_view_is_said_to() -> None:
    film = replace(make_radiograph(), view=ViewPosition.UNKNOWN)
    assert film_remarks(film, EMBEDDED)[0] == "The file does not state the view."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda stored: np.where(stored > 1400, 4095, stored), "pure white"),
        (lambda stored: np.where(stored < 1400, 0, stored), "pure black"),
        (lambda stored: stored // 16 + 1900, "Low contrast"),
    ],
    ids=["burnt out", "underexposed", "flat"],
)
def test_a_poor_film_is_told_to_be_poor(change: object, words: str) -> None:
    good = make_radiograph()
    poor = replace(good, stored=change(good.stored).astype(np.uint16))  # type: ignore[operator]
    assert words in " ".join(film_remarks(poor, EMBEDDED))
    assert words not in " ".join(film_remarks(good, EMBEDDED))


def test_ends_that_the_model_never_sees_are_named() -> None:
    long = make_radiograph(size=(900, 480))
    assert film_remarks(long, get_checkpoint("llava-rad"))[-1] == (
        "LLaVA-Rad does not see the outer 23% at its top and bottom."
    )
    assert "does not see" not in " ".join(film_remarks(long, PUBLISHED))
