"""What a method may rely on: each promise of methods/base.py, kept by the real step and loop."""

import json
import struct

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from sop_jax import methods
from sop_jax.checkpoint import Checkpoints
from sop_jax.config import default
from sop_jax.data.dataset import load_seeds
from sop_jax.experiment import build, resolve
from sop_jax.loop import train
from sop_jax.mesh import by_batch, fetch, make_mesh, put
from sop_jax.methods.base import Batch, LossOut, Method, batch_mean
from sop_jax.models.api import Model
from sop_jax.optimizer import make_optimizer, sgd
from sop_jax.state import init_state
from sop_jax.step import make_step
from sop_jax.table import gather, values
from sop_jax.workdir import Session

N, K, B, SHAPE = 12, 3, 4, (2, 2, 1)
LABELS = jnp.arange(N) % K


def _apply(params, mean, images, train):
    """Logits of images less a mean: the batch's own in training, else the running one."""
    inputs = images.reshape(len(images), -1)
    own = jnp.mean(inputs, axis=0, keepdims=True)
    logits = (inputs - (own if train else mean)) @ params["kernel"]
    return logits, (mean + own) / 2 if train else mean


def _init(key, shape):
    size = int(np.prod(shape))
    return {"kernel": jax.random.normal(key, (size, K))}, jnp.zeros((1, size))


MODEL = Model(
    init=_init,
    apply=_apply,
    features=lambda params, mean, images: images.reshape(len(images), -1) - mean,
    classifier=lambda params: (params["kernel"].T, jnp.zeros(K)),
)


def made(loss, num_steps=1, steps_per_epoch=2, **parts):
    """The states before and after each of some steps of the method with this loss."""
    method = Method(loss=loss, **parts)
    optimiser = make_optimizer(sgd(0.1, 0.9, 0.01), method.row_learning_rates, B)
    states = [init_state(jax.random.key(0), method, MODEL, optimiser, SHAPE, LABELS, K)]
    step = jax.jit(make_step(method, MODEL, optimiser, steps_per_epoch))
    for number in range(num_steps):
        states.append(step(states[-1], batch_of(number))[0])
    return states


def batch_of(number):
    images = 1 + jax.random.normal(jax.random.key(number), (B, 1, *SHAPE))
    index = (jnp.arange(B) + B * number) % N
    return Batch(images, LABELS[index], index, jnp.ones(B))


def sum_of(logits, **out):
    """A loss with a gradient, and what is handed back beside it."""
    return jnp.sum(logits**2) / B, LossOut(logits, **out)


def means(images):
    return jnp.mean(images.reshape(B, -1), axis=0, keepdims=True)


def test_batch_statistics_go_on_from_call_to_call():
    def loss(forward, batch, rows, shared, clock, key):
        first = forward(0, batch.image[:, 0])
        return sum_of(first + forward(0, 3 * batch.image[:, 0]))

    before, after = made(loss)
    mean = means(batch_of(0).image)
    expected = (mean / 2 + 3 * mean) / 2  # from 0, halfway to each call's mean
    np.testing.assert_allclose(after.model_state[0], expected, rtol=1e-5)
    np.testing.assert_array_equal(before.model_state[0], 0)


def test_evaluation_reads_the_running_statistics_and_leaves_them():
    def loss(forward, batch, rows, shared, clock, key):
        images = batch.image[:, 0]
        plain = forward(0, images)
        seen = {
            "evaluated": forward(0, images, train=False)[0, 0],
            "feature": forward.features(0, images)[0, 0],
        }
        return sum_of(plain, metrics=seen)

    before, after = made(loss, metrics=("evaluated", "feature"))
    image = batch_of(0).image[0].reshape(1, -1)
    mean = means(batch_of(0).image) / 2  # the call in training came first, and only it counts
    np.testing.assert_allclose(after.model_state[0], mean, rtol=1e-5)
    expected = ((image - mean) @ before.params[0]["kernel"])[0, 0]
    np.testing.assert_allclose(after.sums.metrics["evaluated"], expected, rtol=1e-4)
    np.testing.assert_allclose(after.sums.metrics["feature"], (image - mean)[0, 0], rtol=1e-5)


