"""Rays through solids in closed form: the geometry under the phantom.

Knows a point source, a flat detector, quadrics and tubes; knows nothing of anatomy or of X-rays.
Lengths are in centimetres; the patient's axes are x to the left, y to the front, z to the head.

H image rows, W image columns, K rows of a quadric's matrix
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Vector = NDArray[np.float64]

__all__ = ["Camera", "Interval", "Quadric", "Tube", "covered_length", "ellipsoid", "elliptic_cylinder"]


@dataclass(frozen=True, eq=False)
class Quadric:
    """The points p with |matrix @ (p - center)| <= 1: an ellipsoid (K = 3) or an endless cylinder (K = 2)."""

    center: Vector
    matrix: NDArray[np.float64]

    def contains(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of `points` (N, 3) lie inside."""
        inside: NDArray[np.bool_] = np.sum(((points - self.center) @ self.matrix.T) ** 2, axis=1) <= 1.0
        return inside

    def scaled_about(self, point: Vector, factor: float) -> Quadric:
        """The same shape shrunk (factor < 1) towards `point`."""
        return Quadric(point + (self.center - point) * factor, self.matrix / factor)

    def grown_by(self, margin: float) -> Quadric:
        """The same shape with every half-axis longer by `margin` (shorter when negative)."""
        norms = np.linalg.norm(self.matrix, axis=1, keepdims=True)
        return Quadric(self.center, self.matrix / norms / (1.0 / norms + margin))


