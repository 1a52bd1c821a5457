"""What must be true of every phantom, whatever its seed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from cxr_assistant.errors import PhantomError
from cxr_assistant.imaging.phantom import (
    TEST_SEEDS,
    TRAINING_SEEDS,
    UNSEEN_ANATOMY_SEEDS,
    UNSEEN_RANGES,
    VALIDATION_SEEDS,
    FindingKind,
    FindingRequest,
    Phantom,
    PhantomFinding,
    Severity,
    Side,
    Threshold,
    Zone,
    dicom_bytes,
    drawn_findings,
    make_phantom,
    mentions,
    png_bytes,
    read_report,
)
from cxr_assistant.imaging.read import read_radiograph
from cxr_assistant.imaging.rendering import render_for_people
from cxr_assistant.study import Radiograph, ViewPosition

SMALL = 112
LUNG_KINDS = tuple(
    kind
    for kind in FindingKind
    if kind.has_side and kind not in (FindingKind.CENTRAL_LINE, FindingKind.PACEMAKER)
)


def _bright(radiograph: Radiograph) -> np.ndarray:
    return render_for_people(radiograph)


def test_the_same_seed_gives_the_same_film() -> None:
    assert (
        make_phantom(7, size_px=SMALL).radiograph.digest == make_phantom(7, size_px=SMALL).radiograph.digest
    )


def test_seeds_of_training_validation_and_test_never_meet() -> None:
    ranges = [TRAINING_SEEDS, VALIDATION_SEEDS, TEST_SEEDS, UNSEEN_ANATOMY_SEEDS]
    spans = sorted((r.first, r.first + r.size) for r in ranges)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))


def test_the_heart_of_one_patient_is_larger_on_ap_than_on_pa() -> None:
    def shadow_cm(view: ViewPosition) -> float:
        phantom = make_phantom(4, findings=[FindingRequest(FindingKind.CARDIOMEGALY)], view=view, size_px=224)
        spacing = phantom.radiograph.pixel_spacing_mm
        assert spacing is not None
        return phantom.masks[0].any(axis=0).sum() * spacing[1] / 10

    assert shadow_cm(ViewPosition.AP) > 1.07 * shadow_cm(ViewPosition.PA)


@pytest.mark.parametrize("kind", LUNG_KINDS)
@pytest.mark.parametrize("side", Side)
def test_a_one_sided_finding_changes_its_own_side(kind: FindingKind, side: Side) -> None:
    """The patient's left is on the right of the picture."""
    phantom = make_phantom(11, findings=[FindingRequest(kind, side)], view=ViewPosition.PA, size_px=SMALL)
    columns = np.flatnonzero(phantom.masks[0].any(axis=0)).mean() / phantom.radiograph.width
    assert (columns > 0.5) == (side is Side.LEFT)


@pytest.mark.parametrize("kind", [FindingKind.PLEURAL_EFFUSION, FindingKind.CONSOLIDATION, FindingKind.MASS])
def test_what_is_dense_makes_the_film_brighter(kind: FindingKind) -> None:
    request = FindingRequest(kind, Side.RIGHT)
    with_it = make_phantom(5, findings=[request], view=ViewPosition.PA, size_px=SMALL)
    without = make_phantom(5, findings=[], view=ViewPosition.PA, size_px=SMALL)
    mask = with_it.masks[0]
    assert _stored_density(with_it)[mask].mean() > _stored_density(without)[mask].mean() + 100


def test_a_pneumothorax_makes_the_film_darker() -> None:
    request = FindingRequest(FindingKind.PNEUMOTHORAX, Side.LEFT, Severity.LARGE)
    with_it = make_phantom(5, findings=[request], view=ViewPosition.PA, size_px=SMALL)
    without = make_phantom(5, findings=[], view=ViewPosition.PA, size_px=SMALL)
    darker = _stored_density(without) - _stored_density(with_it)
    assert np.percentile(darker[with_it.masks[0]], 75) > 40


def _stored_density(phantom: Phantom) -> np.ndarray:
    stored = phantom.radiograph.stored.astype(float)
    return 4095 - stored if phantom.radiograph.is_inverted else stored