def test_the_clock_and_the_sums_of_metrics():
    """The sums start anew with each epoch; a key belongs to one step."""

    def loss(forward, batch, rows, shared, clock, key):
        now = {
            "epoch": clock.epoch.astype(jnp.float32),
            "progress": clock.progress,
            "draw": jax.random.uniform(key),
        }
        return sum_of(forward(0, batch.image[:, 0]), metrics=now)

    sums = [state.sums for state in made(loss, 4, metrics=("epoch", "progress", "draw"))]
    assert [float(s.metrics["epoch"]) for s in sums] == [0, 0, 0, 1, 2]
    assert [float(s.metrics["progress"]) for s in sums] == [0, 0, 0.5, 1, 2.5]
    draws = [float(sums[1].metrics["draw"]), float(sums[3].metrics["draw"])]
    draws += [float(sums[2].metrics["draw"]) - draws[0], float(sums[4].metrics["draw"]) - draws[1]]
    assert len({round(draw, 5) for draw in draws}) == 4


def test_rows_the_loss_computes_reach_the_table_and_trained_ones_are_trained():
    def loss(forward, batch, rows, shared, clock, key):
        value, _ = sum_of(logits := forward(0, batch.image[:, 0]))
        each = jnp.sum(rows["trained"], axis=-1)
        return value + batch_mean(each, batch.weight), LossOut(logits, {"seen": rows["seen"] + 1})

    _, after = made(
        loss,
        init_rows=lambda key, labels: {"seen": jnp.zeros((N, 1)), "trained": jnp.ones((N, 1))},
        row_learning_rates={"trained": 128.0},
        update_rows=lambda rows, out: {**rows, **out.rows},
    )
    rows = gather(after.table, jnp.arange(N))
    np.testing.assert_array_equal(rows["seen"][:, 0], [1] * B + [0] * (N - B))
    # the gradient is 1/B, the rate 128 at a batch of 128: a step of 1 whatever B
    np.testing.assert_allclose(rows["trained"][:, 0], [0] * B + [1] * (N - B), atol=1e-6)


def test_a_network_that_is_not_active_stands_still():
    """Neither weights nor decay, momentum nor batch statistics; the other one learns."""

    def loss(forward, batch, rows, shared, clock, key):
        logits = [forward(net, batch.image[:, 0]) for net in range(2)]
        return sum_of(logits[0] + 2 * logits[1])

    def active(clock):
        return jnp.stack([clock.epoch == 0, clock.epoch != 0])  # by turns, an epoch each

    states = made(loss, 4, num_nets=2, active=active)

    def of_net(state, net):
        momentum = [
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
            if jax.tree_util.keystr(path).endswith(f"['network'][{net}]['kernel']")
        ]
        assert len(momentum) == 1
        return state.params[net], momentum, state.model_state[net]

    for step, learns, rests in ((1, 0, 1), (2, 0, 1), (3, 1, 0), (4, 1, 0)):
        before, after = states[step - 1], states[step]
        chex.assert_trees_all_equal(of_net(after, rests), of_net(before, rests))
        for old, new in zip(of_net(before, learns), of_net(after, learns), strict=True):
            assert any(
                (a != b).any() for a, b in zip(*map(jax.tree.leaves, (old, new)), strict=True)
            )


@pytest.mark.parametrize(
    ("out", "parts", "message"),
    [
        ({"logits": None}, {}, "plain_view"),
        ({}, {"plain_view": False}, "plain_view"),
        ({"metrics": {"kept": jnp.float32(0)}}, {}, "metrics"),
        ({}, {"metrics": ("kept",)}, "metrics"),
    ],
)
def test_a_loss_that_breaks_its_methods_word_is_told(out, parts, message):
    def loss(forward, batch, rows, shared, clock, key):
        logits = forward(0, batch.image[:, 0])
        return jnp.sum(logits), LossOut(**{"logits": logits, **out})

    with pytest.raises(ValueError, match=message):
        made(loss, **parts)


