"""Every test example counts once, whatever the batch size."""

import jax
import jax.numpy as jnp
import numpy as np
from test_step import model_of

from sop_jax import evaluate
from sop_jax.mesh import make_mesh, put, replicated
from sop_jax.state import flat


def test_predictions_cover_every_row_in_order():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (53, 4, 4, 1), dtype=np.uint8)
    weights = jnp.asarray(rng.normal(size=(16, 3)), jnp.float32)

    def apply(params, model_state, x, train):
        assert train is False
        return x.reshape(x.shape[0], -1) @ params, model_state

    index = rng.permutation(53)[:41]
    inputs = (images[index].reshape(41, -1) / 255 - 0.5) / 0.25
    expected = np.asarray(jax.nn.softmax(jnp.asarray(inputs, jnp.float32) @ weights))
    for batch_size in (8, 24, 64):
        predict = evaluate.make_predict(
            model_of(apply), (4, 4, 1), (0.5,), (0.25,), make_mesh(), batch_size
        )
        got = predict((weights,), ((),), put(flat(images), replicated(make_mesh())), index)
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_two_networks_are_averaged():
    images = np.zeros((8, 2, 2, 1), np.uint8)

    def apply(params, model_state, x, train):
        return jnp.broadcast_to(params, (x.shape[0], 2)), model_state

    predict = evaluate.make_predict(model_of(apply), (2, 2, 1), (0.0,), (1.0,), make_mesh(), 8)
    logits = (jnp.array([0.0, 0.0]), jnp.array([0.0, jnp.log(3.0)]))
    got = predict(logits, ((), ()), jnp.asarray(flat(images)), np.arange(8))
    np.testing.assert_allclose(
        got, np.tile([(0.5 + 0.25) / 2, (0.5 + 0.75) / 2], (8, 1)), rtol=1e-5
    )


def test_accuracies_by_hand():
    probs = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.1, 0.2, 0.7]])
    labels = np.array([0, 2, 0, 1])
    assert evaluate.accuracy(probs, labels) == 0.5  # a tie goes to the first class
    assert evaluate.accuracy(probs, labels, top=2) == 1.0
    assert evaluate.accuracy_per_class(probs, labels) == [1.0, 0.0, 0.0]
    assert evaluate.accuracy_per_class(probs[:2], labels[:2]) == [1.0, None, 0.0]
