"""One call from a seed to a radiograph with its truth.

The same seed gives the same patient, exposure and noise whatever findings are asked for, so that two
phantoms can differ in one finding alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxr_assistant.errors import PhantomError
from cxr_assistant.imaging.phantom import words
from cxr_assistant.imaging.phantom.anatomy import (
    TRAINING_RANGES,
    Anatomy,
    AnatomyRanges,
    Posture,
    Thorax,
    build_thorax,
)
from cxr_assistant.imaging.phantom.findings import (
    FindingKind,
    FindingRequest,
    PhantomFinding,
    Side,
    check_combination,
    sample_findings,
)
from cxr_assistant.imaging.phantom.geometry import Array, Camera
from cxr_assistant.imaging.phantom.lesions import Change, LungRays, enlarged_heart, lesion
from cxr_assistant.imaging.phantom.projection import (
    METAL_PER_CM,
    SOFT_PER_CM,
    Acquisition,
    Exposure,
    Paths,
    compress_change,
    compress_range,
    make_camera,
    marker_path,
    normal_paths,
    signal,
    vessel_path,
)
from cxr_assistant.report import BoundingBox
from cxr_assistant.study import Radiograph, ViewPosition, Window

__all__ = [
    "TEST_SEEDS",
    "TRAINING_SEEDS",
    "UNSEEN_ANATOMY_SEEDS",
    "VALIDATION_SEEDS",
    "VISIBILITY",
    "Phantom",
    "SeedRange",
    "Threshold",
    "drawn_findings",
    "make_phantom",
]

Mask = NDArray[np.bool_]
_STORED_MAX = 4095
_SIGNAL_RANGE = (-0.6, 8.2)  # negative log signal at stored 0 and 4095


class Threshold(NamedTuple):
    """A finding is reported when at least `area_cm2` of it changes the displayed picture by `contrast`.

    `contrast` is a fraction of the display range, after scatter, range compression and the window: what is
    burnt out to white shows nothing. The area is measured on the detector.
    """

    contrast: float
    area_cm2: float


VISIBILITY = {
    FindingKind.PLEURAL_EFFUSION: Threshold(0.08, 5.0),
    FindingKind.PNEUMOTHORAX: Threshold(0.05, 8.0),
    FindingKind.CARDIOMEGALY: Threshold(0.05, 5.0),
    FindingKind.CONSOLIDATION: Threshold(0.08, 4.0),
    FindingKind.PULMONARY_EDEMA: Threshold(0.06, 20.0),
    FindingKind.ATELECTASIS: Threshold(0.05, 1.5),
    FindingKind.NODULE: Threshold(0.08, 0.6),
    FindingKind.MASS: Threshold(0.08, 4.0),
    FindingKind.ENDOTRACHEAL_TUBE: Threshold(0.06, 0.6),
    FindingKind.CENTRAL_LINE: Threshold(0.06, 0.8),
    FindingKind.PACEMAKER: Threshold(0.12, 2.0),
}


class SeedRange(NamedTuple):
    """Seeds with a purpose; training, validation and test never share one."""

    first: int
    size: int

    def seeds(self, count: int | None = None) -> range:
        return range(self.first, self.first + min(count or self.size, self.size))


TRAINING_SEEDS = SeedRange(10_000_000, 10_000_000)
VALIDATION_SEEDS = SeedRange(30_000_000, 10_000)
TEST_SEEDS = SeedRange(40_000_000, 10_000)
UNSEEN_ANATOMY_SEEDS = SeedRange(50_000_000, 10_000)


@dataclass(frozen=True, eq=False)
class Phantom:
    """A computed radiograph and everything that is known about it.

    `findings` lists all that was put in, `visible` those that the picture shows. `masks` are (H, W) booleans
    in the order of `findings`, on the pixel grid of the radiograph.
    """

    seed: int
    view: ViewPosition
    anatomy: Anatomy
    acquisition: Acquisition
    radiograph: Radiograph
    findings: tuple[PhantomFinding, ...]
    masks: tuple[Mask, ...]

    @property
    def report(self) -> str:
        """The findings section that a correct report of this picture would have."""
        return words.findings_text(self)

    @property
    def questions(self) -> tuple[words.QuestionAnswer, ...]:
        """Every question the truth can answer, with its answer."""
        return words.questions(self)

    @property
    def visible(self) -> tuple[PhantomFinding, ...]:
        return tuple(finding for finding in self.findings if finding.is_visible)


def make_phantom(
    seed: int,
    *,
    findings: Sequence[FindingRequest] | None = None,
    view: ViewPosition | None = None,
    ranges: AnatomyRanges = TRAINING_RANGES,
    size_px: int = 512,
    visibility: Mapping[FindingKind, Threshold] | None = None,
) -> Phantom:
    """The phantom of `seed`, `size_px` rows high; findings and view are drawn by chance when not given.

    `visibility` holds thresholds that are not those of VISIBILITY. It changes the truth (which findings are
    visible, masks, words), never the picture.
    Raises PhantomError for a negative seed, an unknown view, a size outside 64 to 4096, or findings that
    exclude each other.
    """
    _check_seed(seed)
    if not 64 <= size_px <= 4096:
        raise PhantomError(f"The size is {size_px} pixels; allowed: 64 to 4096.")
    if view is ViewPosition.UNKNOWN:
        raise PhantomError("The view is UNKNOWN; allowed: PA, AP, LATERAL.")
    patient, room, clinic, shape = (np.random.default_rng((seed, stream)) for stream in range(4))
    drawn_view = _draw_view(room)
    view = view or drawn_view
    anatomy = Anatomy.sample(patient, ranges)
    acquisition = Acquisition.sample(room, view)
    requests = (
        sample_findings(clinic, view) if findings is None else tuple(r.completed(clinic) for r in findings)
    )
    check_combination(requests)
    thresholds = {**VISIBILITY, **(visibility or {})}
    return _render(seed, anatomy, acquisition, requests, shape, size_px, thresholds)


def drawn_findings(seed: int) -> tuple[FindingRequest, ...]:
    """What `make_phantom(seed)` puts into its patient, visible or not; nothing is rendered for it.

    Raises PhantomError for a negative seed.
    """
    _check_seed(seed)
    room, clinic = (np.random.default_rng((seed, stream)) for stream in (1, 2))
    return sample_findings(clinic, _draw_view(room))


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise PhantomError(f"The seed is {seed}; allowed: 0 or more.")


def _draw_view(room: np.random.Generator) -> ViewPosition:
    views = [ViewPosition.PA, ViewPosition.AP, ViewPosition.LATERAL]
    return ViewPosition(str(room.choice(views, p=[0.45, 0.37, 0.18])))


def _posture(view: ViewPosition) -> Posture:
    return {ViewPosition.PA: "arms-abducted", ViewPosition.AP: "arms-down"}.get(view, "arms-raised")  # type: ignore[return-value]


def _render(
    seed: int, anatomy: Anatomy, acquisition: Acquisition, requests: tuple[FindingRequest, ...],
    rng: np.random.Generator, size_px: int, thresholds: Mapping[FindingKind, Threshold],
) -> Phantom:  # fmt: skip
    heart = next((r for r in requests if r.kind is FindingKind.CARDIOMEGALY), None)
    anatomy = enlarged_heart(anatomy, heart, rng)
    thorax = build_thorax(anatomy, _posture(acquisition.view))
    camera = make_camera(anatomy, acquisition, size_px)
    paths, rays = normal_paths(thorax, anatomy, camera)
    # Each finding draws from its own stream: adding one does not change the shape of the others.
    streams = [np.random.default_rng((seed, 10 + index)) for index in range(len(requests))]
    changes = [
        _heart_change(anatomy, thorax, rays, camera) if r.kind is FindingKind.CARDIOMEGALY
        else lesion(r, thorax, rays, camera, stream)
        for r, stream in zip(requests, streams, strict=True)
    ]  # fmt: skip
    collapse = {r.side: c.collapse for r, c in zip(requests, changes, strict=True) if r.side and c.collapse}
    paths.soft[:] += vessel_path(thorax, camera, collapse)
    for request, change in zip(requests, changes, strict=True):
        if change.soft is not None and request.kind is not FindingKind.CARDIOMEGALY:
            paths.soft[:] += change.soft
        if change.metal is not None:
            paths.metal[:] += change.metal
    marked = Paths(paths.soft, paths.bone, paths.metal + marker_path(acquisition, camera))
    film, straight = signal(marked, anatomy.scale, acquisition, Exposure(anatomy.exposure, (seed, 4)), camera)
    film = compress_range(film, acquisition, camera.pixel_cm * anatomy.scale)
    radiograph, window = _digitise(film, paths.soft > 4.0, acquisition, camera, anatomy)
    display = _Display(film, straight, window, acquisition, camera.pixel_cm * anatomy.scale)
    judged = [
        _judge(r, c, thresholds[r.kind], display, anatomy.scale)
        for r, c in zip(requests, changes, strict=True)
    ]
    return Phantom(
        seed=seed,
        view=acquisition.view,
        anatomy=anatomy,
        acquisition=acquisition,
        radiograph=radiograph,
        findings=tuple(finding for finding, _ in judged),
        masks=tuple(mask for _, mask in judged),
    )


def _heart_change(anatomy: Anatomy, thorax: Thorax, rays: dict[Side, LungRays], camera: Camera) -> Change:
    """An enlarged heart is already in the anatomy: its silhouette is the mask."""
    silhouette = np.zeros((camera.height, camera.width), np.float32)
    for part in thorax.heart[:2]:
        camera.add_solid(silhouette, part, 1.0)
    return Change(anatomy.ctr, soft=silhouette)


def _digitise(
    film: Array, body: Mask, acquisition: Acquisition, camera: Camera, anatomy: Anatomy
) -> tuple[Radiograph, tuple[float, float]]:
    """A 12-bit radiograph with a window from the data, and the ends of that window in log signal."""
    low, high = _SIGNAL_RANGE
    stored = np.clip((film - low) / (high - low) * _STORED_MAX, 0, _STORED_MAX).round().astype(np.uint16)
    edge = round(1.4 / camera.pixel_cm)
    middle = (slice(edge, -edge), slice(edge, -edge))
    dark, bright = np.percentile(
        stored[middle][body[middle]], [acquisition.window_low, acquisition.window_high]
    )
    if acquisition.is_monochrome1:
        stored = (_STORED_MAX - stored).astype(np.uint16)
    center = (dark + bright) / 2
    center = _STORED_MAX - center if acquisition.is_monochrome1 else center
    width = float(max(bright - dark, 64))
    spacing = camera.pixel_cm * anatomy.scale * 10
    radiograph = Radiograph(
        stored=stored,
        bits_stored=12,
        windows=(Window(round(float(center), 1), round(width, 1), explanation="Chest"),),
        is_inverted=acquisition.is_monochrome1,
        view=acquisition.view,
        orientation=("P", "F") if acquisition.view.is_lateral else ("L", "F"),
        pixel_spacing_mm=(round(spacing, 4), round(spacing, 4)),
        source="phantom",
        modality_code="DX",
        is_marked_phantom=True,
    )
    ends = (low + level / _STORED_MAX * (high - low) for level in (dark, dark + width))
    return radiograph, (float(next(ends)), float(next(ends)))


@dataclass(frozen=True, eq=False)
class _Display:
    """The film as it is shown: (H, W) log signal, the share of it that came straight, the window's ends."""

    film: Array
    straight: Array
    window: tuple[float, float]
    acquisition: Acquisition
    pixel_cm: float

    def contrast_of(self, change: Array) -> Array:
        """(H, W) how much a change of the log signal, which is already in the film, changes the display."""
        low, high = self.window
        before = self.film - compress_change(change * self.straight, self.acquisition, self.pixel_cm)
        shown: Array = np.abs(np.clip(self.film, low, high) - np.clip(before, low, high)) / (high - low)
        return shown


