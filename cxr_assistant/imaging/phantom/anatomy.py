"""A parametrised thorax: which solids a patient is made of.

Knows the proportions of a chest in centimetres (x to the patient's left, y to the front, z to the head);
knows nothing of rays, pixels or disease. Numbers are round values of adult anatomy, chosen so that the
projections look right; the cardiothoracic ratio and the ranges below are what the truth depends on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cxr_assistant.imaging.phantom.geometry import Quadric, Tube, ellipsoid, elliptic_cylinder, rotation

__all__ = [
    "SIDES",
    "TRAINING_RANGES",
    "UNSEEN_RANGES",
    "Anatomy",
    "AnatomyRanges",
    "Lung",
    "Thorax",
    "build_thorax",
]

Posture = Literal["arms-abducted", "arms-down", "arms-raised"]
Range = tuple[float, float]

SIDES = (1, -1)  # left, right: the sign of x
_CAGE_WIDTH_CM = 27.4  # inner width of the bony thorax at its widest, the denominator of the CTR


@dataclass(frozen=True, kw_only=True)
class AnatomyRanges:
    """From where patients and exposures are drawn; a two-part range leaves the middle out."""

    name: str
    scale: tuple[Range, ...]  # body height and width against the mean adult
    depth: tuple[Range, ...]  # antero-posterior thickness against the mean
    fat_cm: tuple[Range, ...]  # subcutaneous layer
    inspiration_cm: tuple[Range, ...]  # diaphragm below (+) or above (-) its mean level
    rotation_deg: tuple[Range, ...]  # about the long axis
    tilt_deg: tuple[Range, ...]  # lordosis
    exposure: tuple[Range, ...]  # photons against the mean
    normal_ctr: Range = (0.38, 0.47)


TRAINING_RANGES = AnatomyRanges(
    name="training",
    scale=((0.92, 1.08),),
    depth=((0.88, 1.14),),
    fat_cm=((0.3, 2.4),),
    inspiration_cm=((-1.2, 1.2),),
    rotation_deg=((-5.0, 5.0),),
    tilt_deg=((-3.0, 4.0),),
    exposure=((0.5, 2.0),),
)

UNSEEN_RANGES = AnatomyRanges(
    name="unseen",
    scale=((0.86, 0.92), (1.08, 1.13)),
    depth=((0.82, 0.88), (1.14, 1.22)),
    fat_cm=((2.4, 3.4),),
    inspiration_cm=((-1.9, -1.2), (1.2, 1.6)),
    rotation_deg=((-8.0, -5.0), (5.0, 8.0)),
    tilt_deg=((4.0, 7.0),),
    exposure=((0.3, 0.5), (2.0, 3.0)),
)


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """One patient. The seed of the vessel tree is part of the patient, as a fingerprint would be."""

    is_female: bool
    scale: float
    depth: float
    fat_cm: float
    inspiration_cm: float
    rotation_deg: float
    tilt_deg: float
    exposure: float
    ctr: float
    breast_cm: float
    heart_turn_deg: float
    right_dome_cm: float
    gastric_bubble: float
    bone: float
    lung_density: float
    vessel_seed: int

    @classmethod
    def sample(cls, rng: np.random.Generator, ranges: AnatomyRanges) -> Anatomy:
        def draw(parts: tuple[Range, ...]) -> float:
            low, high = parts[rng.integers(len(parts))]
            return float(rng.uniform(low, high))

        return cls(
            is_female=bool(rng.random() < 0.5),
            scale=draw(ranges.scale),
            depth=draw(ranges.depth),
            fat_cm=draw(ranges.fat_cm),
            inspiration_cm=draw(ranges.inspiration_cm),
            rotation_deg=draw(ranges.rotation_deg),
            tilt_deg=draw(ranges.tilt_deg),
            exposure=draw(ranges.exposure),
            ctr=float(rng.uniform(*ranges.normal_ctr)),
            breast_cm=float(rng.uniform(1.5, 4.5)),
            heart_turn_deg=float(rng.uniform(27, 44)),
            right_dome_cm=float(rng.uniform(0.6, 1.8)),
            gastric_bubble=float(rng.uniform(0.0, 1.2)),
            bone=float(rng.uniform(0.75, 1.2)),
            lung_density=float(rng.uniform(0.22, 0.30)),
            vessel_seed=int(rng.integers(2**31)),
        )


@dataclass(frozen=True, eq=False)
class Lung:
    """One pleural cavity: inside `cage`, lateral of the midline, above `floor_z`, outside of `others`."""

    side: int
    cage: Quadric
    floor_z: float
    others: tuple[Quadric, ...]
    hilum: NDArray[np.float64]
    dome: Quadric

    @property
    def apex_z(self) -> float:
        return float(self.cage.center[2] + 20.5)

    @property
    def angle_z(self) -> float:
        """Level of the costophrenic angle."""
        return self.floor_z + 5.2

    def sample_points(
        self, rng: np.random.Generator, count: int, margin: float = 0.96
    ) -> NDArray[np.float64]:
        """(count, 3) points inside the lung."""
        inner, found = self.cage.scaled_about(self.cage.center, margin), np.zeros((0, 3))
        half = np.linalg.inv(inner.matrix)
        while len(found) < count:
            points = inner.center + rng.uniform(-1, 1, (count * 4, 3)) @ half.T
            keep = inner.contains(points) & (points[:, 0] * self.side > 1.5) & (points[:, 2] > self.floor_z)
            for other in self.others:
                keep &= ~other.grown_by(0.3).contains(points)
            found = np.concatenate([found, points[keep]])
        return found[:count]


@dataclass(frozen=True, eq=False)
class Thorax:
    """The solids of one patient in one posture."""

    body: tuple[Quadric, ...]
    muscle: Quadric
    lungs: tuple[Lung, Lung]
    heart: tuple[Quadric, ...]
    organs: tuple[tuple[Quadric, float], ...]  # extra soft tissue (+) or gas (-)
    airways: tuple[Tube, ...]
    vessels: tuple[tuple[Tube, ...], tuple[Tube, ...]]
    ribs: tuple[Tube, ...]
    long_bones: tuple[Tube, ...]
    spongy_bones: tuple[tuple[Quadric, float], ...]
    carina: NDArray[np.float64]
    heart_scale: float


def build_thorax(anatomy: Anatomy, posture: Posture) -> Thorax:
    """The solids of `anatomy`; lengths are for scale 1, the camera applies the body's scale."""
    heart_scale = anatomy.ctr * _CAGE_WIDTH_CM / 12.4
    heart = _heart(anatomy, heart_scale)
    crura = ellipsoid((0, -1.5, -18.0), (4.8, 10.5, 8.6))
    shared = (*heart, *_mediastinum(), crura, elliptic_cylinder((0, -7.8, 0), 2.3, 2.4))
    lungs = (_lung(anatomy, 1, shared), _lung(anatomy, -1, shared))
    rng = np.random.default_rng(anatomy.vessel_seed)
    carina = np.array([0.0, -1.2, 5.0])
    return Thorax(
        body=_body(anatomy, posture),
        muscle=ellipsoid((0, -0.8, -10), (16.2, 10.4 * anatomy.depth, 58)),
        lungs=lungs,
        heart=heart,
        organs=_organs(anatomy, lungs),
        airways=_airways(carina, lungs),
        vessels=(_vessels(rng, lungs[0]), _vessels(rng, lungs[1])),
        ribs=_ribs(anatomy),
        long_bones=_long_bones(posture),
        spongy_bones=_spongy_bones(rng, posture),
        carina=carina,
        heart_scale=heart_scale,
    )


