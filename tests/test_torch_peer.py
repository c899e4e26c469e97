"""The benchmark's PyTorch peer computes what ours does: losses, gradients, row updates, nets."""

import collections
import importlib.util
import pathlib
import sys

import jax
import numpy as np
import optax
import pytest
from conftest import assert_match

from sop_jax.models import api

torch = pytest.importorskip("torch", reason="pip install torch==2.13.0 to check the peer")

PATH = pathlib.Path(__file__).parents[1] / "benchmarks" / "torch_peer.py"
spec = importlib.util.spec_from_file_location("torch_peer", PATH)
# dataclasses look their module up by name
peer = sys.modules["torch_peer"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peer)
torch.set_num_threads(1)  # at these sizes threads only wait for one another

GOLDEN = [f"{method}_{size}" for method in ("sop", "sop_plus") for size in ("tiny", "mid", "wide")]


def loss_of(g, logits, u_rows, v_rows):
    """The golden file's loss, with u and v given as the batch's rows."""
    loss = peer.sop_plus_loss if len(logits) == 2 * len(g["labels"]) else peer.sop_loss
    targets = torch.eye(10, dtype=torch.float64)[g["labels"]]
    return loss(*logits.split(len(targets)), targets, u_rows, v_rows)


@pytest.mark.parametrize("name", GOLDEN)
def test_losses_and_dense_update_match_the_published_code(golden, name):
    g = golden(name)
    logits, u, v = (torch.nn.Parameter(torch.tensor(g[key])) for key in ("logits", "u", "v"))
    loss = loss_of(g, logits, u[g["index"]], v[g["index"]])
    loss.backward()
    assert_match(loss.detach(), g["loss"], 1e-10)
    for actual, key in ((logits, "d_logits"), (u, "d_u"), (v, "d_v")):
        assert_match(actual.grad, g[key], 1e-10)
    peer.dense_optimizer(u, v, 10.0, 10.0).step()
    assert_match(u.detach(), g["u_after_lr10_10"], 1e-10)
    assert_match(v.detach(), g["v_after_lr10_10"], 1e-10)


@pytest.mark.parametrize("name", GOLDEN)
def test_sparse_update_matches_the_published_code(golden, name):
    g = golden(name)
    logits, u, v, index = (torch.tensor(g[key]) for key in ("logits", "u", "v", "index"))
    rows = [table[index].requires_grad_() for table in (u, v)]
    gradients = torch.autograd.grad(loss_of(g, logits, *rows), rows)
    for table, gradient, rate in zip((u, v), gradients, (1, 100), strict=True):
        peer.update_rows(table, index, gradient, rate)
    assert_match(u, g["u_after_lr1_100"], 1e-10)
    assert_match(v, g["v_after_lr1_100"], 1e-10)


@pytest.mark.parametrize("name, count", [("preact_resnet18", 11_171_274), ("resnet34", 21_282_122)])
def test_published_parameter_counts(name, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in peer.make_network(name, 3, 10).parameters()) == count


def copy_layers(layers, params):
    """Fills torch layers from flax parameters: in a block both number those of a kind alike."""
    flax_name = {
        torch.nn.Conv2d: "Conv",
        torch.nn.BatchNorm2d: "BatchNorm",
        torch.nn.Linear: "Dense",
    }
    axes = {"Conv": (3, 2, 0, 1), "BatchNorm": (0,), "Dense": (1, 0)}
    seen = collections.Counter()
    for name, layer in (
        (flax_name[type(layer)], layer) for layer in layers if type(layer) in flax_name
    ):
        values = params[f"{name}_{seen[name]}"]
        seen[name] += 1
        weight = values["scale" if name == "BatchNorm" else "kernel"]
        layer.weight.data = torch.tensor(np.transpose(weight, axes[name]))
        if layer.bias is not None:
            layer.bias.data = torch.tensor(np.asarray(values["bias"]))
    return sum(seen.values())


