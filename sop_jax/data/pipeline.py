"""An epoch is an index array. The order depends on (seed, epoch) alone, so it is the same on any
number of devices.
"""

import numpy as np


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """ceil(N / B): the short last batch is padded, not dropped."""
    return -(-num_examples // batch_size)


def epoch_plan(
    rows: np.ndarray, batch_size: int, seed: int, epoch: int, padded_index: int
) -> tuple[np.ndarray, np.ndarray]:
    """The batches of one epoch.

    Padded entries repeat real examples, since zero images would enter batch-norm's statistics, but
    carry the table index `padded_index`, which reads zeros and writes nothing.

    Args:
      rows: int32 [n], the row numbers trained on.
      padded_index: the number of rows of the padded table.

    Returns:
      example int32 [steps, B], which image and label to take; index int32 [steps, B], which table
      row.
    """
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    total = steps_per_epoch(len(rows), batch_size) * batch_size
    example = np.resize(order, total).astype(np.int32)
    index = example.copy()
    index[len(order) :] = padded_index
    return example.reshape(-1, batch_size), index.reshape(-1, batch_size)