def _heart(anatomy: Anatomy, scale: float) -> tuple[Quadric, ...]:
    turn = rotation("y", anatomy.heart_turn_deg)
    bottom = -10.6 - 0.5 * anatomy.inspiration_cm
    ventricles = ellipsoid(
        (2.1 * scale, 2.9, bottom + 5.4 * scale), (6.5 * scale, 4.7 * scale, 4.6 * scale), turn
    )
    right_atrium = ellipsoid(
        (-1.6 * scale, 2.4, bottom + 5.6 * scale), (2.6 * scale, 3.2 * scale, 4.7 * scale)
    )
    base = ellipsoid((0.8, 1.6, bottom + 9.8 * scale), (3.3, 3.4, 4.4))
    return ventricles, right_atrium, base


def _mediastinum() -> tuple[Quadric, ...]:
    upper = ellipsoid((0, -0.6, 7.0), (2.7, 6.0, 13.0))
    knob = ellipsoid((2.3, -1.4, 7.3), (1.6, 2.2, 1.6))
    descending_aorta = ellipsoid((2.1, -5.0, -3.0), (1.35, 1.35, 13.0))
    behind_heart = ellipsoid((0.3, -3.4, -7.0), (2.1, 4.2, 15.0))
    return upper, knob, descending_aorta, behind_heart


def _lung(anatomy: Anatomy, side: int, shared: tuple[Quadric, ...]) -> Lung:
    cage = ellipsoid((side * 5.9, -0.6, -7.0), (7.3, 8.8 * anatomy.depth, 21.0), rotation("y", -side * 7.5))
    lift = (anatomy.right_dome_cm if side < 0 else 0.0) - anatomy.inspiration_cm
    center_z = -20.2 + lift
    dome = ellipsoid((side * 6.4, 1.6, center_z), (8.4, 9.8 * anatomy.depth, 10.4), rotation("x", -6))
    hilum = np.array([side * 3.9, -1.0, 2.0 + (0.9 if side > 0 else 0.0)])
    return Lung(side, cage, center_z, (dome, *shared), hilum, dome)