@pytest.mark.parametrize(
    "name, activation",
    [("small_resnet", "silu"), ("small_resnet", "relu"), ("preact_resnet18", "silu")],
)
def test_network_is_ours(name, activation):
    """The first step's CE, batch-norm in training mode, with the same random parameters."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(4, 8, 8, 3)).astype(np.float32), rng.integers(0, 10, 4)
    ours = api.find(name, 10, width=8, activation=activation)
    # compiling `init` is slow
    shapes = jax.eval_shape(lambda key: ours.init(key, (8, 8, 3)), jax.random.key(0))
    params, model_state = jax.tree.map(
        lambda x: rng.uniform(-0.5, 1, x.shape).astype(np.float32), shapes
    )

    def cross_entropy(params):
        logits, _ = ours.apply(params, model_state, images, True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss = jax.jit(cross_entropy, compiler_options={"xla_backend_optimization_level": 0})(params)
    network = peer.make_network(name, 3, 10, width=8, activation=activation)
    copied = copy_layers([network.stem, network.norm, network.head], params)
    for i, block in enumerate(network.blocks):
        copied += copy_layers(block.modules(), params[f"{type(block).__name__}_{i}"])
    assert copied == sum(
        x.ndim > 1 or "scale" in str(path) for path, x in jax.tree.leaves_with_path(params)
    )
    theirs = peer.ce_loss(network(torch.tensor(images).permute(0, 3, 1, 2)), torch.tensor(labels))
    np.testing.assert_allclose(theirs.detach(), loss, rtol=1e-4)


def run(method, variant, steps=3):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 16, 16, 3), np.uint8), rng.integers(0, 5, 40)
    step = peer.make_step(method, "small_resnet", variant, images, labels, 5, 16, "cpu", width=4)
    return [float(step()) for _ in range(steps)]


@pytest.mark.parametrize("method", ["ce", "sop", "sop_plus"])
def test_ways_to_run_agree(method):
    """One seed gives one start and the same batches: NCHW + dense and NHWC + sparse rows agree."""
    plain = run(method, "plain")
    assert np.all(np.isfinite(plain)) and len(set(plain)) == 3
    np.testing.assert_allclose(run(method, "channels_last"), plain, rtol=1e-4)
    peer.synchronise("cpu")


def test_network_and_rows_learn():
    losses = run("sop", "channels_last", steps=40)
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


@pytest.mark.slow
@pytest.mark.skipif(
    "compiled" not in peer.variants("cpu"), reason="torch.compile needs a C++ compiler"
)
@pytest.mark.parametrize("method", ["ce", "sop", "sop_plus"])
def test_compiled_step_runs(method):
    """It draws other numbers than the eager one, so only its range is checked."""
    compiled, plain = run(method, "compiled", steps=10), run(method, "plain", steps=10)
    assert len(set(compiled)) == 10
    np.testing.assert_allclose(np.mean(compiled), np.mean(plain), rtol=0.1)


@pytest.mark.parametrize("channels_last", [False, True])
def test_views_are_crops_flips_and_cutout(channels_last):
    """A weak view is shifted, perhaps mirrored, padded with black; strong ones have a 0 square."""
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (6, 16, 16, 3), np.uint8)
    network = peer.make_network("small_resnet", 3, 5, width=4)
    objective = peer.Objective("sop_plus", network, images, np.zeros(6), channels_last)
    torch.manual_seed(0)
    views = objective.views(torch.arange(6))
    assert views.shape == (12, 3, 16, 16)
    assert views.is_contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    pixels = ((views.permute(0, 2, 3, 1) - objective.shift) / objective.scale).numpy()
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    for i, view in enumerate(pixels):
        crops = [
            padded[i % 6, y : y + 16, x : x + 16][:, ::s]
            for y in range(9)
            for x in range(9)
            for s in (1, -1)
        ]
        zeroed = np.all(views[i].numpy() == 0, axis=0)[..., None]
        assert zeroed.any() == (i >= 6)
        assert any(
            np.allclose(np.where(zeroed, 0, view), np.where(zeroed, 0, crop), atol=1e-2)
            for crop in crops
        )
