"""Splits an .npz of `images` and `labels` into the training and test rows of data.name=npz.

    python benchmarks/split_npz.py IN.npz OUT.npz

Every fifth row is for testing, the others for training; ids are the row numbers of IN.
"""

import argparse

import numpy as np


def split(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of OUT.npz from images [N, ...] and labels [N]."""
    rows = np.arange(len(labels))
    test = rows % 5 == 4
    return {
        "train_images": images[~test],
        "train_labels": labels[~test],
        "train_ids": rows[~test],
        "test_images": images[test],
        "test_labels": labels[test],
        "test_ids": rows[test],
    }


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
