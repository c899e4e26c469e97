"""Accuracy over every test example, and how well the ranking of labels finds the wrong ones.

The only module, with `label_issues.py`, that sees true labels.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from sop_jax import compiler, optimizer
from sop_jax import mesh as meshes
from sop_jax.data.augment import normalise
from sop_jax.step import TrainState


def make_predict(apply: Callable, mean: tuple, std: tuple, mesh: Mesh, batch_size: int) -> Callable:
    """Returns predict(params, model_state, images uint8 [M,H,W,C] replicated, rows int32 [R]) -> probs float32 [R, K].

    Probabilities are the mean over the networks of the softmax in evaluation mode, on the plain images. The last batch
    is padded and cut again on the host, so no example is dropped or counted twice.
    """
    rows_sharding = meshes.rows(mesh)

    @functools.partial(jax.jit, compiler_options=compiler.options_for_steps())
    def predict_batch(params, model_state, images, index):
        inputs = normalise(images[index], mean, std)
        logits = [apply(p, s, inputs, False)[0] for p, s in zip(params, model_state, strict=True)]
        probs = sum(jax.nn.softmax(z) for z in logits) / len(logits)
        return jax.lax.with_sharding_constraint(probs, meshes.replicated(mesh))

    def predict(params: tuple, model_state: tuple, images: jax.Array, rows: np.ndarray) -> np.ndarray:
        padded = np.resize(rows, -(-len(rows) // batch_size) * batch_size).astype(np.int32)
        batches = [predict_batch(params, model_state, images, meshes.put(index, rows_sharding))
                   for index in padded.reshape(-1, batch_size)]
        return np.concatenate([np.asarray(b) for b in batches])[: len(rows)]

    return predict


def evaluation_params(state: TrainState) -> tuple:
    """The network parameters that predictions are made with: the averaged ones where optimizer.ema keeps them.

    Batch statistics are no parameters: the running ones of `state.model_state` go with either.
    """
    return optimizer.averaged(state.opt_state, state.params)


def accuracy(probs: np.ndarray, labels: np.ndarray, top: int = 1) -> float:
    """Share of rows whose label is among the `top` most probable classes; probs [M, K], labels [M]."""
    best = np.argsort(-probs, axis=-1, kind="stable")[:, :top]
    return float(np.mean(np.any(best == labels[:, None], axis=-1)))


def accuracy_per_class(probs: np.ndarray, labels: np.ndarray) -> list[float | None]:
    """Accuracy of each of the K classes; None for a class without examples."""
    correct = probs.argmax(-1) == labels
    return [float(correct[labels == k].mean()) if np.any(labels == k) else None for k in range(probs.shape[-1])]


