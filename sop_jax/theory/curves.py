"""Pairs of closed curves on the unit sphere, one a class, and what makes them hard to tell apart.

Source: lecture 4 of the ICASSP 2022 short course (Buchanan & Zhu), "Intrinsic Structural
Properties"; Wang, Buchanan, Gilboa, Wright 2021 (arXiv 2107.14324). The geometry is measured on
sampled points and knows nothing of the families.

Every curve here is an orbit of rotations: x(t) = (r_1 e^{i k_1 t}, r_2 e^{i k_2 t}, ...,
constants), complex numbers written as pairs. Both curves of a pair turn alike, so one rotation
moves both along themselves.
"""

from typing import NamedTuple

import numpy as np

from sop_jax.errors import UserError

# cos of the angle between coils and their windings: all returns pass at < R/2, see `coils`
COIL_SLOPE = 0.2
STARTS = 16  # points from which the loop number's supremum is taken


class Curve(NamedTuple):
    """x(t): circle j has radius `radii[j]`, run through `turns[j]` times; then the constants."""

    radii: tuple[float, ...]
    turns: tuple[int, ...]
    rest: tuple[float, ...] = ()


class Pair(NamedTuple):
    """The curves M+ (label 1) and M- (label -1)."""

    plus: Curve
    minus: Curve


def points(curve: Curve, t: np.ndarray) -> np.ndarray:
    """float64 [n, 2*circles + constants], of norm 1, for parameters t [n] in radians."""
    angles = np.asarray(t, np.float64)[:, None] * np.array(curve.turns)
    circles = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * np.array(curve.radii)[:, None]
    rest = np.broadcast_to(curve.rest, (len(angles), len(curve.rest)))
    return np.concatenate([circles.reshape(len(angles), -1), rest], axis=1)


def grid(curve: Curve, count: int) -> np.ndarray:
    """float64 [count, dimension]: points equispaced in t, so in arc length, from half a step on."""
    return points(curve, 2 * np.pi * (np.arange(count) + 0.5) / count)


def labelled_grid(pair: Pair, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(points [2*count, dimension], labels +-1 [2*count]): `grid` of M+, then that of M-."""
    x = np.concatenate([grid(pair.plus, count), grid(pair.minus, count)])
    return x, np.repeat([1.0, -1.0], count)


def labelled_sample(pair: Pair, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(points [2*count, dimension], labels +-1 [2*count]), independent and uniform in t.

    `count` points of M+, then as many of M-.
    """
    t = np.random.default_rng(seed).uniform(0, 2 * np.pi, (2, count))
    x = np.concatenate([points(pair.plus, t[0]), points(pair.minus, t[1])])
    return x, np.repeat([1.0, -1.0], count)


def circles(distance: float) -> Pair:
    """Coaxial circles at heights +-distance/2, `distance` apart in space (0 < distance < 2).

    Raises:
      UserError: no such circles on the sphere.
    """
    if not 0 < distance < 2:
        raise UserError(
            f"circles {distance:g} apart do not exist on the unit sphere: the distance is "
            "above 0, below 2"
        )
    height = distance / 2
    radius = np.sqrt(1 - height**2)
    return Pair(Curve((radius,), (1,), (height,)), Curve((radius,), (1,), (-height,)))


def winding(loops: int, tilt: float) -> Pair:
    """(cos d e^{it}, +-sin d e^{imt}) on S^3: two strands wound about a great circle.

    m = loops, d = tilt in radians.

    Raises:
      UserError: loops not a whole number >= 1, or tilt outside (0, pi/2), where the curves would
        meet.
    """
    if not (loops >= 1 and loops % 1 == 0 and 0 < tilt < np.pi / 2):
        raise UserError(
            "winding curves need a whole number of loops >= 1 and a tilt above 0 and below pi/2, "
            f"not {loops:g} and {tilt:g}"
        )
    turns = (1, int(loops))
    return Pair(
        Curve((np.cos(tilt), np.sin(tilt)), turns), Curve((np.cos(tilt), -np.sin(tilt)), turns)
    )


def coils(separation: float, curvature: float, returns: int) -> Pair:
    """Two parallel coils of the given separation (an angle), curvature and number of near-returns.

    x(t) = (rho cos d e^{it}, rho sin d e^{imt}, sqrt(1 - rho^2 - h^2), +-h) with m = returns + 1.
    The heights make the separation 2 arcsin h. Strands of one coil pass each other at
    2 rho cos d sin(pi k/m), below half the radius of curvature R = 1/sqrt(1 + kappa^2) for
    cos d = 1/5, so that `near_returns` counts them all. What is left, rho, sets the curvature:
    1 + kappa^2 = f/rho^2 with f = (cos^2 d + m^4 sin^2 d)/(cos^2 d + m^2 sin^2 d)^2.

    Raises:
      UserError: separation outside (0, pi), a negative or broken number of returns, or less
        curvature than two curves so far apart must have.
    """
    if not 0 < separation < np.pi:
        raise UserError(
            f"coils cannot be {separation:g} apart: the separation is an angle above 0, below pi"
        )
    if not (returns >= 0 and returns % 1 == 0):
        raise UserError(f"coils come back a whole number of times, 0 or more, not {returns:g}")
    height, loops = np.sin(separation / 2), int(returns) + 1
    cos_d = COIL_SLOPE if returns else 0.0  # without returns a plain circle
    sin_d = np.sqrt(1 - cos_d**2)
    factor = (cos_d**2 + loops**4 * sin_d**2) / (cos_d**2 + loops**2 * sin_d**2) ** 2
    rho = np.sqrt(factor / (1 + curvature**2))
    if not (curvature >= 0 and 0 < rho**2 <= 1 - height**2):
        least = np.sqrt(factor / (1 - height**2) - 1)
        raise UserError(
            f"coils {separation:g} apart with {returns:g} returns have a finite curvature of at "
            f"least {least:.4g}, not {curvature:g}"
        )
    radii, turns, level = (rho * cos_d, rho * sin_d), (1, loops), np.sqrt(1 - rho**2 - height**2)
    return Pair(Curve(radii, turns, (level, height)), Curve(radii, turns, (level, -height)))


# Each with how many numbers it takes.
FAMILIES = {"circles": (circles, 1), "winding": (winding, 2), "coils": (coils, 3)}


def named(name: str) -> Pair:
    """The pair of a name, a family and its numbers.

    'circles-0.3' (distance), 'winding-4-0.3' (loops, tilt) and 'coils-0.3-1-3' (separation,
    curvature, near-returns) are examples.

    Raises:
      UserError: an unknown name, or numbers outside of what the family allows.
    """
    family, *numbers = name.split("-")
    try:
        make, count = FAMILIES[family]
        values = [float(number) for number in numbers]
        if len(values) != count:
            raise ValueError(name)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"curve {name!r} is unknown; the names are circles-DISTANCE, winding-LOOPS-TILT and "
            "coils-SEPARATION-CURVATURE-RETURNS, such as winding-4-0.3"
        ) from error
    return make(*values)


