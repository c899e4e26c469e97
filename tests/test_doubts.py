"""Each reason not to trust a verdict is named, and nothing without one."""

import numpy as np

from sop_jax.doubts import warnings

NAMES = ("cat", "dog", "ship")
LABEL = np.repeat([0, 1, 2], 100)


def found(flagged=None, rate=0.05, estimates=None, accuracy=0.9, label=LABEL, informed=None):
    flagged = np.zeros(len(label), bool) if flagged is None else flagged
    estimates = {"held-out networks": rate} if estimates is None else estimates
    informed = list(estimates) if informed is None else informed
    return warnings(label, flagged, rate, estimates, informed, accuracy, NAMES)


def test_nothing_to_say():
    assert found() == ()
    assert found(accuracy=None) == ()
    assert found(estimates={"held-out networks": 0.05, "neighbours": 0.06}) == ()


def test_estimates_that_disagree_are_both_shown():
    (said,) = found(estimates={"neighbours": 0.021, "held-out networks": 0.4})
    assert "2.1 % by neighbours" in said and "40.0 % by held-out networks" in said


def test_networks_that_have_learnt_nothing():
    both = {"neighbours": 0.6, "held-out networks": 0.1}
    (said,) = found(estimates=both, informed=[], accuracy=0.1)
    assert "too little to judge" in said
    (said,) = found(estimates=both, informed=["held-out networks"])
    assert "neighbours have learnt too little" in said and "held-out networks alone" in said


def test_a_network_that_underfits():
    (said,) = found(rate=0.09, accuracy=0.44)
    assert "underfits" in said and "44.0 %" in said and "91.0 %" in said


def test_a_class_flagged_beyond_belief():
    (said,) = found(flagged=(LABEL == 1) & (np.arange(300) % 10 != 0))
    assert "90.0 %" in said and "'dog'" in said and "'cat'" not in said


def test_small_classes_are_named():
    (said,) = found(label=np.concatenate([LABEL, [2]])[80:], flagged=np.zeros(221, bool))
    assert "'cat'" in said and "'dog'" not in said