def _body(anatomy: Anatomy, posture: Posture) -> tuple[Quadric, ...]:
    fat = anatomy.fat_cm
    # Three overlapping ellipsoids: a chest is closer to a rounded box than to an oval.
    parts = [
        ellipsoid((0, -0.6, -12), (16.8 + fat, 11.0 * anatomy.depth + fat, 60)),
        ellipsoid((6.0, -0.9, -12), (10.6 + fat, 10.9 * anatomy.depth + fat, 60)),
        ellipsoid((-6.0, -0.9, -12), (10.6 + fat, 10.9 * anatomy.depth + fat, 60)),
        ellipsoid((0, -1.8, 25), (5.6 + 0.4 * fat, 6.2, 14)),
    ]
    for side in SIDES:
        parts.append(
            ellipsoid((side * 12.5, -1.8, 11.5), (7.8 + fat / 2, 5.6, 5.4), rotation("y", side * 14))
        )
        parts.append(_upper_arm(side, posture, fat))
        if anatomy.is_female:
            size, depth = 5.2 + anatomy.breast_cm / 3, 2.6 + anatomy.breast_cm * 0.9
            center = (side * 7.8, 7.6 * anatomy.depth + fat * 0.8, -4.6 - anatomy.breast_cm * 0.55)
            parts.append(ellipsoid(center, (size, depth, size * 0.94), rotation("x", 14)))
    return tuple(parts)


def _upper_arm(side: int, posture: Posture, fat: float) -> Quadric:
    half_axes = (3.8 + fat / 3, 4.2 + fat / 3, 17.0)
    if posture == "arms-raised":
        return ellipsoid((side * 14.0, 5.0, 23.0), half_axes, rotation("x", -35))
    if posture == "arms-down":
        return ellipsoid((side * 20.0, -1.5, -1.0), half_axes, rotation("y", -side * 3))
    return ellipsoid((side * 24.5, -1.0, 4.0), half_axes, rotation("y", -side * 48))


def _organs(anatomy: Anatomy, lungs: tuple[Lung, Lung]) -> tuple[tuple[Quadric, float], ...]:
    left_top = lungs[0].dome.center[2] + 10.0
    size = anatomy.gastric_bubble
    organs = [(lungs[1].dome.grown_by(-0.6), 0.05)]
    if size > 0.25:
        organs.append(
            (ellipsoid((6.0, 0.5, left_top - 0.8 - 1.7 * size), (3.2 * size, 3.4 * size, 1.7 * size)), -1.0)
        )
    organs.append((ellipsoid((9.0, 2.0, left_top - 7.5), (1.2 + size, 2.0, 1.6 + size)), -0.7))
    for lung in lungs:
        organs.append((ellipsoid(lung.hilum + np.array([lung.side * 0.4, 0, -0.8]), (0.9, 1.2, 1.9)), 0.35))
    return tuple(organs)


def _airways(carina: NDArray[np.float64], lungs: tuple[Lung, Lung]) -> tuple[Tube, ...]:
    trachea = np.array([[0.1, -0.6, 24.0], [0.0, -0.6, 16.0], [-0.2, -0.9, 10.0], carina])
    tubes = [Tube(trachea, np.array([0.9, 0.9, 0.88, 0.85]))]
    for lung in lungs:
        end = lung.hilum + np.array([lung.side * 0.6, 0.2, -0.6])
        tubes.append(
            Tube(np.array([carina, (carina + end) / 2 + [0, 0, 0.2], end]), np.array([0.65, 0.6, 0.5]))
        )
    return tuple(tubes)


def _vessels(rng: np.random.Generator, lung: Lung) -> tuple[Tube, ...]:
    """Arteries and veins from the hilum to the periphery; the lower zones get the wider ones (erect)."""
    tubes = []
    for target in lung.sample_points(rng, 24):
        low = target[2] < lung.hilum[2]
        width = rng.uniform(0.26, 0.44) if low else rng.uniform(0.18, 0.32)
        root = lung.hilum + rng.normal(0, 1, 3) * (0.5, 0.9, 1.5)
        trunk = _branch(rng, root, target, width, 0.09, steps=7)
        tubes.append(trunk)
        for _ in range(3):
            start = int(rng.integers(1, 5))
            end = target + rng.normal(0, 2.6, 3)
            tubes.append(_branch(rng, trunk.points[start], end, trunk.radii[start] * 0.75, 0.07, steps=5))
    inside = lung.cage.scaled_about(lung.cage.center, 0.985)
    kept = []
    for tube in tubes:
        outside = ~inside.contains(tube.points) | (tube.points[:, 2] < lung.floor_z)
        for other in lung.others[:3]:
            outside |= other.contains(tube.points)
        count = int(np.argmax(outside[1:])) + 1 if outside[1:].any() else len(tube.points)
        if count >= 2:
            kept.append(Tube(tube.points[:count], tube.radii[:count]))
    return tuple(kept)


