"""From solids to a radiograph: cameras for the three views, Beer-Lambert attenuation, scatter and noise.

Attenuation coefficients are round values for the three energy bins of a filtered 110 kVp beam
(45, 65, 85 keV); lengths in cm, coefficients in 1/cm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxr_assistant.imaging.phantom.anatomy import Anatomy, Thorax
from cxr_assistant.imaging.phantom.findings import Side
from cxr_assistant.imaging.phantom.geometry import Array, Camera, Interval, Tube, covered_length, rotation
from cxr_assistant.imaging.phantom.lesions import LungRays
from cxr_assistant.study import ViewPosition

__all__ = [
    "Acquisition",
    "Exposure",
    "Paths",
    "compress_change",
    "compress_range",
    "make_camera",
    "marker_path",
    "normal_paths",
    "signal",
    "vessel_path",
]

_WEIGHTS = np.array([0.25, 0.50, 0.25])
_SOFT = np.array([0.228, 0.195, 0.178])
_BONE = np.array([0.70, 0.42, 0.34])
_METAL = np.array([9.0, 4.0, 2.6])
SOFT_PER_CM = float(_WEIGHTS @ _SOFT)  # to first order, the log signal of one more cm of soft tissue
METAL_PER_CM = float(_WEIGHTS @ _METAL)
_PHOTONS_PER_CM2 = 6e6


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """How the picture was taken: everything about the film that is not the patient."""

    view: ViewPosition
    source_cm: float
    field_cm: float
    portrait: bool
    center_cm: tuple[float, float]
    collimation_cm: tuple[float, float, float, float]  # top, bottom, left, right
    has_marker: bool
    marker_at: tuple[float, float]
    scatter: float
    blur_cm: float
    is_monochrome1: bool
    window_low: float
    window_high: float
    range_compression: float

    @classmethod
    def sample(cls, rng: np.random.Generator, view: ViewPosition) -> Acquisition:
        ap = view is ViewPosition.AP
        borders = rng.uniform(-1.2, 1.2, 4)
        return cls(
            view=view,
            source_cm=float(rng.uniform(100, 122) if ap else rng.uniform(178, 188)),
            field_cm=float(rng.uniform(39.0, 43.0)),
            portrait=bool(rng.random() < 0.3),
            center_cm=(float(rng.uniform(-1.0, 1.0)), float(rng.uniform(-1.2, 0.8))),
            collimation_cm=tuple(float(max(border, 0)) for border in borders),  # type: ignore[arg-type]
            has_marker=bool(rng.random() < 0.75),
            marker_at=(float(rng.uniform(0.04, 0.14)), float(rng.uniform(0.03, 0.08))),
            scatter=float(rng.uniform(0.25, 0.42) if ap else rng.uniform(0.08, 0.16)),
            blur_cm=float(rng.uniform(0.02, 0.05)),
            is_monochrome1=bool(rng.random() < 0.15),
            window_low=float(rng.uniform(0.2, 2.0)),
            window_high=float(rng.uniform(97.8, 99.6)),
            range_compression=float(rng.uniform(0.3, 0.55)),
        )


@dataclass(frozen=True, eq=False)
class Paths:
    """Path lengths in cm weighted by density, (H, W) each: soft tissue (water = 1), cortical bone, metal."""

    soft: Array
    bone: Array
    metal: Array


@dataclass(frozen=True)
class Exposure:
    """The part of the acquisition that makes noise."""

    photons: float
    seed: tuple[int, ...]


def make_camera(anatomy: Anatomy, acquisition: Acquisition, size_px: int) -> Camera:
    """The camera in the patient's frame, `size_px` rows; body scale shrinks the room, not the patient."""
    field = acquisition.field_cm / anatomy.scale
    pixel = field / size_px
    width = round(size_px * (0.84 if acquisition.portrait and acquisition.view.is_frontal else 1.0))
    source_to_detector = acquisition.source_cm / anatomy.scale
    across, up = acquisition.center_cm
    thickness = 12.0 * anatomy.depth + anatomy.fat_cm
    down = np.array([0.0, 0.0, -pixel])
    if acquisition.view is ViewPosition.LATERAL:
        # Left lateral: the left side lies on the detector, the patient looks to the left of the picture.
        detector, right = 19.0 + anatomy.fat_cm, np.array([0.0, -pixel, 0.0])
        source = np.array([detector - source_to_detector, across, up])
        corner = np.array([detector, across + width * pixel / 2, up + size_px * pixel / 2])
    else:
        # The patient's left is on the right of the picture, as if facing the reader.
        toward = 1 if acquisition.view is ViewPosition.PA else -1
        detector, right = toward * thickness, np.array([pixel, 0.0, 0.0])
        source = np.array([across, detector - toward * source_to_detector, up])
        corner = np.array([across - width * pixel / 2, detector, up + size_px * pixel / 2])
    turned = rotation("z", anatomy.rotation_deg) @ rotation("x", anatomy.tilt_deg)
    return Camera(turned @ source, turned @ (corner - source), turned @ down, turned @ right, size_px, width)


