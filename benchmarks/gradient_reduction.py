"""Does it cost accuracy to add gradients over devices in bfloat16? Digits, eight virtual devices.

    python benchmarks/gradient_reduction.py --out=FILE.json [--seeds=5 --epochs=60]

A program for a TPU or GPU with a bfloat16 network adds the devices' gradients in bfloat16, half of
the bytes of float32. XLA:CPU would add them in float32, so here each device hands its gradient over
and they are added one after the other, rounded after every sum, as a ring does. Both contestants
train the same network in bfloat16 from the same start on the same batches of labels, 40 % of which
are wrong; batch-norm's statistics are each device's own. What differs is the sum.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import timing
from jax.sharding import PartitionSpec

from sop_jax.data import noise, pipeline, sources
from sop_jax.data.augment import normalise
from sop_jax.data.dataset import statistics
from sop_jax.mesh import AXIS, make_mesh
from sop_jax.models import api
from sop_jax.optimizer import sgd

DEVICES, BATCH, NUM_CLASSES = 8, 128, 10


def added_in_a_ring(gradients: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """float32 sum over axis 0 of [devices, ...], rounded to dtype after each addition."""
    total = gradients[0].astype(dtype)
    for part in gradients[1:]:
        total = (total + part.astype(dtype)).astype(dtype)
    return total.astype(jnp.float32)


@functools.cache
def make_step(dtype: jnp.dtype, num_steps: int):
    """(init(key, shape), optimizer, apply, step), compiled once for all seeds.

    step(params, model_state, opt_state, inputs, labels) -> the three, of the next step.
    """
    model = api.find("small_resnet", NUM_CLASSES, jnp.bfloat16)
    optimizer = sgd(optax.cosine_decay_schedule(0.02, num_steps), 0.9, 5e-4)

    def loss(params, model_state, inputs, labels):
        logits, model_state = model.apply(params, model_state, inputs, True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), model_state

    def on_device(params, model_state, opt_state, inputs, labels):
        gradients, model_state = jax.grad(loss, has_aux=True)(params, model_state, inputs, labels)
        everyones = jax.lax.all_gather(gradients, AXIS)
        mean = jax.tree.map(lambda g: added_in_a_ring(g, dtype) / DEVICES, everyones)
        updates, opt_state = optimizer.update(mean, opt_state, params)
        model_state = jax.lax.pmean(model_state, AXIS)
        return optax.apply_updates(params, updates), model_state, opt_state

    copied, split = PartitionSpec(), PartitionSpec(AXIS)
    mapped = jax.shard_map(
        on_device,
        mesh=make_mesh(jax.devices()[:DEVICES]),
        in_specs=(copied, copied, copied, split, split),
        out_specs=copied,
        check_vma=False,
    )
    apply = jax.jit(functools.partial(model.apply, train=False))
    return model.init, optimizer, apply, jax.jit(mapped)


def train(seed: int, epochs: int, dtype: jnp.dtype) -> float:
    """Test accuracy after the last epoch."""
    data = sources.digits()
    mean, std = statistics(data.train.images)
    inputs = np.asarray(normalise(jnp.asarray(data.train.images), mean, std))
    transition = noise.symmetric(0.4, NUM_CLASSES)
    labels, _ = noise.corrupt(data.train.labels, transition, seed)
    rows = np.arange(len(labels), dtype=np.int32)
    per_epoch = pipeline.steps_per_epoch(len(rows), BATCH)
    init, optimizer, apply, step = make_step(dtype, epochs * per_epoch)
    params, model_state = init(jax.random.key(seed), inputs.shape[1:])
    opt_state = optimizer.init(params)
    for epoch in range(epochs):
        example, _ = pipeline.epoch_plan(rows, BATCH, seed, epoch, len(rows))
        for index in example:
            state = params, model_state, opt_state
            # waited for: virtual devices that run ahead can stop one another for good
            params, model_state, opt_state = jax.block_until_ready(
                step(*state, inputs[index], labels[index])
            )
    tests = normalise(jnp.asarray(data.test.images), mean, std)
    logits, _ = apply(params, model_state, tests)
    return float(np.mean(np.argmax(logits, -1) == data.test.labels))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    timing.add_device_flags(parser)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    flags = parser.parse_args()
    timing.use_devices(flags.devices or DEVICES)
    result = {"seeds": flags.seeds, "epochs": flags.epochs, "network_dtype": "bfloat16"}
    for name in ("float32", "bfloat16"):
        found = [train(seed, flags.epochs, jnp.dtype(name)) for seed in range(flags.seeds)]
        result[f"test_accuracy_{name}_sum"] = found
        print(f"{name}: {np.mean(found):.4f} +- {np.std(found, ddof=1):.4f} {found}", flush=True)
    timing.write(flags.out, result | timing.describe())


if __name__ == "__main__":
    main()