def _judge(
    request: FindingRequest, change: Change, threshold: Threshold, display: _Display, scale: float
) -> tuple[PhantomFinding, Mask]:
    """Measure the finding against its threshold and draw its mask and box."""
    log_signal = np.zeros_like(display.film)
    if change.soft is not None:
        log_signal += change.soft * np.float32(SOFT_PER_CM * scale)
    if change.metal is not None:
        log_signal += change.metal * np.float32(METAL_PER_CM * scale)
    contrast = display.contrast_of(log_signal)
    mask = contrast >= threshold.contrast
    area = float(mask.sum()) * display.pixel_cm**2
    shown = area >= threshold.area_cm2
    shown &= display.acquisition.view.is_frontal or not request.kind.is_frontal_only
    peak = float(np.percentile(contrast[mask], 90)) if mask.any() else float(contrast.max())
    finding = PhantomFinding(
        kind=request.kind,
        side=request.side,
        severity=request.severity,
        zone=request.zone,
        measure=round(change.measure, 3),
        contrast=round(peak, 4),
        area_cm2=round(area, 2),
        is_visible=bool(shown),
        box=_box(mask) if shown else None,
    )
    return finding, mask


def _box(mask: Mask) -> BoundingBox:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    left, right = float(columns[0] / width), float((columns[-1] + 1) / width)
    return BoundingBox(left, float(rows[0] / height), right, float((rows[-1] + 1) / height))
