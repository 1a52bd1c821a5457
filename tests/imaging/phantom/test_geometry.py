"""Line integrals against arithmetic: slabs, spheres and tubes have closed-form answers."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_assistant.imaging.phantom.geometry import (
    Camera,
    Interval,
    Tube,
    covered_length,
    ellipsoid,
    elliptic_cylinder,
)

SIZE = 101
SOURCE_TO_DETECTOR = 180.0
PIXEL = 0.4


@pytest.fixture
def camera() -> Camera:
    """Source 160 cm behind the origin, detector 20 cm in front; the central pixel sees the origin."""
    half = SIZE // 2 * PIXEL
    source = np.array([0.0, -160.0, 0.0])
    corner = np.array([-half, 20.0, half])
    return Camera(source, corner - source, np.array([0, 0, -PIXEL]), np.array([PIXEL, 0, 0]), SIZE, SIZE)


def _central(image: np.ndarray) -> float:
    return float(image[SIZE // 2, SIZE // 2])


def test_central_ray_crosses_a_sphere_along_its_diameter(camera: Camera) -> None:
    image = np.zeros((SIZE, SIZE), np.float32)
    camera.add_solid(image, ellipsoid((0, 0, 0), (5, 5, 5)), 2.0)
    assert _central(image) == pytest.approx(2.0 * 10.0, rel=1e-4)


def test_chords_through_a_sphere_off_axis_follow_the_closed_form(camera: Camera) -> None:
    center, radius = np.array([3.0, 2.0, -4.0]), 4.0
    image = np.zeros((SIZE, SIZE), np.float32)
    camera.add_solid(image, ellipsoid(center, (radius,) * 3), 1.0)
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    ends = camera.toward + rows[..., None] * camera.row_step + columns[..., None] * camera.column_step
    unit = ends / np.linalg.norm(ends, axis=-1, keepdims=True)
    closest = np.linalg.norm(np.cross(center - camera.source, unit), axis=-1)
    expected = 2 * np.sqrt(np.maximum(radius**2 - closest**2, 0))
    assert np.abs(image - expected).max() < 0.02


def test_a_shadow_is_magnified_by_source_distance_over_object_distance(camera: Camera) -> None:
    image = np.zeros((SIZE, SIZE), np.float32)
    camera.add_solid(image, ellipsoid((0, 0, 0), (6, 0.1, 6)), 1.0)
    width_cm = (image[SIZE // 2] > 0).sum() * PIXEL
    assert width_cm == pytest.approx(12 * SOURCE_TO_DETECTOR / 160, abs=2 * PIXEL)


def test_a_slab_is_cut_out_of_a_cylinder_by_two_half_spaces(camera: Camera) -> None:
    cylinder = camera.intersect(elliptic_cylinder((0, 0, 0), 30, 30))
    slab = cylinder.clipped_to_half_space(camera, (0, 1, 0), 2.0).clipped_to_half_space(
        camera, (0, -1, 0), 1.0
    )
    assert _central(slab.span * camera.ray_length) == pytest.approx(3.0, rel=1e-4)


def test_overlapping_solids_are_counted_once(camera: Camera) -> None:
    everything = Interval(np.zeros((SIZE, SIZE), np.float32), np.ones((SIZE, SIZE), np.float32))
    parts = [camera.intersect(ellipsoid((0, y, 0), (3, 3, 3))) for y in (0.0, 2.0, 12.0)]
    covered = covered_length(everything, parts) * camera.ray_length
    assert _central(covered) == pytest.approx(8.0 + 6.0, rel=1e-3)


def test_the_order_of_overlapping_solids_does_not_matter(camera: Camera) -> None:
    whole = camera.intersect(ellipsoid((0, 0, 0), (9, 9, 9)))
    parts = [camera.intersect(ellipsoid((x, y, 0), (3, 4, 5))) for x, y in ((0, -6), (1, 1), (-2, 3), (5, 0))]
    assert np.array_equal(covered_length(whole, parts), covered_length(whole, parts[::-1]))


def test_a_tube_seen_from_the_side_has_the_mass_of_its_cross_section(camera: Camera) -> None:
    image = np.zeros((SIZE, SIZE), np.float32)
    line = np.array([[0.0, 0.0, -15.0], [0.0, 0.0, 15.0]])
    camera.add_tubes(image, [Tube(line, np.full(2, 1.5))], 1.0)
    magnification = SOURCE_TO_DETECTOR / 160
    area = image[SIZE // 2].sum() * PIXEL / magnification
    assert area == pytest.approx(np.pi * 1.5**2, rel=0.05)


def test_a_thread_thinner_than_a_pixel_keeps_its_mass(camera: Camera) -> None:
    image = np.zeros((SIZE, SIZE), np.float32)
    line = np.array([[0.3, 0.0, -15.0], [-0.2, 0.0, 15.0]])
    camera.add_tubes(image, [Tube(line, np.full(2, 0.05))], 1.0)
    area = image[20:80].sum(axis=1).mean() * PIXEL / (SOURCE_TO_DETECTOR / 160)
    assert area == pytest.approx(np.pi * 0.05**2, rel=0.25)


def test_a_hollow_tube_is_lighter_than_a_solid_one(camera: Camera) -> None:
    solid, hollow = np.zeros((SIZE, SIZE), np.float32), np.zeros((SIZE, SIZE), np.float32)
    tube = [Tube(np.array([[0.0, 0.0, -15.0], [0.0, 0.0, 15.0]]), np.full(2, 2.0))]
    camera.add_tubes(solid, tube, 1.0)
    camera.add_tubes(hollow, tube, 1.0, wall=0.5)
    ratio = hollow[SIZE // 2].sum() / solid[SIZE // 2].sum()
    assert ratio == pytest.approx(1 - (1.5 / 2.0) ** 2, rel=0.05)
