"""SOP on labelled images of your own, with settings that follow them.

python -m sop_jax.main --config=configs/own_data.py --workdir=runs/mine --config.data.path=mine.npz

The labels are taken as they are; README.md says what the file holds. Batch size, augmentation and
the rates of u and v follow the data and the epochs; the run prints them. SOPClassifier() trains the
same run on the same arrays.
Source: ours.
Measured: not measured yet.
"""

from sop_jax.config import default


def get_config():
    config = default()
    config.data.name = "npz"
    config.data.path = "mine.npz"  # the command names yours
    return config