def rotation(axis: str, degrees: float) -> NDArray[np.float64]:
    """The 3 x 3 rotation about the patient's x, y or z axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def ellipsoid(
    center: Sequence[float] | Vector,
    half_axes: Sequence[float] | Vector,
    turned: NDArray[np.float64] | None = None,
) -> Quadric:
    """An ellipsoid; `turned` rotates its axes (columns of the rotation are the new axes)."""
    turn = np.eye(3) if turned is None else turned
    return Quadric(np.asarray(center, float), np.diag(1.0 / np.asarray(half_axes, float)) @ turn.T)


def elliptic_cylinder(center: Sequence[float], half_x: float, half_y: float) -> Quadric:
    """An endless cylinder along z."""
    return Quadric(np.asarray(center, float), np.array([[1 / half_x, 0, 0], [0, 1 / half_y, 0]]))


@dataclass(frozen=True, eq=False)
class Interval:
    """Where each ray is inside a convex body, as fractions of the way from source to detector, (H, W)."""

    enter: Array
    leave: Array

    def clipped_to(self, other: Interval) -> Interval:
        enter = np.maximum(self.enter, other.enter)
        return Interval(enter, np.maximum(np.minimum(self.leave, other.leave), enter))

    def clipped_to_half_space(self, camera: Camera, normal: Sequence[float], bound: float) -> Interval:
        """The part of the interval where normal . p <= bound."""
        n = np.asarray(normal, float)
        along = camera.affine(
            *(float(n @ step) for step in (camera.toward, camera.row_step, camera.column_step))
        )
        crossing = ((bound - n @ camera.source) / np.where(np.abs(along) < 1e-6, 1e-6, along)).astype(
            np.float32
        )
        enter = np.where(along < 0, np.maximum(self.enter, crossing), self.enter)
        leave = np.where(along < 0, self.leave, np.minimum(self.leave, crossing))
        return Interval(enter, np.maximum(leave, enter))

    @property
    def span(self) -> Array:
        return self.leave - self.enter


@dataclass(frozen=True, eq=False)
class Tube:
    """A round tube along a polyline: points (N, 3), one radius per point."""

    points: NDArray[np.float64]
    radii: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Camera:
    """A point source and a flat detector of H x W pixels.

    A pixel (row, column) lies at source + toward + row * row_step + column * column_step.
    """

    source: Vector
    toward: Vector
    row_step: Vector
    column_step: Vector
    height: int
    width: int

    @cached_property
    def _rows(self) -> Vector:
        return np.arange(self.height, dtype=float)

    @cached_property
    def _columns(self) -> Vector:
        return np.arange(self.width, dtype=float)

    def affine(self, constant: float, per_row: float, per_column: float) -> Array:
        """constant + per_row * row + per_column * column over the image."""
        row_part = (constant + per_row * self._rows).astype(np.float32)
        return row_part[:, None] + (per_column * self._columns).astype(np.float32)[None, :]

    @cached_property
    def ray_length(self) -> Array:
        """(H, W) distance from the source to each pixel, cm."""
        total = np.zeros((self.height, self.width), np.float32)
        for axis in range(3):
            total += self.affine(self.toward[axis], self.row_step[axis], self.column_step[axis]) ** 2
        return np.sqrt(total)

    def project(self, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(N, 2) pixel position (row, column) and (N,) magnification of `points` (N, 3)."""
        normal = self._normal
        away = points - self.source
        magnification = (normal @ self.toward) / (away @ normal)
        on_plane = away * magnification[:, None] - self.toward
        pixel = np.stack(
            [on_plane @ step / (step @ step) for step in (self.row_step, self.column_step)], axis=1
        )
        return pixel, magnification

    @cached_property
    def _normal(self) -> Vector:
        return np.cross(self.row_step, self.column_step)

    @property
    def pixel_cm(self) -> float:
        return float(np.linalg.norm(self.column_step))

    def window(self, solid: Quadric) -> tuple[slice, slice]:
        """The rows and columns that an ellipsoid can touch."""
        half_axes = np.linalg.inv(solid.matrix)
        corners = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]) @ half_axes.T
        pixel, _ = self.project(solid.center + corners)
        low, high = np.floor(pixel.min(0)).astype(int), np.ceil(pixel.max(0)).astype(int) + 1
        rows = slice(max(low[0], 0), min(max(high[0], 0), self.height))
        return rows, slice(max(low[1], 0), min(max(high[1], 0), self.width))

    def cropped(self, rows: slice, columns: slice) -> Camera:
        """The same camera restricted to a part of the detector."""
        toward = self.toward + rows.start * self.row_step + columns.start * self.column_step
        height, width = max(rows.stop - rows.start, 0), max(columns.stop - columns.start, 0)
        return Camera(self.source, toward, self.row_step, self.column_step, height, width)

    def intersect(self, solid: Quadric) -> Interval:
        """Enter and leave of each ray; rays that miss get an empty interval at 0.

        With u = A(source - center) and v = A(direction), |u + t v|^2 = 1 is quadratic in t; a = v.v and
        the discriminant are quadratic polynomials of row and column, so no per-pixel vectors are needed.
        """
        mid_row, mid_column = self.height // 2, self.width // 2
        u = solid.matrix @ (self.source - solid.center)
        v = solid.matrix @ (self.toward + mid_row * self.row_step + mid_column * self.column_step)
        v_row, v_column = solid.matrix @ self.row_step, solid.matrix @ self.column_step
        squared = _square(v, v_row, v_column)
        linear = np.array([u @ v, u @ v_row, u @ v_column])
        discriminant = _square(*(np.array([part]) for part in linear)) - (u @ u - 1.0) * squared
        rows, columns = self._rows - mid_row, self._columns - mid_column
        a = _polynomial(squared, rows, columns)
        root = np.sqrt(np.maximum(_polynomial(discriminant, rows, columns), 0.0))
        b = (linear[0] + linear[1] * rows).astype(np.float32)[:, None]
        b = b + (linear[2] * columns).astype(np.float32)[None, :]
        hit = root > 0
        return Interval(np.where(hit, (-b - root) / a, 0), np.where(hit, (-b + root) / a, 0))

    def add_solid(self, image: Array, solid: Quadric, density: float) -> None:
        """Add density * (path length in cm through an ellipsoid) to `image`."""
        rows, columns = self.window(solid)
        if rows.stop <= rows.start or columns.stop <= columns.start:
            return
        part = self.cropped(rows, columns).intersect(solid)
        image[rows, columns] += density * part.span * self.ray_length[rows, columns]

    def add_tubes(
        self, image: Array, tubes: Sequence[Tube], density: float, wall: float | None = None
    ) -> None:
        """Add density * path length through round tubes; hollow ones have walls `wall` cm thick."""
        if not tubes:
            return
        starts = np.concatenate([tube.points[:-1] for tube in tubes])
        stops = np.concatenate([tube.points[1:] for tube in tubes])
        radii = np.concatenate([(tube.radii[:-1] + tube.radii[1:]) / 2 for tube in tubes])
        _add_segments(self, image, starts, stops, radii, density, wall)


def _square(v: Vector, v_row: Vector, v_column: Vector) -> Vector:
    """|v + row v_row + column v_column|^2 in the basis (1, r, c, rr, cc, rc)."""
    return np.array(
        [v @ v, 2 * v @ v_row, 2 * v @ v_column, v_row @ v_row, v_column @ v_column, 2 * v_row @ v_column]
    )


def _polynomial(coefficients: Vector, rows: Vector, columns: Vector) -> Array:
    one, r, c, rr, cc, rc = coefficients
    row_part = (one + r * rows + rr * rows**2).astype(np.float32)
    column_part = (c * columns + cc * columns**2).astype(np.float32)
    result: Array = row_part[:, None] + column_part[None, :]
    if rc:
        result += (rc * rows).astype(np.float32)[:, None] * columns.astype(np.float32)[None, :]
    return result


