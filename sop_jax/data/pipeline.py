"""An epoch is an index array.

Its order depends on the seed and the epoch alone, so it is the same on any number of devices.
"""

import numpy as np

from sop_jax.errors import UserError


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """ceil(N / B): the short last batch is padded, not dropped."""
    return -(-num_examples // batch_size)


def steps_per_dispatch(per_epoch: int) -> int:
    """The shortest dispatch of at least 32 steps that divides an epoch, or all of it.

    So a run compiles one program; a dispatch of another length would be a second one. 32 steps are
    enough to hide the host behind the devices.
    """
    return next((n for n in range(32, per_epoch) if per_epoch % n == 0), per_epoch)


def epoch_plan(
    trained: np.ndarray, batch_size: int, seed: int, epoch: int, padded_index: int
) -> tuple[np.ndarray, np.ndarray]:
    """The batches of one epoch.

    Padded entries repeat real examples, since zero images would enter batch-norm's statistics, but
    carry the table index `padded_index`, which reads zeros and writes nothing.

    Args:
        trained: int32 [n], positions of the examples that are trained on.
        batch_size: B.
        seed: the run's.
        epoch: from 0.
        padded_index: the length of the padded table.

    Returns:
        example int32 [steps, B], which image and label to take, and index int32 [steps, B], which
        place of the table.
    """
    order = np.random.default_rng([seed, epoch]).permutation(trained)
    total = steps_per_epoch(len(trained), batch_size) * batch_size
    example = np.resize(order, total).astype(np.int32)
    index = example.copy()
    index[len(order) :] = padded_index
    return example.reshape(-1, batch_size), index.reshape(-1, batch_size)


def own_plan(
    positions: np.ndarray, trained: np.ndarray, shape: tuple[int, int], padded_index: int
) -> np.ndarray:
    """Table indices of a method's own plan.

    Args:
        positions: int [steps, streams * B] among the n examples trained on, -1 for a padded entry.
        trained: int32 [n], positions of these examples in the training set.
        shape: (steps, streams * B) that the run is compiled for.
        padded_index: the length of the padded table.

    Returns:
        int32 [steps, streams * B], `padded_index` for padded entries.

    Raises:
        UserError: another shape, a position that does not exist, or one twice in a batch.
    """
    positions = np.asarray(positions)
    if positions.shape != shape or positions.dtype.kind not in "iu":
        raise UserError(
            f"the method's plan is {positions.dtype} {list(positions.shape)}; it must hold whole "
            f"numbers {list(shape)}: steps an epoch, and batch_size for each stream"
        )
    if positions.min() < -1 or positions.max() >= len(trained):
        raise UserError(
            f"the method's plan holds positions {positions.min()} to {positions.max()}; they must "
            f"lie in -1 (padding) to {len(trained) - 1}"
        )
    ordered = np.sort(positions, axis=1)
    twice = np.argwhere((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0))
    if len(twice):
        step, place = twice[0]
        raise UserError(
            f"the method's plan has position {ordered[step, place]} twice in batch {step}; an "
            "example may occur once in a batch"
        )
    return np.where(positions < 0, padded_index, trained[positions]).astype(np.int32)


def examples_of(index: np.ndarray, padded_index: int, fallback: int) -> np.ndarray:
    """int32 like `index`: which image each entry takes, where padded entries repeat a real one.

    A padded entry takes the first real example of its batch, or `fallback` in an empty one.
    """
    real = index != padded_index
    first = index[np.arange(len(index)), real.argmax(axis=1)]
    repeated = np.where(real.any(axis=1), first, fallback)
    return np.where(real, index, repeated[:, None]).astype(np.int32)
