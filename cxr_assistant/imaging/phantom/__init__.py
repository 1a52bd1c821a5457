"""Synthetic chest radiographs with known truth, computed from a 3-D thorax by X-ray attenuation.

geometry     rays through quadrics and tubes, in closed form
anatomy      the solids of one patient, and the ranges patients are drawn from
findings     which findings exist and how they combine
lesions      what each finding adds to the rays
projection   cameras for PA, AP and lateral; Beer-Lambert, scatter, noise
generator    make_phantom: from a seed to a radiograph with its truth; drawn_findings: what it will be given
words        the truth as a findings text and as questions with answers, and back
export       the radiograph as a DICOM or PNG file
"""

from cxr_assistant.imaging.phantom.anatomy import TRAINING_RANGES, UNSEEN_RANGES, AnatomyRanges
from cxr_assistant.imaging.phantom.export import dicom_bytes, png_bytes
from cxr_assistant.imaging.phantom.findings import (
    FindingKind,
    FindingRequest,
    PhantomFinding,
    Severity,
    Side,
    Zone,
)
from cxr_assistant.imaging.phantom.generator import (
    TEST_SEEDS,
    TRAINING_SEEDS,
    UNSEEN_ANATOMY_SEEDS,
    VALIDATION_SEEDS,
    VISIBILITY,
    Phantom,
    Threshold,
    drawn_findings,
    make_phantom,
)
from cxr_assistant.imaging.phantom.words import (
    FINDINGS_PROMPT,
    NOUNS,
    VIEW_PROMPT,
    Mention,
    QuestionAnswer,
    ReadReport,
    mentions,
    read_report,
    write_findings,
)

__all__ = [
    "FINDINGS_PROMPT",
    "NOUNS",
    "TEST_SEEDS",
    "TRAINING_RANGES",
    "TRAINING_SEEDS",
    "UNSEEN_ANATOMY_SEEDS",
    "UNSEEN_RANGES",
    "VALIDATION_SEEDS",
    "VIEW_PROMPT",
    "VISIBILITY",
    "AnatomyRanges",
    "FindingKind",
    "FindingRequest",
    "Mention",
    "Phantom",
    "PhantomFinding",
    "QuestionAnswer",
    "ReadReport",
    "Severity",
    "Side",
    "Threshold",
    "Zone",
    "dicom_bytes",
    "drawn_findings",
    "make_phantom",
    "mentions",
    "png_bytes",
    "read_report",
    "write_findings",
]
