"""A single process has nothing to agree on; what several do is in test_multiprocess.py."""

import numpy as np
import pytest

from sop_jax import agreement
from sop_jax.config import default


def test_a_single_process_agrees_with_itself_and_waits_for_nobody():
    agreement.require_same({"a": 1}, "alone")
    agreement.announce("nobody hears this")
    assert agreement.fingerprint([np.arange(3)]) == ""
    with pytest.raises(KeyError, match="passed on"), agreement.together():
        raise KeyError("passed on")


def test_processes_may_differ_in_what_belongs_to_their_machine_alone():
    facts = agreement.facts_of(default())
    assert facts["config.epochs"] == default().epochs and "config.noise.rate" in facts
    for name in ("data.dir", "compilation_cache", "distributed.process_id"):
        assert f"config.{name}" not in facts


@pytest.fixture
def several(monkeypatch):
    """As one of two processes, without the other."""
    monkeypatch.setattr(agreement, "_group", agreement.Group(None, 0, 2))


def test_a_fingerprint_tells_values_shapes_and_dtypes_apart(several):
    numbers = np.arange(6, dtype=np.int32)
    different = [
        [numbers],
        [numbers + 1],
        [numbers.reshape(2, 3)],
        [numbers.reshape(2, 3).T],
        [numbers.astype(np.int64)],
        [numbers.astype(str)],
        [numbers, numbers],
    ]
    assert len({agreement.fingerprint(arrays) for arrays in different}) == len(different)
    assert agreement.fingerprint([numbers]) == agreement.fingerprint([numbers.copy()])
