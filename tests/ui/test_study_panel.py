from __future__ import annotations

from pathlib import Path

import pytest

from cxr_assistant.tasks import Task
from cxr_assistant.ui.examples import Example
from cxr_assistant.ui.exchange import Remark
from cxr_assistant.ui.session import MAX_FILMS, Session
from cxr_assistant.ui.study_panel import StudyPanel
from tests.ui.doubles import ScriptedAssistant, make_radiograph, png_bytes


@pytest.fixture
def panel(assistant: ScriptedAssistant) -> StudyPanel:
    return StudyPanel(assistant)


@pytest.fixture
def visitor() -> Session:
    return Session("embedded")


def upload(directory: Path, *contents: bytes) -> list[str]:
    paths = [directory / f"upload-{n}" for n in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return [str(path) for path in paths]


def test_a_film_is_read_and_its_upload_is_gone(panel: StudyPanel, visitor: Session, tmp_path: Path) -> None:
    opened, _ = panel.add_uploads(visitor, upload(tmp_path, png_bytes()))
    assert len(opened.study.radiographs) == 1
    assert list(tmp_path.iterdir()) == []


def test_each_file_of_several_has_its_fate_with_a_reason(
    panel: StudyPanel, visitor: Session, tmp_path: Path
) -> None:
    files = upload(tmp_path, b"text", png_bytes(1), b"EXPLODE", png_bytes(2), png_bytes(1))
    opened, fates = panel.add_uploads(visitor, [*files, files[0]])
    assert [fate.outcome for fate in fates] == [
        "refused",
        "added",
        "refused",
        "added",
        "already",
        "already",
    ]
    assert "neither DICOM nor PNG nor JPEG" in fates[0].reason and "260 × 300" in fates[1].reason
    assert len(opened.study.radiographs) == 2 and "secret" not in repr(fates)


def test_several_refused_files_do_not_flood_the_chat(
    panel: StudyPanel, visitor: Session, tmp_path: Path
) -> None:
    opened, fates = panel.add_uploads(visitor, upload(tmp_path, b"text", b"more text"))
    assert len(fates) == 2 and opened.log == ()


@pytest.mark.parametrize(
    ("content", "code"), [(b"text", "bad_type"), (b"EXPLODE", "unreadable")], ids=["wrong", "unforeseen"]
)
def test_a_single_file_that_is_refused_is_a_card(
    panel: StudyPanel, visitor: Session, tmp_path: Path, content: bytes, code: str
) -> None:
    opened, _ = panel.add_uploads(visitor, upload(tmp_path, content))
    assert isinstance(opened.log[-1], Remark) and opened.log[-1].problem.code == code


def test_an_upload_that_vanished_is_a_card(panel: StudyPanel, visitor: Session, tmp_path: Path) -> None:
    opened, _ = panel.add_uploads(visitor, [str(tmp_path / "gone")])
    assert isinstance(opened.log[-1], Remark) and opened.log[-1].problem.code == "upload_lost"


def test_the_ninth_film_is_refused(panel: StudyPanel, visitor: Session, tmp_path: Path) -> None:
    films = [png_bytes(seed, size=(40, 40)) for seed in range(MAX_FILMS + 1)]
    opened, fates = panel.add_uploads(visitor, upload(tmp_path, *films))
    assert len(opened.study.radiographs) == MAX_FILMS
    assert fates[-1].outcome == "refused" and "Take one down first" in fates[-1].reason


def test_a_synthetic_patient_opens_a_study_and_asks_for_findings(panel: StudyPanel, visitor: Session) -> None:
    made = panel.make(visitor, {"seed": "12"})
    assert made.truth is not None and made.truth.seed == 12
    assert made.truth.findings[0].words == "Moderate left pleural effusion"
    assert made.open_exchange is not None and made.open_exchange.task is Task.FINDINGS


def test_a_normal_synthetic_patient_has_no_known_finding(panel: StudyPanel, visitor: Session) -> None:
    made = panel.make(visitor, {"finding": "none"})
    assert made.truth is not None and made.truth.findings == ()


@pytest.mark.parametrize(
    "wishes",
    [{"seed": "twelve"}, {"seed": "9" * 5000}, {"finding": "none", "severity": "large"}],
    ids=["words", "too-long", "contradiction"],
)
def test_wishes_that_cannot_be_met_are_a_card_and_the_study_stays(
    panel: StudyPanel, session: Session, wishes: dict[str, str]
) -> None:
    refused = panel.make(session, wishes)
    assert refused.study == session.study
    assert isinstance(refused.log[-1], Remark) and refused.log[-1].problem.code == "phantom"


def test_the_demonstration_takes_the_model_that_knows_phantoms(panel: StudyPanel) -> None:
    assert panel.demonstrate(Session("llava-rad")).checkpoint == "embedded"


def test_a_persons_film_never_joins_a_synthetic_patient(
    panel: StudyPanel, visitor: Session, tmp_path: Path
) -> None:
    opened, _ = panel.add_uploads(panel.make(visitor, {}), upload(tmp_path, png_bytes()))
    assert opened.truth is None and len(opened.study.radiographs) == 1


def test_a_refused_file_does_not_end_the_synthetic_study(
    panel: StudyPanel, visitor: Session, tmp_path: Path
) -> None:
    made = panel.make(visitor, {})
    kept, _ = panel.add_uploads(made, upload(tmp_path, b"text"))
    assert kept.study == made.study and isinstance(kept.log[-1], Remark)


def test_an_unknown_model_is_a_card(panel: StudyPanel, session: Session) -> None:
    refused = panel.choose(session, "gpt")
    assert refused.checkpoint == "embedded" and isinstance(refused.log[-1], Remark)


def test_an_example_opens_a_study_of_its_own(
    assistant: ScriptedAssistant, session: Session, tmp_path: Path
) -> None:
    film = tmp_path / "film.png"
    film.write_bytes(png_bytes(5))
    panel = StudyPanel(assistant, [Example("One", (film,))])
    opened = panel.add_example(session, "0")
    assert len(opened.study.radiographs) == 1 and opened.shown != make_radiograph(phantom=True).digest
    assert film.exists()
    assert (panel.example_picture(0) or b"").startswith(b"\x89PNG")


@pytest.mark.parametrize("number", ["7", "-1", "one", "", "1" * 5000])
def test_an_unknown_example_changes_nothing(panel: StudyPanel, session: Session, number: str) -> None:
    assert panel.add_example(session, number) is session
