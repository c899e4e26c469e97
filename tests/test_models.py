"""Networks: published parameter counts, shapes, precision, batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sop_jax import mesh as meshes
from sop_jax.errors import UserError
from sop_jax.models import api


def count(name, num_classes=10):
    model = api.find(name, num_classes)
    params, _ = jax.eval_shape(lambda key: model.init(key, (32, 32, 3)), jax.random.key(0))
    return api.num_parameters(params)


def test_published_parameter_counts():
    """spec/sop.md, section 6."""
    assert count("resnet18") == 11_173_962
    assert count("resnet34") == 21_282_122
    assert count("preact_resnet18") == 11_171_274
    assert count("preact_resnet18", 100) - count("preact_resnet18", 10) == 90 * 513


@pytest.mark.parametrize("name", list(api.NETWORKS))
def test_shapes_and_strides(name):
    """32x32 keeps its size in the stem (stride 1, no max-pool): the last stage is 4x4, for small_resnet 8x8."""
    model = api.find(name, 7, jnp.bfloat16, width=4)
    params, model_state = jax.eval_shape(lambda key: model.init(key, (32, 32, 3)), jax.random.key(0))
    logits, new_state = jax.eval_shape(
        lambda p, s, x: model.apply(p, s, x, True), params, model_state, jnp.zeros((2, 32, 32, 3))
    )
    assert logits.shape == (2, 7)
    assert logits.dtype == jnp.float32
    assert jax.tree.structure(new_state) == jax.tree.structure(model_state)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_batch_statistics_are_those_of_the_global_batch():
    model = api.find("small_resnet", 3, width=4)
    params, model_state = model.init(jax.random.key(0), (8, 8, 1))
    images = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype(np.float32)
    apply = jax.jit(lambda x: model.apply(params, model_state, x, True))
    whole, state_whole = apply(images)
    split, state_split = apply(meshes.put(images, meshes.rows(meshes.make_mesh())))
    np.testing.assert_allclose(split, whole, atol=1e-5)
    for a, b in zip(jax.tree.leaves(state_split), jax.tree.leaves(state_whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_evaluation_mode_changes_no_statistics():
    model = api.find("small_resnet", 3, width=4)
    params, model_state = model.init(jax.random.key(0), (8, 8, 1))
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    logits, same = model.apply(params, model_state, images, False)
    assert same is model_state
    alone, _ = model.apply(params, model_state, images[:1], False)
    np.testing.assert_allclose(logits[:1], alone, rtol=1e-5, atol=1e-6)


def test_unknown_network_is_refused():
    with pytest.raises(UserError, match="resnet18"):
        api.find("resnet99", 10)
