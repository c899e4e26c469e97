"""Several seeds in one program: each is the run it would have been alone, and the folder holds them
all.
"""

import json
import os
import signal

import jax
import numpy as np
import pytest
from conftest import assert_match
from test_loop import final_state, metrics, tiny

from sop_jax import compare, loop, outputs, report, run_folder, seeds
from sop_jax import config as configs
from sop_jax import experiment as experiments
from sop_jax import mesh as meshes
from sop_jax.data import dataset as datasets
from sop_jax.errors import UserError
from sop_jax.tasks import classify

SEEDS = (5, 6, 7)


def three(**fields):
    return tiny(seed=5, num_seeds=3, epochs=2, **fields)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("three")
    classify.run(three(), workdir)
    return workdir


def summary(workdir):
    return json.loads((workdir / "summary.json").read_text())


def test_each_seed_is_the_run_it_would_have_been_alone(whole, tmp_path):
    """On the CPU bit for bit: labels, metrics, every leaf of the final state, issues and
    predictions.
    """
    classify.run(tiny(seed=6, epochs=2), tmp_path)
    own = whole / "seed_6"
    assert metrics(own) == metrics(tmp_path)
    together, alone = final_state(whole), final_state(tmp_path)
    assert len(together) == 3 * len(alone)
    place = next(name for name in together if "members" in name).split("[")[1]
    for name, leaf in alone.items():
        np.testing.assert_array_equal(together[f"[{place}[1]{name}"], leaf, err_msg=name)
    assert (own / "label_issues.csv").read_bytes() == (tmp_path / "label_issues.csv").read_bytes()
    for name in ("labels.npz", "predictions.npz", "gallery.npz"):
        with np.load(own / name) as a, np.load(tmp_path / name) as b:
            for key in a:
                np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name} {key}")
    assert (own / "config.json").read_bytes() == (tmp_path / "config.json").read_bytes()
    assert {p.name for p in own.iterdir()} == {p.name for p in tmp_path.iterdir()} - {
        "checkpoints",
        ".lock",
    }


def test_seeds_have_their_own_noise_order_and_initialisation(whole):
    labels = [np.load(whole / f"seed_{seed}" / "labels.npz") for seed in SEEDS]
    assert len({str(own["sha256"]) for own in labels}) == 3
    assert len({own["validation_rows"].tobytes() for own in labels}) == 3
    assert len({metrics(whole / f"seed_{seed}")[0]["train_loss"] for seed in SEEDS}) == 3
    assert not np.array_equal(*(own["given_label"] == own["true_label"] for own in labels[:2]))


def test_noise_seed_gives_all_seeds_one_draw():
    config = three(noise__seed=3)
    data, _ = datasets.load_seeds(configs.each_seed(config))
    assert len({own.noise.sha256 for own in data}) == 1
    assert all(own.train.images is data[0].train.images for own in data)  # in memory once


def test_summary_holds_the_runs_and_their_mean_and_std(whole):
    total = summary(whole)
    runs = [summary(whole / f"seed_{seed}") for seed in SEEDS]
    assert total["runs"] == runs and total["seeds"] == list(SEEDS) and total["num_seeds"] == 3
    for name in ("method", "dataset", "epochs", "class_names", "noise_kind"):
        assert total[name] == runs[0][name]
    numbers = {name for name in runs[0] if isinstance(runs[0][name], int | float)} - {
        "seed",
        "epochs",
    }
    assert {
        "test_accuracy_last",
        "label_issue_auroc",
        "validation_accuracy",
        "rows_at_bound",
    } <= numbers
    assert total["mean"].keys() == total["std"].keys() >= numbers
    for name in numbers:
        values = [run[name] for run in runs]
        assert total["mean"][name] == pytest.approx(np.mean(values), rel=1e-12)
        assert total["std"][name] == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    assert total["images_per_second"] == pytest.approx(
        sum(run["images_per_second"] for run in runs)
    )


def test_a_number_that_one_seed_does_not_know_is_null(tmp_path):
    run = {
        "method": "sop",
        "dataset": "x",
        "seed": 0,
        "epochs": 1,
        "class_names": ["a"],
        "noise_kind": "none",
        "images_per_second": 1.0,
        "label_issue_auroc": 0.5,
        "test_accuracy_per_class": [1.0],
        "best_epoch": 0,
    }
    outputs.write_group_summary(
        tmp_path, [run, run | {"seed": 1, "label_issue_auroc": None, "best_epoch": 1}]
    )
    assert summary(tmp_path)["mean"] == {
        "images_per_second": 1.0,
        "label_issue_auroc": None,
        "best_epoch": 0.5,
    }


