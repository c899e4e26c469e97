"""Every row is predicted by a network that never saw it; stopped and killed runs go on."""

import dataclasses

import jax
import numpy as np
import pytest

from sop_jax import crossfit
from sop_jax.config import check, default
from sop_jax.data.dataset import load
from sop_jax.experiment import build, resolve
from sop_jax.mesh import make_mesh
from sop_jax.settings import complete


def experiment(**fields):
    config = default()
    config.update(epochs=4, batch_size=32, compilation_cache="off", crossfit_epochs=2)
    config.data.update(train_limit=301)
    config.noise.update(kind="symmetric_exclusive", rate=0.2)
    config.model.width = 4
    for name, value in fields.items():
        config[name] = value
    check(config)
    dataset, _ = load(config)
    config, _ = resolve(complete(config), dataset)
    return build(config, dataset, make_mesh())


def test_halves_are_disjoint_and_whole():
    for rows in (2, 7, 100):
        first, second = crossfit.halves(rows, seed=3)
        assert abs(len(first) - len(second)) <= 1
        np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(rows))
    assert not np.array_equal(crossfit.halves(100, 0)[0], crossfit.halves(100, 1)[0])


def test_a_label_has_no_part_in_its_own_prediction(tmp_path):
    """Changing the labels of one half changes no prediction of that half, but of the other."""
    one = experiment()
    first, second = crossfit.halves(301, one.config.seed)
    labels = one.dataset.train.labels.copy()
    labels[first] = (labels[first] + 1) % 10
    train = one.dataset.train._replace(labels=labels)
    other = one.of_seed(one.config, dataclasses.replace(one.dataset, train=train))
    found = []
    for name, each in (("a", one), ("b", other)):
        (tmp_path / name).mkdir()
        found.append(crossfit.cross_fit(each, each.resident(), tmp_path / name))
    assert found[0].shape == (301, 10) and found[0].dtype == np.float32
    np.testing.assert_allclose(found[0].sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found[0][first], found[1][first])
    assert np.mean(np.any(found[0][second] != found[1][second], axis=1)) > 0.9


def test_it_goes_on_where_it_was_stopped_and_reads_what_it_has(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    one = experiment()
    expected = crossfit.cross_fit(one, one.resident(), whole)
    assert not (whole / "crossfit").exists() and (whole / crossfit.NAME).exists()

    trained, calls = crossfit.train, []

    def stops_in_the_second(*arguments, **options):
        calls.append(1)
        outcome = trained(*arguments, **options)
        return outcome._replace(finished=len(calls) != 2)

    monkeypatch.setattr(crossfit, "train", stops_in_the_second)
    with pytest.raises(crossfit.Stopped):
        crossfit.cross_fit(one, one.resident(), cut)
    assert not (cut / crossfit.NAME).exists()
    monkeypatch.setattr(crossfit, "train", trained)
    np.testing.assert_array_equal(crossfit.cross_fit(one, one.resident(), cut), expected)

    monkeypatch.setattr(crossfit, "train", lambda *_, **__: pytest.fail("it is known"))
    np.testing.assert_array_equal(crossfit.cross_fit(one, one.resident(), cut), expected)


def test_a_damaged_or_foreign_file_is_made_anew(tmp_path):
    one = experiment(crossfit_epochs=1)
    expected = crossfit.cross_fit(one, one.resident(), tmp_path)
    path = tmp_path / crossfit.NAME
    path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(crossfit.cross_fit(one, one.resident(), tmp_path), expected)
    longer = experiment(crossfit_epochs=2)
    assert not np.array_equal(crossfit.cross_fit(longer, longer.resident(), tmp_path), expected)


def test_networks_of_another_number_of_epochs_are_not_gone_on_with(tmp_path, monkeypatch):
    """Stopped in the second half, then asked for fewer epochs: as if nothing had been there."""
    fresh, changed = tmp_path / "fresh", tmp_path / "changed"
    fresh.mkdir()
    changed.mkdir()
    longer, shorter = experiment(), experiment(crossfit_epochs=1)
    trained, calls = crossfit.train, []

    def stops_in_the_second(*arguments, **options):
        calls.append(1)
        return trained(*arguments, **options)._replace(finished=len(calls) != 2)

    monkeypatch.setattr(crossfit, "train", stops_in_the_second)
    with pytest.raises(crossfit.Stopped):
        crossfit.cross_fit(longer, longer.resident(), changed)
    monkeypatch.undo()
    expected = crossfit.cross_fit(shorter, shorter.resident(), fresh)
    found = crossfit.cross_fit(shorter, shorter.resident(), changed)
    np.testing.assert_array_equal(found, expected)
    assert [path.name for path in changed.iterdir()] == [crossfit.NAME]

    # killed between the file and the end of the networks' folder
    (changed / "crossfit" / "1").mkdir(parents=True)
    (changed / "crossfit" / "facts.json").write_text("[")
    found = crossfit.cross_fit(shorter, shorter.resident(), changed)
    np.testing.assert_array_equal(found, expected)
    assert [path.name for path in changed.iterdir()] == [crossfit.NAME]


def test_none_where_no_epochs_are_asked_for(tmp_path):
    one = experiment(crossfit_epochs=0)
    assert crossfit.cross_fit(one, one.resident(), tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_the_half_config_is_plain_cross_entropy():
    config = experiment().config
    half = crossfit.config_of_half(config, len(jax.devices()))
    assert half.method.to_dict() == {"name": "ce"}
    assert (half.epochs, half.batch_size, half.optimizer.schedule) == (2, 16, "cosine")
    assert not half.track_predictions