PROBE = '''
"""A method that uses every part of the contract and writes down what it was given."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sop_jax.methods.base import LossOut, Method, batch_mean


def make(problem):
    """Cross-entropy of both streams; shared state is what `on_epoch_end` saw."""
    n, steps = problem.num_examples, problem.steps_per_epoch

    def loss(forward, batch, rows, shared, clock, key):
        logits = forward(0, batch.image[:, 0])
        each = optax.softmax_cross_entropy_with_integer_labels(logits, batch.label)
        out = LossOut(logits, {"visits": rows["visits"] + 1}, {"progress": clock.progress})
        return batch_mean(each, batch.weight), out

    def init_rows(key, labels):
        size = labels.shape[0]
        return {
            "visits": jnp.zeros((size, 1)),
            "half": jnp.full((size, 1), 0.5, jnp.bfloat16),
            "scored": jnp.full((size, 2), -1.0),
        }

    def score(forward, images, labels):
        certain = jax.nn.log_softmax(forward(0, images))
        own = jnp.take_along_axis(certain, labels[:, None], axis=1)
        return {"scored": jnp.concatenate([own, labels[:, None].astype(jnp.float32)], axis=1)}

    def on_epoch_end(epoch):
        assert {leaf.shape[0] for leaf in epoch.rows.values()} == {n} == {epoch.label.shape[0]}
        right = epoch.rows["scored"][:, 1] == epoch.label.astype(jnp.float32)
        seen = {
            "half": jnp.mean(epoch.rows["half"]),
            "scored": jnp.mean(right.astype(jnp.float32)),
            "visits": jnp.sum(epoch.rows["visits"]),
            "number": epoch.number,
            "draw": jax.random.uniform(epoch.key),
            "ends": epoch.shared["ends"] + 1,
        }
        return {**epoch.rows, "half": epoch.rows["half"] / 2}, seen

    def plan(rng, epoch, rows, shared):
        """Half of the rows, the least visited first, in two streams of different rows."""
        order = np.lexsort([rng.random(n), np.asarray(rows["visits"])[:, 0]])
        half = problem.num_examples // 2
        positions = np.full((steps, 2 * B), -1)
        for stream, own in enumerate((order[:half], order[half:])):
            own = own[: steps * B - 3]  # the last batch is padded
            part = np.full(steps * B, -1)
            part[: len(own)] = own
            positions[:, stream * B : (stream + 1) * B] = part.reshape(steps, B)
        return positions

    def halved(transform, steps_per_epoch):
        assert steps_per_epoch == steps
        return optax.chain(transform, optax.scale(0.5))

    return Method(
        loss=loss,
        init_rows=init_rows,
        init_shared=lambda: {
            **{name: jnp.float32(0) for name in ("half", "scored", "visits", "draw")},
            "number": jnp.int32(-1),
            "ends": jnp.int32(0),
        },
        update_rows=lambda rows, out: {**rows, **out.rows},
        score=score,
        on_epoch_end=on_epoch_end,
        network_transform=halved,
        plan=plan,
        streams=2,
        metrics=("progress",),
    )


B = 32
'''


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """The experiment of a method in a file of its own: 180 training rows of 200, 6 steps."""
    folder = tmp_path_factory.mktemp("methods")
    (folder / "probe.py").write_text(PROBE)
    methods.__path__.append(str(folder))
    config = default()
    config.update(epochs=2, batch_size=32)
    config.data.update(train_limit=200, validation_fraction=0.1)
    config.augment.update(crop_padding=1, flip=False)
    config.model.width = 4
    config.method.name = "probe"
    dataset = load_seeds([config])[0][0]
    config, notes = resolve(config, dataset)
    assert notes == []
    yield build(config, dataset, make_mesh())
    methods.__path__.remove(str(folder))


class Nothing:
    """An evaluation that measures nothing."""

    keys = ()

    def __call__(self, state):
        return {}


def scalars(events, tag):
    """The values of one tag in a TensorBoard file: records of length (8 bytes), crc, event, crc."""
    found, place = [], 0
    while place < len(events):
        (length,) = struct.unpack_from("<Q", events, place)
        event = Event.FromString(events[place + 12 : place + 12 + length])
        found += [value.simple_value for value in event.summary.value if value.tag == tag]
        place += length + 16
    return found


