"""Curves on the sphere and their geometry, against closed forms and counts by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sop_jax.errors import UserError
from sop_jax.theory import curves

NAMES = (
    "circles-0.1",
    "circles-1",
    "winding-1-0.3",
    "winding-10-0.3",
    "coils-0.3-1-3",
    "coils-0.3-1-0",
)


@pytest.mark.parametrize("name", NAMES)
def test_points_lie_on_the_sphere_and_the_grid_is_even(name):
    for curve in curves.named(name):
        x = curves.grid(curve, 100)
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-14)
        steps = curves.angle(x, np.roll(x, -1, axis=0))
        np.testing.assert_allclose(steps, steps[0], rtol=1e-9)


def test_points_of_the_formulas():
    t = np.array([0.4])
    d, h = 0.3, 0.15
    r = np.sqrt(1 - h**2)
    plus, minus = (curves.points(curve, t)[0] for curve in curves.named("winding-4-0.3"))
    first = [np.cos(d) * np.cos(0.4), np.cos(d) * np.sin(0.4)]
    second = np.array([np.sin(d) * np.cos(1.6), np.sin(d) * np.sin(1.6)])
    np.testing.assert_allclose(plus, [*first, *second], atol=1e-15)
    np.testing.assert_allclose(minus, [*first, *-second], atol=1e-15)
    plus, minus = (curves.points(curve, t)[0] for curve in curves.named("circles-0.3"))
    np.testing.assert_allclose(plus, [r * np.cos(0.4), r * np.sin(0.4), h], atol=1e-15)
    np.testing.assert_allclose(minus, [r * np.cos(0.4), r * np.sin(0.4), -h], atol=1e-15)


def test_the_angle_is_accurate_where_arccos_is_not():
    for nu in (0.0, 1e-9, 1e-3, 2.0, np.pi - 1e-9, np.pi):
        x = np.array([np.cos(nu), np.sin(nu)])
        assert curves.angle(np.array([1.0, 0.0]), x) == pytest.approx(nu, rel=1e-12, abs=1e-15)


def measured(name, count=2000):
    plus, minus = (curves.grid(curve, count) for curve in curves.named(name))
    return plus, minus, curves.separation(plus, minus), curves.curvature(plus)


@pytest.mark.parametrize("distance", [0.1, 0.3, 1.0, 1.2])
def test_geometry_of_circles(distance):
    plus, minus, separation, curvature = measured(f"circles-{distance}", 200)
    assert separation == pytest.approx(2 * np.arcsin(distance / 2), rel=1e-9)
    height = distance / 2  # 1.2: radius .8 at height .6, curvature .6/.8
    assert curvature == pytest.approx(height / np.sqrt(1 - height**2), rel=1e-6)
    assert curves.near_returns(plus, minus)[0] == 0


@pytest.mark.parametrize("loops", [1, 4, 10])
def test_geometry_of_winding_curves(loops):
    d = 0.3
    _, _, separation, curvature = measured(f"winding-{loops}-{d}")
    speed2 = np.cos(d) ** 2 + loops**2 * np.sin(d) ** 2
    kappa2 = (np.cos(d) ** 2 + loops**4 * np.sin(d) ** 2) / speed2**2 - 1
    assert curvature == pytest.approx(np.sqrt(kappa2), rel=1e-6, abs=1e-6)
    t = np.linspace(0, 2 * np.pi, 100001)  # x+(0).x-(t)
    closest = np.max(np.cos(d) ** 2 * np.cos(t) - np.sin(d) ** 2 * np.cos(loops * t))
    # the grid of 2000 points is its precision
    assert separation == pytest.approx(np.arccos(closest), abs=1e-4)
    if loops == 1:
        assert separation == pytest.approx(2 * d)


@settings(max_examples=12, deadline=None)
@given(st.floats(0.05, 1.5), st.floats(0.05, 4), st.integers(0, 8))
def test_coils_have_the_geometry_they_were_asked_for(separation, beyond, returns):
    # 1 + kappa^2 must reach f/cos^2(separation/2), and f < 1.05 for every number of returns
    factor = 1.05
    curvature = np.sqrt(factor / np.cos(separation / 2) ** 2 - 1) + beyond
    plus, minus, found, kappa = measured(f"coils-{separation}-{curvature}-{returns}", 1200)
    assert found == pytest.approx(separation, rel=1e-9)
    assert kappa == pytest.approx(curvature, rel=1e-6)
    assert curves.near_returns(plus, minus)[0] == returns


def test_near_returns_count_the_other_curve_too():
    # the circles at distance .1 are closer than R/2 = .499: one ball of radius R covers what is
    # near of the other
    assert curves.near_returns(*measured("circles-0.1")[:2]) == (0, 1)
    assert curves.near_returns(*measured("circles-1")[:2]) == (0, 0)


@pytest.mark.parametrize(
    ("positions", "balls"),
    [
        ([], 0),
        ([3.0], 1),
        ([0.0, 1.9], 1),
        ([0.0, 2.1], 2),
        ([0.2, 9.9], 1),
        ([0.5, 4.0, 5.9, 9.0], 2),
    ],
)
def test_fewest_arcs_on_a_circle_of_length_ten(positions, balls):
    assert curves._cover(np.array(positions), 10.0, 1.0) == balls


def test_curvature_does_not_depend_on_speed():
    t = 2 * np.pi * np.arange(400) / 400
    t = t + 0.3 * np.sin(t)
    x = np.stack([0.8 * np.cos(t), 0.8 * np.sin(t), np.full(400, 0.6)], axis=1)
    assert curves.curvature(x) == pytest.approx(0.75, rel=1e-8)


def test_samples_are_uniform_labelled_and_repeatable():
    pair = curves.named("circles-0.3")
    x, y = curves.labelled_sample(pair, 2000, seed=3)
    assert x.shape == (4000, 3) and np.array_equal(np.sign(x[:, 2]), y)
    t = np.arctan2(x[:, 1], x[:, 0])
    assert abs(np.exp(1j * t).mean()) < 4 / np.sqrt(4000)
    np.testing.assert_array_equal(x, curves.labelled_sample(pair, 2000, seed=3)[0])
    assert not np.array_equal(x, curves.labelled_sample(pair, 2000, seed=4)[0])
    points, labels = curves.labelled_grid(pair, 5)
    assert points.shape == (10, 3) and labels.tolist() == [1] * 5 + [-1] * 5


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("spiral-3", "'spiral-3' is unknown"),
        ("winding-4", "is unknown"),
        ("winding-4-x", "is unknown"),
        ("circles-0", "above 0, below 2"),
        ("circles-2", "above 0, below 2"),
        ("circles-nan", "above 0, below 2"),
        ("winding-1.5-0.3", "whole number of loops"),
        ("winding-0-0.3", "whole number of loops"),
        ("winding-inf-0.3", "whole number of loops"),
        ("winding-4-1.6", "below pi/2"),
        ("coils-3.2-1-3", "below pi"),
        ("coils-0.3-1-2.5", "whole number of times"),
        ("coils-0.3-nan-2", "finite curvature of at least"),
        ("coils-0.3-inf-2", "finite curvature of at least"),
        ("coils-1-0.3-3", "finite curvature of at least"),
    ],
)
def test_what_cannot_be_is_refused(name, complaint):
    with pytest.raises(UserError, match=complaint):
        curves.named(name)
