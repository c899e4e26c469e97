"""Networks: published parameter counts, shapes, precision, batch statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sop_jax import compiler
from sop_jax.errors import UserError
from sop_jax.mesh import by_rows, make_mesh, put
from sop_jax.models import api, etf


def found(name, num_classes, dtype=jnp.float32, **fields):
    """A network 4 channels wide where it has a width, its whitening layer trained."""
    small = {field: {"width": 4, "whitening": False}.get(field) for field in api.fields(name)}
    small = {field: value for field, value in small.items() if value is not None}
    return api.find(name, num_classes, dtype, **(small | fields))


def size(shapes):
    """Number of values (optax.tree.size takes arrays, not their shapes)."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def count(name, num_classes=10, **fields):
    model = api.find(name, num_classes, **fields)
    params, _ = jax.eval_shape(lambda key: model.init(key, (32, 32, 3)), jax.random.key(0))
    return size(params)


def test_published_parameter_counts():
    """Those of the networks of the SOP paper's code."""
    assert count("resnet18") == 11_173_962
    assert count("resnet34") == 21_282_122
    assert count("preact_resnet18") == 11_171_274
    assert count("preact_resnet18", 100) - count("preact_resnet18", 10) == 90 * 513


@pytest.mark.parametrize("name", list(api.NETWORKS))
def test_shapes_and_strides(name):
    """The stem keeps 32x32 (stride 1, no max-pool): the last stage is 4x4, small_resnet's 8x8."""
    model = found(name, 7, jnp.bfloat16)
    params, model_state = jax.eval_shape(
        lambda key: model.init(key, (32, 32, 3)), jax.random.key(0)
    )
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
    split, state_split = apply(put(images, by_rows(make_mesh())))
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


VARIANTS = [
    ("small_resnet", {}),
    ("fast_net", {}),
    ("small_resnet", {"classifier": "etf"}),
    ("preact_resnet18", {"feature_dim": 5}),
]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_logits_are_the_classifier_applied_to_the_features(name, options):
    """And what training applies, with batch statistics of its own, has the same last layer."""
    model = found(name, 3, **options)
    init = jax.jit(
        lambda key: model.init(key, (8, 8, 1)), compiler_options=compiler.options_for_one_run()
    )
    params, model_state = init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))

    @functools.partial(jax.jit, compiler_options=compiler.options_for_one_run())
    def both(params, model_state):
        return model.apply(params, model_state, images, False)[0], model.features(
            params, model_state, images
        )

    logits, features = both(params, model_state)
    weight, bias = model.classifier(params)
    assert weight.shape == (3, features.shape[1])
    if "feature_dim" in options:
        assert features.shape[1] == options["feature_dim"]
    np.testing.assert_allclose(features @ weight.T + bias[None], logits, rtol=1e-4, atol=1e-5)


def test_a_fixed_classifier_is_no_parameter_and_its_bias_is_one():
    learnt, fixed = (
        api.find("small_resnet", 3, width=4),
        api.find("small_resnet", 3, width=4, classifier="etf"),
    )
    params = {
        name: jax.eval_shape(lambda key, m=m: m.init(key, (8, 8, 1)), jax.random.key(0))[0]
        for name, m in (("learnt", learnt), ("fixed", fixed))
    }
    saved = size(params["learnt"]) - size(params["fixed"])
    assert saved == 3 * 16
    gradient = jax.grad(lambda p: jnp.sum(fixed.classifier(p)[1]))(
        {"EtfClassifier_0": {"bias": jnp.zeros(3)}}
    )
    np.testing.assert_array_equal(gradient["EtfClassifier_0"]["bias"], 1)
    np.testing.assert_allclose(
        fixed.classifier({"EtfClassifier_0": {"bias": jnp.zeros(3)}})[0],
        etf.etf_weight(3, 16),
        rtol=1e-6,
    )


def test_features_as_many_as_classes_save_a_fifth_of_resnet18():
    """20.7 % of ResNet-18 on ten classes (Zhu et al. 2021, section 5)."""
    narrow = count("resnet18", feature_dim=10, classifier="etf")
    assert 1 - narrow / count("resnet18") == pytest.approx(0.207, abs=5e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "fast_net", "classifier": "etf"}, "model.classifier is no field of .*'fast_net'"),
        ({"name": "fast_net", "feature_dim": 10}, "model.feature_dim is no field of .*'fast_net'"),
        ({"name": "resnet18", "width": 4}, "belongs to small_resnet and fast_net"),
        (
            {"name": "small_resnet", "width": 2, "classifier": "etf"},
            "at least as many features as classes, 10, but there are 8",
        ),
        ({"name": "small_resnet", "activation": "gelu"}, "choose from silu, relu"),
        ({"name": "small_resnet", "width": 2.5}, "must be a whole number"),
    ],
)
def test_fields_that_cannot_be_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        api.find(num_classes=10, **fields)


def test_unknown_network_is_refused():
    with pytest.raises(UserError, match="resnet18"):
        api.find("resnet99", 10)