def run_steps(experiment, state, resident, example, index):
    """The state after the steps of example, index [S, streams * B]."""
    sharding = by_batch(experiment.mesh)
    for own in range(len(example)):
        part = slice(own, own + 1)
        placed = (put(array[part], sharding) for array in (example, index))
        state, _ = experiment.programs(state, resident, *placed)
    return state


def test_an_epoch_of_a_method_that_uses_everything(probe, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    session = Session(tmp_path, probe.config)
    outcome = train(probe, probe.resident(), session, checkpoints, Nothing(), quiet=True)
    checkpoints.close()
    assert outcome.finished
    state, rows = fetch(outcome.state._replace(key=())), probe.dataset.train_index
    assert len(rows) == 180

    # bfloat16 rows are numbers: 0.5 and, halved at the first end, 0.25; not the bits 16128
    assert state.shared["half"] == 0.25
    assert state.shared["scored"] == 1.0  # the pass came first, with the given labels
    assert state.shared["number"] == 1 and state.shared["ends"] == 2
    table = {name: np.asarray(leaf) for name, leaf in values(state.table).items()}
    outside = np.setdiff1d(np.arange(256), rows)
    np.testing.assert_array_equal(table["half"][rows], 0.125)
    held_out = outside[outside < 200]
    assert len(held_out) == 20
    np.testing.assert_array_equal(table["half"][held_out], 0.5)
    np.testing.assert_array_equal(table["scored"][held_out], -1)
    np.testing.assert_array_equal(table["visits"][outside], 0)
    # each epoch 2 streams of 90 rows, all of the 180
    np.testing.assert_array_equal(table["visits"][rows], 2)
    assert state.shared["visits"] == 360
    np.testing.assert_array_equal(table["scored"][rows, 1], probe.dataset.train.labels[rows])
    # and the score is the log-probability of the plain image in evaluation mode
    resident = probe.resident()
    probs = probe.predict(outcome.state.params, outcome.state.model_state, resident.images, rows)
    expected = np.log(probs[np.arange(180), probe.dataset.train.labels[rows]])
    np.testing.assert_allclose(table["scored"][rows, 0], expected, rtol=1e-4, atol=1e-5)

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line)["progress"] for line in lines]
    np.testing.assert_allclose(found, [2.5 / 6, 1 + 2.5 / 6], rtol=1e-6)
    (events,) = (tmp_path / "tensorboard").iterdir()
    np.testing.assert_allclose(scalars(events.read_bytes(), "progress"), found, rtol=1e-6)


def test_a_plan_outlives_a_stop_inside_the_epoch(probe, tmp_path):
    """Made anew from the rows of the stopped epoch it would be another plan."""
    resident = probe.resident()
    start, example, index = probe.plan(probe.init(), 0)
    assert index.shape == (6, 64)
    half = run_steps(probe, start, resident, example[:3], index[:3])
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(half, {})
    checkpoints.close()
    whole = run_steps(probe, half, resident, example[3:], index[3:])

    checkpoints = Checkpoints(tmp_path)
    restored, _ = checkpoints.restore(probe.abstract)
    checkpoints.close()
    same, example_again, index_again = probe.plan(restored, 0)
    np.testing.assert_array_equal(index_again, index)
    np.testing.assert_array_equal(example_again, example)
    resumed = run_steps(probe, same, resident, example_again[3:], index_again[3:])
    chex.assert_trees_all_equal(fetch(resumed._replace(key=())), fetch(whole._replace(key=())))


def test_the_network_transform_is_in_the_optimiser(probe):
    """The update is half of what the configured optimiser alone would do."""
    resident = probe.resident()
    state, example, index = probe.plan(probe.init(), 0)
    before = fetch(state.params[0])
    after = run_steps(probe, state, resident, example[:1], index[:1])
    momentum = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(fetch(after.opt_state))
        if ".trace" in jax.tree_util.keystr(path)
    ]
    rate, kernels = probe.config.optimizer.learning_rate, jax.tree.leaves(before)
    expected = [old - 0.5 * rate * moved for old, moved in zip(kernels, momentum, strict=True)]
    chex.assert_trees_all_close(jax.tree.leaves(fetch(after.params[0])), expected, atol=1e-6)
