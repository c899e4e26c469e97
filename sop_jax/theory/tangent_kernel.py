"""Neural tangent kernel of `relu_network`: at infinite width, at width n, on a pair of curves.

Source: lecture 4 of the ICASSP 2022 short course (Buchanan & Zhu); Buchanan, Gilboa, Wright 2021
(arXiv 2008.11245).

Theta(x, x') = <df(x)/dW, df(x')/dW> is a sum over the layers. The printed formula has the L hidden
layers only; the output layer's own term <a^L(x), a^L(x')> ~ cos phi^L is left out of it (1 against
nL/2 on the diagonal). Here every function says which it returns: `infinite_width` and 'hidden' of
`empirical` are comparable with one another; the kernel that training sees is 'hidden' + 'output'.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import eigsh

from sop_jax.theory import curves, relu_network
from sop_jax.theory.curves import Curve, Pair


def angle_map(nu: np.ndarray) -> np.ndarray:
    """phi(nu) = arccos((1 - nu/pi) cos nu + sin(nu)/pi), behind one wide random ReLU layer, rad."""
    nu = np.asarray(nu, np.float64)
    return np.arccos(np.clip((1 - nu / np.pi) * np.cos(nu) + np.sin(nu) / np.pi, -1, 1))


def infinite_width(nu: np.ndarray, depths: Sequence[int]) -> np.ndarray:
    """Theta/(n/2) of the hidden layers as n grows, float64 [len(depths), *nu.shape], nu in radians.

    sum_{l=0}^{L-1} cos(phi^l nu) prod_{l'=l}^{L-1} (1 - phi^{l'} nu/pi), built up by
    T_{L+1} = (T_L + cos phi^L)(1 - phi^L/pi) from T_0 = 0, which passes through every depth.
    """
    at_depth, phi = {}, np.asarray(nu, np.float64)
    total = np.zeros_like(phi)
    for depth in range(1, max(depths) + 1):
        total = (total + np.cos(phi)) * (1 - phi / np.pi)
        phi = angle_map(phi)
        at_depth[depth] = total
    return np.stack([at_depth[depth] for depth in depths])


def label_eigenvalue(pair: Pair, depths: Sequence[int], count: int = 4000) -> np.ndarray:
    """lam_y/(n/2), float64 [len(depths)]: the labels' eigenvalue under Theta averaged over M.

    A rotation moves both curves along themselves, so (Theta y)(x) = lam_y y(x) with the same lam_y
    for all x: half the difference of the kernel's means over x's own curve and over the other, each
    of `count` equispaced points. The function -y/lam_y is a certificate for the labels; its norm is
    1/lam_y (in units of 2/n). 4000 points leave an error of .001 at L = 625, where the kernel's
    peak is narrowest, and of less than 5e-5 up to L = 125.
    """
    x = curves.points(pair.plus, np.zeros(1))

    def mean_over(curve: Curve) -> np.ndarray:
        return infinite_width(curves.angle(x, curves.grid(curve, count)), depths).mean(axis=1)

    return (mean_over(pair.plus) - mean_over(pair.minus)) / 2


@jax.jit
def empirical(
    weights: relu_network.Weights, x: jax.Array, other: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Theta(x_i, other_j) of this network: (hidden, output), each [n, m].

    The parts are over the hidden layers' weights and over the output's. No Jacobian is formed: a
    layer's part is <a^{l-1}, a'^{l-1}> <b^l, b'^l>, with activations a and b^l the gradient of f
    with respect to the layer's pre-activations.
    """
    layers, other_layers = _signals(weights, x), _signals(weights, other)
    hidden = jnp.zeros((len(x), len(other)), x.dtype)
    for (a, b), (a2, b2) in zip(layers[:-1], other_layers[:-1], strict=True):
        hidden = hidden + (a @ a2.T) * (b @ b2.T)
    return hidden, layers[-1][0] @ other_layers[-1][0].T


def _signals(weights: relu_network.Weights, x: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Of each layer (its input [n, in], the gradient of f at its pre-activations [n, out])."""
    inputs = [x]
    for weight in weights[:-1]:
        inputs.append(jax.nn.relu(inputs[-1] @ weight))
    gradient = jnp.ones((len(x), 1), x.dtype)
    signals = [(inputs[-1], gradient)]
    for below, above, weight in zip(inputs[-2::-1], inputs[:0:-1], weights[:0:-1], strict=True):
        gradient = jnp.where(above > 0, gradient @ weight.T, 0)
        signals.insert(0, (below, gradient))
    return signals


def learning_rate_limit(weights: relu_network.Weights, x: jax.Array) -> float:
    """2/lam_max, above which descent on the mean loss over x [N, d] grows.

    lam_max is that of the whole kernel over N.
    """
    hidden, output = empirical(weights, x, x)
    kernel = np.asarray(hidden + output, np.float64)
    largest = eigsh(kernel, k=1, v0=np.ones(len(x)), return_eigenvectors=False)
    return float(2 * len(x) / largest[0])
