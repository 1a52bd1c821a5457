"""How findings change what the rays pass through.

Knows the solids of a thorax and one request at a time; every function returns the change of path length
in cm of soft tissue or metal, (H, W), so that the truth (mask, box, visibility) is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cxr_assistant.imaging.phantom.anatomy import Anatomy, Lung, Thorax
from cxr_assistant.imaging.phantom.findings import FindingKind, FindingRequest, Severity, Side, Zone
from cxr_assistant.imaging.phantom.geometry import (
    Array,
    Camera,
    Interval,
    Quadric,
    Tube,
    covered_length,
    ellipsoid,
)
from cxr_assistant.imaging.phantom.geometry import rotation as turn

__all__ = ["Change", "LungRays", "enlarged_heart", "lesion"]

_EFFUSION_HEIGHT = {
    Severity.SMALL: (0.14, 0.25),
    Severity.MODERATE: (0.33, 0.50),
    Severity.LARGE: (0.60, 0.82),
}
_COLLAPSE = {Severity.SMALL: (0.08, 0.15), Severity.MODERATE: (0.21, 0.33), Severity.LARGE: (0.42, 0.60)}
_CTR = {Severity.MILD: (0.525, 0.56), Severity.MODERATE: (0.585, 0.625), Severity.SEVERE: (0.655, 0.70)}
_EDEMA = {Severity.MILD: (0.8, 1.1), Severity.MODERATE: (1.7, 2.2), Severity.SEVERE: (3.1, 4.0)}
_ZONE_HEIGHT = {Zone.UPPER: (0.68, 0.84), Zone.MIDDLE: (0.42, 0.56), Zone.LOWER: (0.14, 0.28)}


@dataclass(frozen=True, eq=False)
class Change:
    """What a finding adds to the rays, in cm; `collapse` tells how far vessels are drawn to the hilum."""

    measure: float
    soft: Array | None = None
    metal: Array | None = None
    collapse: float = 0.0
    tubes: tuple[Tube, ...] = field(default=())


@dataclass(frozen=True, eq=False)
class LungRays:
    """One lung as the rays see it: `camera` is cut down to `window`, the part of the film it can touch."""

    lung: Lung
    camera: Camera
    window: tuple[slice, slice]
    whole: Interval
    others: tuple[Interval, ...]
    density: float

    @classmethod
    def trace(cls, lung: Lung, film: Camera, density: float) -> LungRays:
        window = film.window(lung.cage)
        camera = film.cropped(*window)
        cage = camera.intersect(lung.cage)
        cage = cage.clipped_to_half_space(camera, (-lung.side, 0, 0), -0.4)
        cage = cage.clipped_to_half_space(camera, (0, 0, -1), -lung.floor_z)
        others = tuple(camera.intersect(other) for other in lung.others)
        return cls(lung, camera, window, cage, others, density)

    def on_film(self, part: Array, film: Camera) -> Array:
        """`part`, given on this lung's window, on the whole film."""
        whole = np.zeros((film.height, film.width), np.float32)
        whole[self.window] = part
        return whole

    def free_length(self, within: Interval | None = None) -> Array:
        """cm of lung on each ray of the window, heart, mediastinum and diaphragm taken out."""
        part = self.whole if within is None else within.clipped_to(self.whole)
        return (part.span - covered_length(part, self.others)) * self.camera.ray_length

    def height_at(self, fraction: float) -> float:
        """z of a level between the costophrenic angle (0) and the apex (1)."""
        return self.lung.angle_z + fraction * (self.lung.apex_z - self.lung.angle_z)


def enlarged_heart(anatomy: Anatomy, request: FindingRequest | None, rng: np.random.Generator) -> Anatomy:
    """The patient with the heart that the request asks for; the ratio is the body's, not the film's."""
    if request is None or request.severity is None:
        return anatomy
    return replace(anatomy, ctr=float(rng.uniform(*_CTR[request.severity])))


def lesion(
    request: FindingRequest,
    thorax: Thorax,
    rays: dict[Side, LungRays],
    camera: Camera,
    rng: np.random.Generator,
) -> Change:
    """The change that `request` makes; all its free choices come from `rng`."""
    if request.kind in _IN_ONE_LUNG:
        assert request.side is not None
        lung_rays = rays[request.side]
        change = _IN_ONE_LUNG[request.kind](request, lung_rays, rng)
        assert change.soft is not None
        return replace(change, soft=lung_rays.on_film(change.soft, camera))
    if request.kind is FindingKind.PULMONARY_EDEMA:
        return _edema(request, rays, camera, rng)
    if request.kind is FindingKind.ENDOTRACHEAL_TUBE:
        return _endotracheal_tube(thorax, camera, rng)
    if request.kind is FindingKind.CENTRAL_LINE:
        return _central_line(request, thorax, camera, rng)
    return _pacemaker(request, thorax, camera, rng)