def angle(x: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Angle in radians between unit vectors along the last axis, accurate where small (Kahan)."""
    return 2 * np.arctan2(np.linalg.norm(x - other, axis=-1), np.linalg.norm(x + other, axis=-1))


def separation(plus: np.ndarray, minus: np.ndarray) -> float:
    """Delta: smallest angle in radians between a point of `plus` [n, d] and one of `minus` [m, d].

    On grids it is that of the curves from above, up to a term in the squared step.
    """
    return float(min(angle(x, minus).min() for x in plus))


def curvature(samples: np.ndarray) -> float:
    """kappa = sup ||P_perp(x) x''|| in unit speed, of one closed curve on the sphere.

    `samples` [n, d] are equispaced in a smooth parameter. Derivatives by Fourier series: exact for
    a trigonometric polynomial of degree below n/2.
    """
    first, second = _derivative(samples), _derivative(_derivative(samples))
    speed = np.linalg.norm(first, axis=1, keepdims=True)
    tangent = first / speed
    bent = (second - np.sum(second * tangent, axis=1, keepdims=True) * tangent) / speed**2
    bent -= np.sum(bent * samples, axis=1, keepdims=True) * samples
    return float(np.linalg.norm(bent, axis=1).max())


def near_returns(own: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """How often the set comes back to a point of `own` [n, d]: on itself, and on `other` [m, d].

    Their sum is the loop number of the union of both, seen from `own` (Wang et al. 2021): sup over
    x of the number of intrinsic balls of radius R = 1/sqrt(1 + kappa^2) that cover the points
    closer than tau_2 in angle and farther than tau_1 along the curve (the other curve is infinitely
    far). The sources leave tau_1 and tau_2 free; ours are R and R/2: by Schur's theorem a curve of
    curvature kappa gets closer than R/2 again only more than pi R later, so what is counted has
    truly come back.
    """
    radius = 1 / np.sqrt(1 + max(curvature(own), curvature(other)) ** 2)
    length, position = _arc_length(own)
    other_length, other_position = _arc_length(other)
    most = (0, 0)
    for i in range(0, len(own), -(-len(own) // STARTS)):
        along = np.abs(position - position[i])
        far = np.minimum(along, length - along) > radius
        back = _cover(position[far & (angle(own[i], own) < radius / 2)], length, radius)
        across = _cover(other_position[angle(own[i], other) < radius / 2], other_length, radius)
        most = max(most, (back, across), key=sum)
    return most


def _derivative(samples: np.ndarray) -> np.ndarray:
    frequencies = np.fft.rfftfreq(len(samples), 1 / len(samples))[:, None]
    return np.fft.irfft(1j * frequencies * np.fft.rfft(samples, axis=0), len(samples), axis=0)


def _arc_length(samples: np.ndarray) -> tuple[float, np.ndarray]:
    """(length of the closed curve, position of each point along it)."""
    steps = angle(samples, np.roll(samples, -1, axis=0))
    return steps.sum(), np.concatenate([[0.0], np.cumsum(steps)[:-1]])


def _cover(positions: np.ndarray, length: float, radius: float) -> int:
    """Number of arcs of `2*radius` that cover these ascending positions on a circle of that length.

    Greedy from behind the widest gap, which is the fewest wherever that gap is wider than an arc.
    """
    if len(positions) == 0:
        return 0
    gaps = np.diff(positions, append=positions[0] + length)
    start = (int(np.argmax(gaps)) + 1) % len(positions)
    balls, covered = 0, -1.0
    for position in np.sort((positions - positions[start]) % length):
        if position > covered:
            balls, covered = balls + 1, position + 2 * radius
    return balls