def normal_paths(thorax: Thorax, anatomy: Anatomy, camera: Camera) -> tuple[Paths, dict[Side, LungRays]]:
    """The patient without lesions, and each lung's rays; vessels come later, see `vessel_path`."""
    zeros = np.zeros((camera.height, camera.width), np.float32)
    rays = {
        side: LungRays.trace(lung, camera, anatomy.lung_density)
        for side, lung in zip((Side.LEFT, Side.RIGHT), thorax.lungs, strict=True)
    }
    soft = _body_path(thorax, camera)
    for lung_rays in rays.values():
        soft[lung_rays.window] -= (1.0 - anatomy.lung_density) * lung_rays.free_length()
    for organ, density in thorax.organs:
        camera.add_solid(soft, organ, density)
    camera.add_tubes(soft, thorax.airways, -0.95)
    bone = zeros.copy()
    for solid, density in thorax.spongy_bones:
        camera.add_solid(bone, solid, density * anatomy.bone)
    camera.add_tubes(bone, thorax.ribs, 0.16 * anatomy.bone)
    camera.add_tubes(bone, thorax.ribs, 0.6 * anatomy.bone, wall=0.09)
    camera.add_tubes(bone, thorax.long_bones, 0.22 * anatomy.bone)
    camera.add_tubes(bone, thorax.long_bones, 0.85 * anatomy.bone, wall=0.14)
    return Paths(soft, bone, zeros), rays


def vessel_path(thorax: Thorax, camera: Camera, collapse: dict[Side, float]) -> Array:
    """(H, W) cm of blood vessels; those of a collapsed lung are drawn towards its hilum."""
    soft = np.zeros((camera.height, camera.width), np.float32)
    for side, lung, tubes in zip((Side.LEFT, Side.RIGHT), thorax.lungs, thorax.vessels, strict=True):
        anchor, shrink = lung.hilum + np.array([0.0, 0.0, -4.0]), 1 - collapse.get(side, 0.0)
        drawn = [Tube(anchor + (tube.points - anchor) * shrink, tube.radii * shrink) for tube in tubes]
        camera.add_tubes(soft, drawn, 0.75)
    return soft


def _body_path(thorax: Thorax, camera: Camera) -> Array:
    parts = [camera.intersect(part) for part in thorax.body]
    everything = Interval(np.zeros_like(parts[0].enter), np.ones_like(parts[0].leave))
    fat = covered_length(everything, parts) * 0.92
    muscle = camera.intersect(thorax.muscle).span * 0.11
    return (fat + muscle) * camera.ray_length