def _effusion(request: FindingRequest, rays: LungRays, rng: np.random.Generator) -> Change:
    """Fluid below a level that climbs along the wall (meniscus): the lung floats in a bowl above it."""
    assert request.severity is not None
    height = float(rng.uniform(*_EFFUSION_HEIGHT[request.severity]))
    level = rays.height_at(height)
    below = rays.whole.clipped_to_half_space(rays.camera, (0, 0, 1), level + 2.2)
    cage = rays.lung.cage
    bowl_center = np.array([cage.center[0] - rays.lung.side * 0.6, cage.center[1], level + 3.0])
    bowl = rays.camera.intersect(ellipsoid(bowl_center, (8.0, 9.4, 3.0)))
    fluid = rays.free_length(below) - rays.free_length(below.clipped_to(bowl))
    return Change(height, soft=(1.0 - rays.density) * np.maximum(fluid, 0))


def _pneumothorax(request: FindingRequest, rays: LungRays, rng: np.random.Generator) -> Change:
    """The lung falls towards the hilum; around it is air without vessels, at its edge the visceral pleura."""
    assert request.severity is not None
    collapse = float(rng.uniform(*_COLLAPSE[request.severity]))
    anchor = rays.lung.hilum + np.array([0.0, 0.0, -4.0])
    lung = rays.lung.cage.scaled_about(anchor, 1 - collapse)
    kept = rays.free_length(rays.camera.intersect(lung))
    inner = rays.free_length(rays.camera.intersect(lung.grown_by(-0.12)))
    density = min(rays.density / (1 - collapse) ** 1.6, 0.6)
    pleura = np.maximum(kept - inner, 0) * (1.0 - density)
    return Change(
        collapse, soft=density * kept + pleura - rays.density * rays.free_length(), collapse=collapse
    )


def _lesion_center(
    request: FindingRequest, rays: LungRays, rng: np.random.Generator, margin: float
) -> NDArray[np.float64]:
    """A point inside the lung at the height of the requested zone, not hidden behind the heart."""
    assert request.zone is not None
    low, high = (rays.height_at(fraction) for fraction in _ZONE_HEIGHT[request.zone])
    points = rays.lung.sample_points(rng, 400, margin)
    points = points[np.abs(points[:, 0]) > (5.0 if request.zone is Zone.UPPER else 6.6)]
    in_zone = points[(points[:, 2] > low) & (points[:, 2] < high)]
    if len(in_zone):
        return np.asarray(in_zone[0])
    return np.asarray(points[np.argmin(np.abs(points[:, 2] - (low + high) / 2))])


def _consolidation(request: FindingRequest, rays: LungRays, rng: np.random.Generator) -> Change:
    """Alveoli filled in a soft-edged cluster, at most to the density of soft tissue."""
    center = _lesion_center(request, rays, rng, 0.8)
    size = float(rng.uniform(2.0, 3.2))
    filled = np.zeros_like(rays.camera.ray_length)
    for _ in range(7):
        spread = rng.normal(0, 0.55 * size, 3) * (1.0, 0.8, 0.75)
        blob = ellipsoid(center + spread, rng.uniform(0.5, 0.85, 3) * size)
        add_gaussian(filled, rays.camera, blob, 0.5)
    free = rays.free_length()
    return Change(
        size, soft=(1.0 - rays.density) * 0.85 * free * (1 - np.exp(-filled / np.maximum(free, 0.5)))
    )


def _atelectasis(request: FindingRequest, rays: LungRays, rng: np.random.Generator) -> Change:
    """Plate-like atelectasis: one to three thin, nearly horizontal discs above the diaphragm."""
    soft = np.zeros_like(rays.camera.ray_length)
    level = rays.lung.dome.center[2] + 10.4 + float(rng.uniform(1.2, 2.6))
    thickness = float(rng.uniform(0.22, 0.36))
    for index in range(int(rng.integers(1, 4))):
        center = np.array(
            [rays.lung.side * rng.uniform(7.0, 9.2), rng.uniform(-3.5, 1.5), level + 1.5 * index]
        )
        tilt = turn("y", float(rng.uniform(-16, 16)))
        plate = ellipsoid(center, (rng.uniform(2.4, 3.6), rng.uniform(2.6, 4.2), thickness), tilt)
        rays.camera.add_solid(soft, plate, 0.75)
    return Change(thickness, soft=np.minimum(soft, rays.free_length()))


