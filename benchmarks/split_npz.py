"""Splits an .npz file of `images` and `labels` into the two splits that data.name=npz reads.

    python benchmarks/split_npz.py IN.npz OUT.npz

Every fifth example is for testing, the others for training; ids are their positions in IN.
"""

import argparse

import numpy as np


def split(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of OUT.npz from images [N, ...] and labels [N]."""
    ids = np.arange(len(labels))
    arrays = {}
    for name, index in (("train", ids[ids % 5 != 4]), ("test", ids[ids % 5 == 4])):
        arrays[f"{name}_images"] = images[index]
        arrays[f"{name}_labels"] = labels[index]
        arrays[f"{name}_ids"] = index
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source")
    parser.add_argument("out")
    arguments = parser.parse_args()
    with np.load(arguments.source, allow_pickle=False) as file:
        np.savez_compressed(arguments.out, **split(file["images"], file["labels"]))


if __name__ == "__main__":
    main()