def _branch(
    rng: np.random.Generator,
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    width: float,
    tip: float,
    steps: int,
) -> Tube:
    position = np.linspace(0, 1, steps)[:, None]
    bend = np.sin(np.pi * position) * rng.normal(0, 0.7, 3) + np.cumsum(
        rng.normal(0, 0.12, (steps, 3)), axis=0
    )
    bend -= bend[0]
    radii = np.maximum(width * (1 - position[:, 0]) ** 0.6, tip)
    return Tube(start + (end - start) * position + bend, radii)


def _ribs(anatomy: Anatomy) -> tuple[Tube, ...]:
    tubes = []
    angle = np.radians(np.linspace(8, 138, 20))
    progress = np.linspace(0, 1, 20)
    for side in SIDES:
        for index in range(11):
            back_z = 13.2 - 2.3 * index
            drop = 2.6 + min(index, 6) * 0.75
            z = back_z + 0.7 * np.sin(angle) - drop * progress**1.5
            slice_radius = np.sqrt(np.maximum(1 - ((z + 7.0) / 21.5) ** 2, 0.04))
            half_x = 5.9 - (z + 7.0) * 0.13 + 7.5 * slice_radius
            half_y = 9.1 * anatomy.depth * slice_radius**0.6
            points = np.stack([side * half_x * np.sin(angle), -0.6 - half_y * np.cos(angle), z], axis=1)
            tubes.append(Tube(points, np.full(20, 0.5 + 0.012 * min(index, 6))))
    return tuple(tubes)


def _long_bones(posture: Posture) -> tuple[Tube, ...]:
    tubes = []
    lift = {"arms-abducted": 0.0, "arms-down": 1.3, "arms-raised": 1.6}[posture]
    elbow = {
        "arms-abducted": (27.0, -1.0, 0.0),
        "arms-down": (20.5, -1.5, -14.0),
        "arms-raised": (15.0, 9.0, 30.0),
    }
    for side in SIDES:
        clavicle = [
            (2.0, 6.6, 11.2),
            (6.0, 7.0, 11.8 + lift / 2),
            (10.5, 4.2, 12.8 + lift),
            (15.0, 0.5, 13.6 + lift),
        ]
        humerus = [(17.2, -1.2, 11.0), elbow[posture]]
        scapular_spine = [(8.5, -9.0, 10.5), (13.0, -6.5, 12.4), (16.0, -2.5, 13.8)]
        for line, radius in ((clavicle, 0.55), (humerus, 1.15), (scapular_spine, 0.4)):
            points = np.array(line) * np.array([side, 1.0, 1.0])
            tubes.append(Tube(points, np.full(len(line), radius)))
    return tuple(tubes)


def _spongy_bones(rng: np.random.Generator, posture: Posture) -> tuple[tuple[Quadric, float], ...]:
    bones: list[tuple[Quadric, float]] = []
    for z in np.arange(-20.0, 21.0, 2.55):
        y = -7.6 + 0.004 * (z + 2) ** 2
        density = 0.085 * rng.uniform(0.9, 1.1)
        bones.append((ellipsoid((0, y, z), (1.75, 1.6, 1.3)), density))
        bones.append((ellipsoid((0, y - 3.4, z - 1.6), (0.28, 1.2, 0.6)), 0.10))
        for side in SIDES:
            bones.append((ellipsoid((side * 1.35, y - 1.6, z + 0.3), (0.32, 0.6, 0.5)), 0.12))
    bones.append((ellipsoid((0, 8.3, 3.5), (1.7, 0.5, 8.5), rotation("x", -10)), 0.14))
    off_lungs = {"arms-abducted": 14.6, "arms-down": 11.6, "arms-raised": 13.0}[posture]
    for side in SIDES:
        turned = rotation("z", side * 38) @ rotation("y", side * 8)
        bones.append((ellipsoid((side * off_lungs, -8.4, 5.5), (3.9, 0.42, 6.8), turned), 0.5))
        bones.append((ellipsoid((side * 17.0, -1.2, 11.4), (2.2, 2.2, 2.2)), 0.22))
    return tuple(bones)