def _nodule(request: FindingRequest, rays: LungRays, rng: np.random.Generator) -> Change:
    return _round_lesion(request, rays, rng, float(rng.uniform(1.5, 2.7)), lobes=1)


def _mass(request: FindingRequest, rays: LungRays, rng: np.random.Generator) -> Change:
    return _round_lesion(request, rays, rng, float(rng.uniform(3.6, 6.0)), lobes=4)


def _round_lesion(
    request: FindingRequest, rays: LungRays, rng: np.random.Generator, diameter: float, lobes: int
) -> Change:
    radius = diameter / 2
    center = _lesion_center(request, rays, rng, 0.86 if radius < 1.5 else 0.72)
    parts = [rays.camera.intersect(ellipsoid(center, radius * rng.uniform(0.9, 1.05, 3)))]
    for _ in range(lobes - 1):
        shift = rng.normal(0, 0.38 * radius, 3)
        parts.append(rays.camera.intersect(ellipsoid(center + shift, radius * rng.uniform(0.6, 0.8, 3))))
    solid = covered_length(rays.whole, parts) * rays.camera.ray_length
    return Change(diameter, soft=(1.0 - rays.density) * np.minimum(solid, rays.free_length()))


def _edema(
    request: FindingRequest, rays: dict[Side, LungRays], camera: Camera, rng: np.random.Generator
) -> Change:
    """Perihilar haze, thick vessels at the hila and short horizontal septal (Kerley B) lines at the bases."""
    assert request.severity is not None
    amount = float(rng.uniform(*_EDEMA[request.severity]))
    soft = np.zeros_like(camera.ray_length)
    for lung_rays in rays.values():
        haze, lung = np.zeros_like(soft), lung_rays.lung
        for _ in range(5):
            center = lung.hilum + np.array(
                [lung.side * rng.uniform(1.5, 4.5), rng.uniform(-3, 3), rng.uniform(-6, 3.5)]
            )
            add_gaussian(haze, camera, ellipsoid(center, rng.uniform(1.8, 3.0, 3)), 0.085 * amount)
        soft += np.minimum(haze, lung_rays.on_film(0.6 * lung_rays.free_length(), camera))
        camera.add_tubes(soft, _septal_lines(lung_rays, rng, count=int(4 + 3 * amount)), 0.8)
    return Change(amount, soft=soft)


def _septal_lines(rays: LungRays, rng: np.random.Generator, count: int) -> tuple[Tube, ...]:
    lines, side = [], rays.lung.side
    for _ in range(count):
        start = np.array(
            [side * rng.uniform(10.8, 12.4), rng.uniform(-3, 3), rays.height_at(rng.uniform(0.12, 0.4))]
        )
        end = start - np.array([side * rng.uniform(1.0, 1.8), 0.0, rng.uniform(-0.15, 0.15)])
        lines.append(Tube(np.array([start, end]), np.full(2, 0.09)))
    return tuple(lines)


def add_gaussian(image: Array, camera: Camera, blob: Quadric, peak: float) -> None:
    """Add the line integral of peak * exp(-|A (p - c)|^2 / 2); the half-axes are standard deviations."""
    rows, columns = camera.window(blob.scaled_about(blob.center, 2.8))
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return
    part = camera.cropped(rows, columns)
    # A surface at k standard deviations gives chords c_k; (c_k / 2)^2 |v|^2 = k^2 - d^2, so the closest
    # approach d of every ray follows from the chord through the 2.8-sigma surface.
    chord = part.intersect(blob.scaled_about(blob.center, 2.8)).span
    middle = blob.matrix @ (part.toward + part.height / 2 * part.row_step + part.width / 2 * part.column_step)
    speed = float(np.linalg.norm(middle))
    squared = 2.8**2 - (chord * speed / 2) ** 2
    integral = peak * np.sqrt(2 * np.pi) / speed * (np.exp(-squared / 2) - np.exp(-(2.8**2) / 2))
    image[rows, columns] += np.where(chord > 0, integral, 0) * part.ray_length