def covered_length(whole: Interval, parts: Sequence[Interval]) -> Array:
    """(H, W) fraction of each ray that lies in `whole` and in at least one of `parts`.

    With starts and ends sorted independently, a gap of the union opens exactly where the next start lies
    behind the end of the same rank.
    """
    clipped = [part.clipped_to(whole) for part in parts]
    # A ray that misses a part gets an empty interval at the whole's own start: no length, no false gap.
    starts = _sorted([np.where(c.leave > c.enter, c.enter, whole.enter) for c in clipped])
    ends = _sorted([np.where(c.leave > c.enter, c.leave, whole.enter) for c in clipped])
    covered: Array = ends[-1] - starts[0]
    for start, end in zip(starts[1:], ends[:-1], strict=True):
        covered -= np.maximum(start - end, 0)
    return covered


def _sorted(images: list[Array]) -> list[Array]:
    """Pixel by pixel from small to large, by odd-even exchange: for a handful faster than a sort."""
    for turn in range(len(images)):
        for index in range(turn % 2, len(images) - 1, 2):
            low, high = images[index], images[index + 1]
            images[index], images[index + 1] = np.minimum(low, high), np.maximum(low, high)
    return images


_PATCH_SIDES = (6, 10, 16, 26, 42, 68, 110, 178, 288)


def _add_segments(
    camera: Camera, image: Array, starts: NDArray[np.float64], stops: NDArray[np.float64],
    radii: NDArray[np.float64], density: float, wall: float | None,
) -> None:  # fmt: skip
    """Rasterise straight tube pieces; each touches a small square patch, patches of one size go together."""
    first, magnify = camera.project(starts)
    last, _ = camera.project(stops)
    radius_px = np.maximum(radii * magnify / camera.pixel_cm, 1e-3)
    axis = (stops - starts) / np.maximum(np.linalg.norm(stops - starts, axis=1), 1e-9)[:, None]
    rays = (starts + stops) / 2 - camera.source
    rays /= np.linalg.norm(rays, axis=1)[:, None]
    # Seen end-on a chord grows like 1/sin; a piece is never longer than its own length allows.
    sine = np.sqrt(np.maximum(1 - np.sum(axis * rays, axis=1) ** 2, 1e-6))
    length = np.linalg.norm(stops - starts, axis=1)
    stretch = np.minimum(1 / sine, np.maximum(length / (2 * radii), 1.0))
    extent = np.abs(last - first).max(axis=1) + 2 * radius_px + 3
    flat = image.reshape(-1)
    lower = 0.0
    for side in _PATCH_SIDES:
        chosen = np.flatnonzero((extent > lower) & (extent <= side))
        lower = side
        for part in np.array_split(chosen, max(len(chosen) * side * side // 400_000, 1)):
            if len(part):
                _add_patches(camera, flat, first[part], last[part], radius_px[part],
                             radii[part] * stretch[part] * density, radii[part], side, wall)  # fmt: skip


def _add_patches(
    camera: Camera, flat: Array, first: NDArray[np.float64], last: NDArray[np.float64],
    radius_px: NDArray[np.float64], strength: NDArray[np.float64], radii: NDArray[np.float64],
    side: int, wall: float | None,
) -> None:  # fmt: skip
    corner = np.floor((first + last) / 2 - side / 2).astype(np.int64)
    offsets = np.arange(side)
    rows = corner[:, 0, None, None] + offsets[None, :, None]
    columns = corner[:, 1, None, None] + offsets[None, None, :]
    along = last - first
    squared = np.maximum(np.sum(along**2, axis=1), 1e-9)[:, None, None]
    dr, dc = rows - first[:, 0, None, None], columns - first[:, 1, None, None]
    position = (dr * along[:, 0, None, None] + dc * along[:, 1, None, None]) / squared
    across = (dr * along[:, 1, None, None] - dc * along[:, 0, None, None]) / np.sqrt(squared)
    # A tube thinner than a pixel keeps its mass: it is drawn one pixel wide and fainter.
    drawn = np.maximum(radius_px, 0.6)
    relative = (across / drawn[:, None, None]) ** 2
    chord = 2 * np.sqrt(np.maximum(1 - relative, 0)) * (strength * radius_px / drawn)[:, None, None]
    if wall is not None:
        hole = np.maximum(radii - wall, 0) / radii
        inner = np.maximum(hole[:, None, None] ** 2 - relative, 0)
        chord -= 2 * np.sqrt(inner) * (strength * radius_px / drawn)[:, None, None]
    inside = (position >= 0) & (position < 1) & (chord != 0)
    inside &= (rows >= 0) & (rows < camera.height) & (columns >= 0) & (columns < camera.width)
    index = (rows * camera.width + columns)[inside]
    flat += np.bincount(index, chord[inside], minlength=flat.size).astype(np.float32)