@pytest.mark.parametrize("kind", [kind for kind in FindingKind if kind.severities])
def test_grades_are_ordered_by_their_measure(kind: FindingKind) -> None:
    view = ViewPosition.AP
    measures = [
        make_phantom(9, findings=[FindingRequest(kind, severity=grade)], view=view, size_px=SMALL)
        .findings[0]
        .measure
        for grade in kind.severities
    ]
    assert measures == sorted(measures)


def test_zones_run_from_the_head_to_the_feet() -> None:
    rows = []
    for zone in Zone:
        request = FindingRequest(FindingKind.NODULE, Side.RIGHT, zone=zone)
        phantom = make_phantom(14, findings=[request], view=ViewPosition.PA, size_px=SMALL)
        rows.append(np.flatnonzero(phantom.masks[0].any(axis=1)).mean())
    assert rows == sorted(rows)


def test_reports_read_back_to_the_truth() -> None:
    for seed in range(60):
        phantom = make_phantom(seed, size_px=SMALL)
        understood = read_report(phantom.report)
        assert set(understood.mentions) == set(mentions(phantom)), phantom.report
        assert understood.view is phantom.view


def test_every_answer_reads_back_to_its_question() -> None:
    for seed in range(30):
        phantom = make_phantom(seed, size_px=SMALL)
        stated = {mention.kind for mention in mentions(phantom)}
        for question in phantom.questions:
            if question.topic == "presence" and not question.answer.startswith("That cannot"):
                assert question.answer.startswith("Yes") == (question.kind in stated)


def test_a_lateral_view_names_no_side() -> None:
    phantom = make_phantom(4, findings=[FindingRequest(FindingKind.PLEURAL_EFFUSION, Side.LEFT)],
                           view=ViewPosition.LATERAL, size_px=SMALL)  # fmt: skip
    assert "effusion" in phantom.report
    assert not {"left", "right"} & set(phantom.report.lower().split())


def test_a_finding_below_its_threshold_is_not_reported() -> None:
    phantom = make_phantom(2, findings=[FindingRequest(FindingKind.PNEUMOTHORAX, Side.LEFT)],
                           view=ViewPosition.LATERAL, size_px=SMALL)  # fmt: skip
    assert not phantom.findings[0].is_visible
    assert phantom.findings[0].box is None
    assert "pneumothorax" not in phantom.report


def test_unseen_ranges_leave_the_training_ranges_out() -> None:
    for seed in range(20):
        anatomy = make_phantom(seed, ranges=UNSEEN_RANGES, size_px=64).anatomy
        assert not 0.92 < anatomy.scale < 1.08
        assert not -5.0 < anatomy.rotation_deg < 5.0


def test_a_dicom_phantom_reads_back_bit_for_bit() -> None:
    phantom = make_phantom(6, size_px=SMALL)
    read = read_radiograph(dicom_bytes(phantom))
    assert np.array_equal(read.stored, phantom.radiograph.stored)
    assert np.array_equal(_bright(read), _bright(phantom.radiograph))
    assert (read.view, read.windows, read.orientation) == (
        phantom.view, phantom.radiograph.windows, phantom.radiograph.orientation
    )  # fmt: skip
    assert read.is_marked_phantom


def test_a_dicom_phantom_is_the_same_file_every_time_and_names_no_person() -> None:
    from pydicom import dcmread

    written = dicom_bytes(make_phantom(6, size_px=SMALL))
    assert written == dicom_bytes(make_phantom(6, size_px=SMALL))
    dataset = dcmread(io.BytesIO(written))
    assert dataset.PatientName == "PHANTOM^SYNTHETIC"
    assert "SIMULATED" in dataset.ImageType


# The modules of the DX for presentation IOD (PS3.3 A.26.3): type 1 must say something, type 2 be there.
NEEDED = (
    "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality PresentationIntentType ImageType "
    "SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated BitsStored HighBit "
    "PixelRepresentation PixelIntensityRelationship PixelIntensityRelationshipSign RescaleIntercept "
    "RescaleSlope RescaleType PresentationLUTShape LossyImageCompression BurnedInAnnotation "
    "ImagerPixelSpacing AnatomicRegionSequence ImageLaterality PatientOrientation WindowCenter WindowWidth "
    "PixelData"
).split()
PRESENT = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID "
    "AccessionNumber SeriesNumber InstanceNumber Manufacturer DetectorType PositionerType "
    "AcquisitionContextSequence"
).split()