def _endotracheal_tube(thorax: Thorax, camera: Camera, rng: np.random.Generator) -> Change:
    """A plastic tube in the trachea with a radiopaque stripe; `measure` is tip to carina in cm."""
    above_carina = float(rng.uniform(2.5, 6.5))
    tip = thorax.carina + np.array([rng.uniform(-0.1, 0.1), 0.1, above_carina])
    line = np.array([[0.2, 0.2, 24.0], [0.1, -0.3, 17.0], tip])
    soft, metal = np.zeros_like(camera.ray_length), np.zeros_like(camera.ray_length)
    camera.add_tubes(soft, [Tube(line, np.full(3, 0.52))], 1.3, wall=0.14)
    camera.add_tubes(metal, [Tube(line + np.array([0.42, 0.2, 0.0]), np.full(3, 0.09))], 0.28)
    return Change(above_carina, soft=soft, metal=metal)


def _central_line(
    request: FindingRequest, thorax: Thorax, camera: Camera, rng: np.random.Generator
) -> Change:
    """A barium-filled catheter from the jugular or subclavian vein into the superior vena cava."""
    assert request.side is not None
    sign, tip_z = request.side.sign, float(rng.uniform(-1.5, 3.5))
    if rng.random() < 0.55:
        start = [(sign * 4.6, 2.0, 21.0), (sign * 3.6, 2.2, 15.0)]
    else:
        start = [(sign * 13.0, 3.5, 12.5), (sign * 8.0, 4.5, 13.2), (sign * 4.0, 4.0, 12.2)]
    confluence = [(1.8, 3.4, 10.4), (-0.8, 3.0, 9.2)] if sign > 0 else []
    line = np.array([*start, *confluence, (-2.5, 2.2, 8.0), (-2.8, 1.6, 4.5), (-2.7, 1.4, tip_z)])
    metal = np.zeros_like(camera.ray_length)
    camera.add_tubes(metal, [_smooth(line, 0.125)], 0.34)
    return Change(tip_z - thorax.carina[2], metal=metal)


def _pacemaker(request: FindingRequest, thorax: Thorax, camera: Camera, rng: np.random.Generator) -> Change:
    """A generator under the clavicle and leads to the right ventricle and, in most, the right atrium."""
    assert request.side is not None
    sign, scale = request.side.sign, thorax.heart_scale
    metal = np.zeros_like(camera.ray_length)
    can = np.array([sign * rng.uniform(9.0, 11.0), 8.6, rng.uniform(7.0, 9.2)])
    camera.add_solid(metal, ellipsoid(can, (2.3, 0.4, 2.0), turn("z", sign * -25)), 0.7)
    camera.add_solid(metal, ellipsoid(can + np.array([-sign * 0.6, 0.0, 1.9]), (1.1, 0.35, 0.6)), 0.25)
    entry = [can + np.array([0.0, 0.0, 2.2]), (sign * 7.5, 5.0, 12.6), (sign * 3.5, 4.0, 11.4)]
    cava = [*([(0.5, 3.4, 10.0)] if sign > 0 else []), (-2.5, 2.2, 8.0), (-2.8, 1.6, 2.5)]
    bottom = -8.8
    ventricle = [(-2.2 * scale, 2.6, -4.0), (0.8 * scale, 3.8, bottom + 0.6), (4.6 * scale, 4.6, bottom)]
    leads = [np.array([*entry, *cava, *ventricle])]
    if rng.random() < 0.7:
        leads.append(np.array([*entry, *cava, (-3.0 * scale, 3.6, -2.6), (-2.4 * scale, 5.0, -1.4)]))
    camera.add_tubes(metal, [_smooth(lead, 0.11) for lead in leads], 0.5)
    return Change(float(len(leads)), metal=metal)


def _smooth(points: NDArray[np.float64], radius: float, steps: int = 8) -> Tube:
    """A Catmull-Rom curve through `points`."""
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = []
    for before, start, stop, after in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        square = 2 * before - 5 * start + 4 * stop - after
        pieces.append(0.5 * (2 * start + (stop - before) * t + square * t**2
                             + (3 * start - before - 3 * stop + after) * t**3))  # fmt: skip
    curve = np.concatenate([*pieces, points[-1:]])
    return Tube(curve, np.full(len(curve), radius))


_IN_ONE_LUNG = {
    FindingKind.PLEURAL_EFFUSION: _effusion,
    FindingKind.PNEUMOTHORAX: _pneumothorax,
    FindingKind.CONSOLIDATION: _consolidation,
    FindingKind.ATELECTASIS: _atelectasis,
    FindingKind.NODULE: _nodule,
    FindingKind.MASS: _mass,
}
