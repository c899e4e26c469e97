"""The tangent kernel: tables entry by entry, closed forms, and Jacobians for the empirical one.

The tables were computed beforehand, by other code, from the formulas of lecture 4.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sop_jax.theory import curves, curves_training, relu_network, tangent_kernel

ANGLES = np.array([0, 0.1, 0.3, 0.7, 1.5, 2.5, np.pi])
KERNEL = {  # depth L: Theta/(nL/2) at ANGLES
    1: ("1", ".963", ".864", ".594", ".037", "-.164", "0"),
    2: ("1", ".948", ".827", ".554", ".120", "-.035", "0"),
    5: ("1", ".907", ".736", ".476", ".222", ".149", ".150"),
    20: ("1", ".749", ".512", ".353", ".279", ".264", ".263"),
}
DEPTHS = (1, 2, 5, 10, 25, 50, 125, 625)
EIGENVALUES = {  # lam_y/(n/2) at DEPTHS, '-' where none is printed
    "circles-0.1": ".0013 .0038 .012 .029 .093 .201 .441 1.008",
    "circles-0.3": ".011 .028 .071 .140 .316 .513 .825 1.418",
    "circles-1": ".125 .222 .385 .539 .800 1.040 1.397 2.070",
    "winding-1-0.3": "- .066 .147 .260 .485 .698 1.011 -",
    "winding-4-0.3": "- .0062 .033 .089 .225 .365 .573 -",
    "winding-10-0.3": "- .0007 .0043 .014 .054 .110 .207 -",
}


def last_digit(printed):
    """The unit of the last printed digit; of whole numbers, that of the tables, .001."""
    return 10.0 ** -len(printed.partition(".")[2]) if "." in printed else 1e-3


@pytest.mark.parametrize("depth", KERNEL)
def test_kernel_agrees_with_every_entry_of_the_table(depth):
    found = tangent_kernel.infinite_width(ANGLES, [depth])[0] / depth
    for value, printed in zip(found, KERNEL[depth], strict=True):
        assert abs(value - float(printed)) <= last_digit(printed), (depth, printed)


@pytest.mark.parametrize("name", EIGENVALUES)
def test_label_eigenvalue_agrees_with_every_entry_of_the_table(name):
    table = {
        depth: printed
        for depth, printed in zip(DEPTHS, EIGENVALUES[name].split(), strict=True)
        if printed != "-"
    }
    found = tangent_kernel.label_eigenvalue(curves.named(name), list(table))
    for value, (depth, printed) in zip(found, table.items(), strict=True):
        assert abs(value - float(printed)) <= last_digit(printed), (depth, printed)


def test_angle_map_at_angles_known_by_hand():
    # (1 - nu/pi) cos nu + sin(nu)/pi is 1 at 0, 1/pi at pi/2, 0 at pi
    np.testing.assert_allclose(
        tangent_kernel.angle_map([0, np.pi / 2, np.pi]),
        [0, np.arccos(1 / np.pi), np.pi / 2],
        atol=1e-15,
    )


def test_angle_map_is_what_a_wide_random_layer_does():
    x = jnp.stack([jnp.cos(jnp.array([0.0, 1.1])), jnp.sin(jnp.array([0.0, 1.1]))], axis=1)
    features = np.asarray(jax.nn.relu(x @ jax.random.normal(jax.random.key(0), (2, 50_000))))
    cosine = features[0] @ features[1] / np.linalg.norm(features[0]) / np.linalg.norm(features[1])
    assert np.arccos(cosine) == pytest.approx(float(tangent_kernel.angle_map(1.1)), abs=0.02)


def test_angles_shrink_like_three_pi_over_depth():
    nu = np.array(1.0)
    for _ in range(2000):
        nu, before = tangent_kernel.angle_map(nu), nu
        assert nu < before
    assert 2000 * nu == pytest.approx(3 * np.pi, rel=0.02)


def test_kernel_is_the_printed_sum_of_products():
    nu, depth = np.array([0.0, 0.4, 2.0]), 3
    phi = [nu, tangent_kernel.angle_map(nu), tangent_kernel.angle_map(tangent_kernel.angle_map(nu))]
    printed = sum(
        np.cos(phi[a]) * np.prod([1 - phi[b] / np.pi for b in range(a, depth)], axis=0)
        for a in range(depth)
    )
    one, three = tangent_kernel.infinite_width(nu, (1, 3))
    np.testing.assert_allclose(three, printed, rtol=1e-14)
    np.testing.assert_allclose(one, np.cos(nu) * (1 - nu / np.pi), rtol=1e-14)


def test_kernel_of_a_deep_network_tends_to_a_quarter_off_the_diagonal():
    diagonal, off = tangent_kernel.infinite_width(np.array([0.0, 1.0]), [20_000])[0]
    assert diagonal == 20_000
    assert off / diagonal == pytest.approx(0.25, abs=0.001)


@pytest.mark.parametrize("name", ["circles-0.3", "winding-4-0.3", "coils-0.3-1-3"])
def test_labels_are_an_eigenfunction(name):
    pair = curves.named(name)
    x, y = curves.labelled_grid(pair, 60)
    kernel = tangent_kernel.infinite_width(curves.angle(x[:, None], x), [2, 10]).mean(axis=0)
    image = kernel @ y / len(y)
    np.testing.assert_allclose(image, image[0] * y, atol=1e-12)
    dense = tangent_kernel.label_eigenvalue(pair, [2, 10]).mean()
    assert image[0] == pytest.approx(dense, rel=0.05)  # 60 points a curve against 4000


def test_quadrature_error_is_as_stated():
    pair = curves.named("circles-0.1")
    coarse, fine = (
        tangent_kernel.label_eigenvalue(pair, [125, 625], count) for count in (4000, 12_000)
    )
    assert abs(coarse[0] - fine[0]) < 5e-5 and abs(coarse[1] - fine[1]) < 1e-3


@pytest.mark.parametrize("depth", [1, 3])
def test_empirical_kernel_is_the_product_of_jacobians(depth):
    with jax.enable_x64(True):
        weights = [w.astype(jnp.float64) for w in relu_network.init(depth, 3, 12, depth)]
        x, other = jax.random.normal(jax.random.key(9), (2, 5, 3), jnp.float64)
        one, two = (jax.jacrev(relu_network.apply)(weights, points) for points in (x, other))
        layers = [np.einsum("iab,jab->ij", a, b) for a, b in zip(one, two, strict=True)]
        hidden, output = tangent_kernel.empirical(weights, x, other)
    np.testing.assert_allclose(hidden, sum(layers[:-1]), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(output, layers[-1], rtol=1e-12, atol=1e-12)


def test_empirical_kernels_concentrate_about_the_formula():
    x, depth, seeds = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1), 2, range(40)
    spread = []
    for width in (16, 256):
        arrays = curves_training.networks(x, depth=depth, width=width, seeds=seeds)
        ratio = arrays["hidden"] / (width * depth / 2)
        error = ratio.std(axis=0, ddof=1) / np.sqrt(len(seeds))
        bias = ratio.mean(axis=0) - tangent_kernel.infinite_width(ANGLES, [depth])[0] / depth
        assert np.all(np.abs(bias) < 4 * error + 1e-6)
        spread.append(ratio[:, 0].std(ddof=1))
    assert 2.2 < spread[0] / spread[1] < 7.3  # 4 = sqrt(256/16), give or take 40 seeds
    # L = 1 by hand: Theta = sum of n/2 or so squares of N(0, 1), relative s.d. sqrt(5/n)
    one = curves_training.networks(x[:1], depth=1, width=64, seeds=seeds)["hidden"][:, 0]
    assert one.std() / one.mean() == pytest.approx(np.sqrt(5 / 64), rel=0.4)


def test_the_network_and_the_output_layers_term_start_at_one():
    arrays = curves_training.networks(np.array([[0.6, 0.8]]), depth=3, width=64, seeds=range(300))
    assert np.mean(arrays["start"] ** 2) == pytest.approx(1, abs=0.4)
    assert arrays["output"].mean() == pytest.approx(1, abs=0.08)


def test_learning_rate_limit_is_two_over_the_largest_eigenvalue():
    weights = relu_network.init(0, 4, 32, 2)
    x = jnp.asarray(curves.labelled_sample(curves.named("winding-4-0.3"), 10, 0)[0], jnp.float32)
    hidden, output = tangent_kernel.empirical(weights, x, x)
    largest = np.linalg.eigvalsh(np.asarray(hidden + output, np.float64) / 20)[-1]
    assert tangent_kernel.learning_rate_limit(weights, x) == pytest.approx(2 / largest, rel=1e-9)