def marker_path(acquisition: Acquisition, camera: Camera) -> Array:
    """A lead letter L beside the patient's left (frontal) or at the front (lateral), on the detector."""
    metal = np.zeros((camera.height, camera.width), np.float32)
    if not acquisition.has_marker:
        return metal
    down, margin = acquisition.marker_at
    row, size = down * camera.height, 0.035 * camera.height
    column = (1 - margin) * camera.width - size if acquisition.view.is_frontal else margin * camera.width
    strokes = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.6]]) * size + [row, column]
    points = np.stack(
        [0.985 * (camera.toward + r * camera.row_step + c * camera.column_step) for r, c in strokes]
    )
    tube = Tube(camera.source + points, np.full(3, 0.11 * size * camera.pixel_cm))
    camera.add_tubes(metal, [tube], 0.6)
    return metal


def signal(
    paths: Paths, scale: float, acquisition: Acquisition, exposure: Exposure, camera: Camera
) -> tuple[Array, Array]:
    """(H, W) negative log of the detected intensity, larger is denser, and the share of it that came
    straight: a small change of path shows up multiplied by that share, the rest is scatter."""
    intensity = np.zeros_like(paths.soft)
    for weight, soft, bone, metal in zip(_WEIGHTS, _SOFT, _BONE, _METAL, strict=True):
        depth = scale * (soft * np.maximum(paths.soft, 0) + bone * paths.bone + metal * paths.metal)
        intensity += np.float32(weight) * np.exp(-depth.astype(np.float32))
    inside = _collimated(acquisition, camera)
    intensity *= inside
    pixel = camera.pixel_cm * scale
    straight = intensity
    intensity = _spread(intensity, acquisition.blur_cm / pixel, 4.0 / pixel, acquisition.scatter)
    share = np.clip(straight / intensity, 0, 1)
    rng = np.random.default_rng(exposure.seed)
    photons = _PHOTONS_PER_CM2 * exposure.photons * pixel**2
    intensity += np.sqrt(intensity / photons) * rng.standard_normal(intensity.shape, np.float32)
    return -np.log(np.maximum(intensity, 2e-4)), share


def compress_range(film: Array, acquisition: Acquisition, pixel_cm: float) -> Array:
    """Dynamic range compression as digital systems apply it for presentation: part of what is smooth over
    centimetres is taken away, edges and small structures keep their contrast."""
    return film - acquisition.range_compression * (
        _smooth(np.clip(film, 1.0, 8.0), pixel_cm) - np.float32(3.5)
    )


def compress_change(change: Array, acquisition: Acquisition, pixel_cm: float) -> Array:
    """What `compress_range` leaves of a change of the log signal."""
    return change - acquisition.range_compression * _smooth(change, pixel_cm)


def _smooth(image: Array, pixel_cm: float) -> Array:
    return _blurred(image, {3.0 / pixel_cm: 1.0})


def _collimated(acquisition: Acquisition, camera: Camera) -> Array:
    top, bottom, left, right = (round(border / camera.pixel_cm) for border in acquisition.collimation_cm)
    inside = np.full((camera.height, camera.width), 0.004, np.float32)
    inside[top : camera.height - bottom, left : camera.width - right] = 1.0
    return inside


def _spread(intensity: Array, blur_px: float, scatter_px: float, scatter: float) -> Array:
    """Detector blur plus a broad scatter haze."""
    return np.maximum(_blurred(intensity, {blur_px: 1.0, scatter_px: scatter}), 1e-6)


def _blurred(image: Array, kernels: dict[float, float]) -> Array:
    """`image` through a sum of Gaussians {sigma in pixels: weight}, in one pass of the Fourier transform."""
    pad = min(round(2 * max(kernels)), min(image.shape) - 1)
    padded = np.pad(image, pad, mode="reflect")
    fy = np.fft.fftfreq(padded.shape[0]).astype(np.float32)[:, None] ** 2
    fx = np.fft.rfftfreq(padded.shape[1]).astype(np.float32)[None, :] ** 2
    squared = np.float32(2 * np.pi**2) * (fy + fx)
    response = sum(
        np.float32(weight) * np.exp(-squared * np.float32(sigma**2)) for sigma, weight in kernels.items()
    )
    result: Array = np.fft.irfft2(np.fft.rfft2(padded) * response, padded.shape).astype(np.float32)
    return result[pad : pad + image.shape[0], pad : pad + image.shape[1]]