def test_report_and_compare_read_the_folders(whole, capsys):
    assert report.main([f"--workdir={whole / 'seed_5'}"]) == 0
    (group,), warnings = compare.compare([str(whole)])
    assert group["n"] == 3 and group["seeds"] == list(SEEDS) and warnings == []
    assert group["metrics"]["test_accuracy_last"]["mean"] == pytest.approx(
        summary(whole)["mean"]["test_accuracy_last"]
    )
    assert compare.compare([str(whole), *(str(whole / f"seed_{seed}") for seed in SEEDS)])[0] == [
        group
    ]
    with pytest.raises(UserError, match=r"holds 3 seeds.*such as .*seed_5"):
        run_folder.read_run(whole)


def test_stopped_inside_an_epoch_and_gone_on_it_ends_the_same(whole, tmp_path, monkeypatch, capsys):
    steps = []
    genuine = loop.Runner.__call__

    def interrupted(self, *arguments):
        steps.append(1)
        if len(steps) == 8:  # the second step of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return genuine(self, *arguments)

    monkeypatch.setattr(loop.Runner, "__call__", interrupted)
    classify.run(three(), tmp_path)
    assert "stopped by SIGTERM at step 8" in capsys.readouterr().out
    assert not (tmp_path / "summary.json").exists()
    monkeypatch.undo()
    classify.run(three(), tmp_path)
    assert "resumed at step 8" in capsys.readouterr().out
    for seed in SEEDS:
        assert metrics(whole / f"seed_{seed}") == metrics(tmp_path / f"seed_{seed}")
    a, b = final_state(whole), final_state(tmp_path)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_finished_group_says_so_and_keeps_its_number_of_seeds(whole, capsys):
    classify.run(three(), whole)
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"num_seeds \(was 3, now 2\)"):
        classify.run(tiny(seed=5, num_seeds=2, epochs=2), whole)


def trained(seeds_by, chunk, devices, num_steps=2):
    """Losses [steps, 2] and the final states of two seeds."""
    config = tiny(num_seeds=2, seeds_by=seeds_by)
    data, _ = datasets.load_seeds(configs.each_seed(config))
    config, _ = experiments.resolve(config, 10)
    group = seeds.build(config, data, meshes.make_mesh(jax.devices()[:devices]))
    state, runner, (example, index) = group.init(), loop.Runner(group), group.plan(0)
    losses = []
    for first in range(0, num_steps, chunk):
        state, batch_losses = runner(
            state, example[first : first + chunk], index[first : first + chunk]
        )
        losses.append(np.asarray(batch_losses))
    return np.concatenate(losses), seeds.split(state)


@pytest.mark.parametrize(("devices", "chunk"), [(1, 2), (8, 1)], ids=["scanned", "eight devices"])
def test_vmap_and_unroll_agree(devices, chunk):
    """Two steps batched over seeds against single unrolled ones: losses to 1e-5 of the largest, the
    rest to 1e-4.
    """
    losses, states = trained("unroll", 1, devices)
    batched_losses, batched = trained("vmap", chunk, devices)
    assert losses.shape == (2, 2)
    assert_match(batched_losses, losses, 1e-5)
    for one, other in zip(states, batched, strict=True):
        assert int(one.step) == int(other.step) == 2
        for field in ("params", "model_state", "table", "tracker"):
            leaves = zip(
                *(jax.tree.leaves(getattr(state, field)) for state in (other, one)), strict=True
            )
            for a, b in leaves:
                assert_match(a, b, 1e-4)
        for leaf in jax.tree.leaves((other.table, other.tracker)):
            assert {shard.data.shape[0] for shard in leaf.addressable_shards} == {
                leaf.shape[0] // devices
            }


def test_a_loss_that_is_not_finite_names_its_seed():
    losses = loop._Losses(lambda: 4, SEEDS)
    losses.push(8, np.array([[1.0, 2.0, 3.0], [1.0, np.inf, 2.0]]))
    with pytest.raises(
        UserError, match="the loss of seed 6 is inf at step 9; the checkpoint of step 4 is kept"
    ):
        losses.flush()


def test_the_best_epoch_is_that_of_the_mean_validation_accuracy():
    def rows(*values):
        return [{"validation_accuracy": value} for value in values]

    histories = [rows(0.9), rows(0.1)]
    assert loop._is_best(rows(0.2, 0.9), histories) and not loop._is_best(
        rows(0.95, 0.0), histories
    )
    assert loop._is_best(rows(0.1, 0.2), [rows(None), rows(None)]) and not loop._is_best(
        rows(None, None), histories
    )


def test_the_line_of_an_epoch_has_mean_and_deviation():
    row = {
        "epoch": 0,
        "train_loss": 1.0,
        "train_accuracy": 0.5,
        "images_per_second": 10.0,
        "test_accuracy": None,
    }
    other = row | {"train_loss": 3.0}
    assert loop._describe([row, other], 2) == (
        "epoch 1/2, loss 2.0000 +- 1.4142, train (given labels) 0.5000 +- 0.0000, 20 images/s"
    )
    assert (
        loop._describe([row], 2)
        == "epoch 1/2, loss 1.0000, train (given labels) 0.5000, 10 images/s"
    )
