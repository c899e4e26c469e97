"""Votes of the nearest neighbours, against a direct computation."""

import numpy as np

from sop_jax import neighbours


def test_votes_equal_a_sort_of_all_distances(monkeypatch):
    monkeypatch.setattr(neighbours, "NEIGHBOURS", 7)
    monkeypatch.setattr(neighbours, "_CHUNK", 16)
    rng = np.random.default_rng(0)
    features, label = rng.normal(size=(50, 5)).astype(np.float32), rng.integers(0, 3, 50)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    nearest = np.argsort(-cosine, axis=1)[:, :7]
    expected = np.stack([np.mean(label[nearest] == k, axis=1) for k in range(3)], axis=1)
    np.testing.assert_allclose(neighbours.votes(features, label, 3), expected, atol=1e-12)


def test_the_own_label_has_no_say():
    rng = np.random.default_rng(1)
    features, label = rng.normal(size=(40, 4)), rng.integers(0, 2, 40)
    before = neighbours.votes(features, label, 2)
    label[3] = 1 - label[3]
    np.testing.assert_array_equal(neighbours.votes(features, label, 2)[3], before[3])


def test_fewer_rows_than_neighbours_and_dead_features():
    votes = neighbours.votes(np.zeros((4, 3)), np.array([0, 1, 1, 1]), 2)
    np.testing.assert_allclose(votes, [[0, 1], [1 / 3, 2 / 3], [1 / 3, 2 / 3], [1 / 3, 2 / 3]])