@pytest.mark.parametrize("view", [ViewPosition.PA, ViewPosition.LATERAL])
def test_a_dicom_phantom_holds_what_its_iod_demands(view: ViewPosition) -> None:
    from pydicom import dcmread

    dataset = dcmread(io.BytesIO(dicom_bytes(make_phantom(6, view=view, size_px=SMALL))))
    assert [name for name in NEEDED if name not in dataset or dataset[name].is_empty] == []
    assert [name for name in PRESENT if name not in dataset] == []


def test_a_png_phantom_shows_what_the_dicom_shows() -> None:
    phantom = make_phantom(8, size_px=SMALL)
    read = read_radiograph(png_bytes(phantom))
    assert np.abs(_bright(read) - _bright(phantom.radiograph)).max() < 1e-4
    assert read.is_marked_phantom


def test_monochrome1_phantoms_look_like_their_twins() -> None:
    inverted = next(p for p in (make_phantom(s, size_px=64) for s in range(100)) if p.radiograph.is_inverted)
    density = _stored_density(inverted)
    assert np.corrcoef(density.ravel(), _bright(inverted.radiograph).ravel())[0, 1] > 0.8


@pytest.mark.parametrize(
    ("build", "words"),
    [
        pytest.param(lambda: make_phantom(-1), "seed is -1", id="negative-seed"),
        pytest.param(lambda: make_phantom(1, size_px=10), "size is 10", id="too-small"),
        pytest.param(lambda: make_phantom(1, view=ViewPosition.UNKNOWN), "PA, AP, LATERAL", id="view"),
        pytest.param(lambda: FindingRequest(FindingKind.CARDIOMEGALY, Side.LEFT), "no side", id="heart-side"),
        pytest.param(
            lambda: FindingRequest(FindingKind.PLEURAL_EFFUSION, severity=Severity.MILD),
            "small, moderate, large", id="wrong-grade",
        ),
        pytest.param(lambda: FindingRequest(FindingKind.PACEMAKER, zone=Zone.UPPER), "no zone", id="no-zone"),
        pytest.param(
            lambda: make_phantom(1, findings=[FindingRequest(FindingKind.MASS, Side.LEFT),
                                              FindingRequest(FindingKind.NODULE, Side.LEFT)]),
            "at most one lung", id="two-on-one-side",
        ),
    ],
)  # fmt: skip
def test_impossible_phantoms_are_refused_in_words(build, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PhantomError, match=words):
        build()


@pytest.mark.parametrize(
    "kind", [FindingKind.CONSOLIDATION, FindingKind.NODULE, FindingKind.ENDOTRACHEAL_TUBE]
)
def test_contrast_is_what_the_displayed_picture_gains(kind: FindingKind) -> None:
    """The truth about visibility is measured on the display: with the finding minus without it."""
    view, seed = ViewPosition.PA, 31
    with_it = make_phantom(seed, findings=[FindingRequest(kind)], view=view, size_px=256)
    without = make_phantom(seed, findings=[], view=view, size_px=256)
    gain = np.abs(render_for_people(with_it.radiograph) - render_for_people(without.radiograph))
    finding, mask = with_it.findings[0], with_it.masks[0]
    assert np.percentile(gain[mask], 90) == pytest.approx(finding.contrast, rel=0.2)


def test_other_thresholds_change_the_truth_and_not_the_picture() -> None:
    request, view = FindingRequest(FindingKind.NODULE), ViewPosition.PA
    seen = make_phantom(31, findings=[request], view=view, size_px=256)
    strict = {FindingKind.NODULE: Threshold(1.0, 0.6)}
    unseen = make_phantom(31, findings=[request], view=view, size_px=256, visibility=strict)
    assert unseen.radiograph.digest == seen.radiograph.digest
    assert len(seen.visible) == 1 and unseen.visible == ()
    assert "nodule" in seen.report.lower() and read_report(unseen.report).mentions == ()


def test_what_a_seed_is_given_is_known_without_rendering_it() -> None:
    def facts(findings: Sequence[FindingRequest | PhantomFinding]) -> list[tuple[object, ...]]:
        return [(finding.kind, finding.side, finding.severity, finding.zone) for finding in findings]

    for seed in range(700, 730):
        assert facts(drawn_findings(seed)) == facts(make_phantom(seed, size_px=SMALL).findings)
    with pytest.raises(PhantomError, match="-1"):
        drawn_findings(-1)
