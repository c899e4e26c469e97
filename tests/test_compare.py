"""The comparison of runs: means and deviations by hand, grouping, and clear errors."""

import json
import math
import subprocess
import sys

import pytest
from fake_run import write_summary

from sop_jax import compare
from sop_jax.errors import UserError


def _write(root, name, config=None, **summary):
    write_summary(root / name, config, **summary)
    return str(root / name)


def _rows(text):
    """Returns the Markdown table as a list of {heading: cell}."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()
    ]
    assert set(lines[1]) == {"---"}
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


@pytest.fixture
def three_seeds(tmp_path):
    values = {0: 0.95, 1: 0.97, 2: 0.96}
    return [
        _write(
            tmp_path,
            f"sop_{seed}",
            {"seed": seed, "data.dir": f"/data/{seed}"},
            test_accuracy_last=value,
            test_accuracy_best=value + 0.01,
            label_issue_auroc=0.99,
            noise_rate_actual=None,
            noise_rate_estimated=0.4 + 0.01 * seed,
            label_accuracy_after=0.98,
            images_per_second=1000.0 * (seed + 1),
        )
        for seed, value in values.items()
    ]


def test_mean_and_sample_deviation_by_hand(three_seeds):
    (group,), warnings = compare.compare(three_seeds)
    assert warnings == []
    assert (group["dataset"], group["noise"]) == ("digits", "symmetric_exclusive 0.4")
    assert (group["method"], group["network"]) == ("sop", "small_resnet")
    assert (group["n"], group["seeds"], group["differs"]) == (3, [0, 1, 2], {})
    last = group["metrics"]["test_accuracy_last"]
    assert math.isclose(last["mean"], 0.96)
    assert math.isclose(last["std"], 0.01)  # sqrt((.01^2 + .01^2 + 0) / 2)
    assert group["metrics"]["images_per_second"] == {"mean": 2000.0, "std": 1000.0, "n": 3}
    assert group["metrics"]["noise_rate_actual"] == {"mean": None, "std": None, "n": 0}


def test_table(three_seeds):
    (row,) = _rows(compare.markdown(compare.compare(three_seeds)[0]))
    assert row["test_accuracy_last"] == "0.9600 +- 0.0100"
    assert row["test_accuracy_best (diagnostic)"] == "0.9700 +- 0.0100"
    assert row["label_issue_auroc"] == "0.9900 +- 0.0000"
    assert row["noise_rate_actual"] == "–"
    assert row["noise_rate_estimated"] == "0.4100 +- 0.0100"
    assert row["label_accuracy_after"] == "0.9800 +- 0.0000"
    assert row["images_per_second"] == "2,000 +- 1,000"
    assert (row["n"], row["seeds"]) == ("3", "0, 1, 2")
    assert "differs in" not in row


def test_one_run_has_no_deviation(three_seeds):
    (group,), _ = compare.compare(three_seeds[:1])
    assert group["metrics"]["test_accuracy_last"] == {"mean": 0.95, "std": None, "n": 1}
    (row,) = _rows(compare.markdown([group]))
    assert row["test_accuracy_last"] == "0.9500"


def test_a_value_only_some_runs_know_says_how_many(tmp_path):
    runs = [
        _write(tmp_path, f"r{seed}", {"seed": seed}, label_issue_auroc=value)
        for seed, value in enumerate((0.9, None, 0.8))
    ]
    (row,) = _rows(compare.markdown(compare.compare(runs)[0]))
    assert row["label_issue_auroc"] == "0.8500 +- 0.0707 (n=2)"


def test_another_learning_rate_is_another_row_that_says_so(three_seeds, tmp_path):
    other = _write(
        tmp_path, "hot", {"seed": 3, "optimizer.learning_rate": 0.1}, test_accuracy_last=0.5
    )
    groups, warnings = compare.compare([*three_seeds, other])
    assert warnings == []
    assert [group["differs"] for group in groups] == [
        {"optimizer.learning_rate": 0.02},
        {"optimizer.learning_rate": 0.1},
    ]
    rows = _rows(compare.markdown(groups))
    assert [row["differs in"] for row in rows] == [
        "optimizer.learning_rate=0.02",
        "optimizer.learning_rate=0.1",
    ]
    assert [row["test_accuracy_last"] for row in rows] == ["0.9600 +- 0.0100", "0.5000"]


def test_method_noise_and_network_name_the_rows(tmp_path):
    runs = [
        _write(tmp_path, "ce", {"method.name": "ce", "optimizer.learning_rate": 0.05}),
        _write(tmp_path, "sop"),
        _write(
            tmp_path, "human", {"noise.kind": "human", "noise.labels": "worst", "noise.rate": 0.0}
        ),
        _write(tmp_path, "clean", {"noise.kind": "none", "model.name": "resnet18"}),
    ]
    groups, _ = compare.compare(runs)
    named = {(group["noise"], group["method"], group["network"]) for group in groups}
    assert named == {
        ("symmetric_exclusive 0.4", "ce", "small_resnet"),
        ("symmetric_exclusive 0.4", "sop", "small_resnet"),
        ("human worst", "sop", "small_resnet"),
        ("none", "sop", "resnet18"),
    }
    assert all(group["differs"] == {} for group in groups)  # the names already tell them apart


def test_a_field_of_the_method_is_a_difference_like_any_other(tmp_path):
    """The table knows no method: what tells two variants apart is named with its value."""
    variants = ("paper", "official")
    runs = [_write(tmp_path, name, {"method.variant": name}) for name in variants]
    groups, _ = compare.compare(runs)
    assert [(group["method"], group["differs"]) for group in groups] == [
        ("sop", {"method.variant": "official"}),
        ("sop", {"method.variant": "paper"}),
    ]


def test_a_field_that_a_run_is_too_old_to_have_stands_at_its_default(tmp_path):
    runs = [
        _write(tmp_path, "old", {"seed": 0}),
        _write(tmp_path, "new", {"seed": 1, "data.downsample": 1, "noise.nobody_knows": 3}),
        _write(tmp_path, "small", {"seed": 2, "data.downsample": 2, "noise.nobody_knows": 3}),
    ]
    groups, warnings = compare.compare(runs)
    assert warnings == []
    assert [(group["seeds"], group["differs"]) for group in groups] == [
        ([0, 1], {"data.downsample": 1}),
        ([2], {"data.downsample": 2}),
    ]


def test_fields_of_other_methods_and_renamed_ones_make_no_group_of_their_own(tmp_path):
    """Folders from before a method owned its fields hold those of all methods."""
    old = {"method.name": "focal", "method.focal_gamma": 2.0, "method.smoothing": 0.05}
    old |= {"optimizer.muon_learning_rate": 0.24, "optimizer.drop_epochs": [40, 80]}
    runs = [
        _write(tmp_path, "old", {"seed": 0, **old}),
        _write(tmp_path, "new", {"seed": 1, "method.name": "focal", "method.gamma": 2.0}),
        _write(tmp_path, "other", {"seed": 2, "method.name": "focal", "method.gamma": 3.0}),
    ]
    groups, _ = compare.compare(runs)
    assert [(group["seeds"], group["differs"]) for group in groups] == [
        ([0, 1], {"method.gamma": 2.0}),
        ([2], {"method.gamma": 3.0}),
    ]


def test_a_published_value_that_an_old_run_does_not_name_is_no_difference(tmp_path):
    runs = [
        _write(tmp_path, "old", {"seed": 0}),
        _write(tmp_path, "new", {"seed": 1, "method.learning_rate_u": 10.0}),
    ]
    (group,), _ = compare.compare(runs)
    assert group["seeds"] == [0, 1]


def test_what_the_data_decide_and_what_no_view_shows_is_no_difference(tmp_path):
    """Runs too old to name it, and digits runs from when their idle strong view was CIFAR's."""
    chosen = {"crop_padding": 1, "flip": False}
    strong, weak = {"strong": "autoaugment", "cutout": 16}, {"strong": "weak", "cutout": 4}
    runs = [
        _write(tmp_path, "oldest", {"seed": 0}),
        _write(tmp_path, "old", {"seed": 1, "augment": chosen | strong}),
        _write(tmp_path, "new", {"seed": 2, "augment": chosen | weak}),
    ]
    (group,), _ = compare.compare(runs)
    assert group["seeds"] == [0, 1, 2]
    runs = [
        _write(tmp_path, view["strong"], {"method.name": "sop_plus", "augment": chosen | view})
        for view in (strong, weak)
    ]
    groups, _ = compare.compare(runs)
    assert [group["differs"] for group in groups] == [
        {"augment.strong": view["strong"], "augment.cutout": view["cutout"]}
        for view in (strong, weak)
    ]


def test_a_limit_that_only_one_run_has_is_a_difference(tmp_path):
    runs = [
        _write(tmp_path, "old", {"seed": 0}),
        _write(tmp_path, "new", {"seed": 1, "data.train_limit": 100}),
    ]
    groups, _ = compare.compare(runs)
    assert [group["differs"]["data.train_limit"] for group in groups] == [100, None]


def test_a_method_that_is_unknown_here_is_compared_as_it_stands(tmp_path):
    runs = [_write(tmp_path, f"r{seed}", {"seed": seed, "method.name": "mine"}) for seed in (0, 1)]
    (group,), _ = compare.compare(runs)
    assert (group["method"], group["n"]) == ("mine", 2)


def test_a_field_of_unknown_default_with_two_values_keeps_groups_apart(tmp_path):
    runs = [
        _write(tmp_path, "old", {"seed": 0}),
        _write(tmp_path, "one", {"seed": 1, "noise.nobody_knows": 1}),
        _write(tmp_path, "two", {"seed": 2, "noise.nobody_knows": 2}),
    ]
    groups, _ = compare.compare(runs)
    assert [group["differs"]["noise.nobody_knows"] for group in groups] == ["(absent)", 1, 2]


def test_a_run_of_several_seeds_counts_as_so_many(tmp_path, capsys):
    whole = tmp_path / "whole"
    for seed in (0, 1):
        _write(whole, f"seed_{seed}", {"seed": seed}, test_accuracy_last=0.9)
    write_summary(whole, seeds=[0, 1])
    (group,), _ = compare.compare([str(whole)])
    assert (group["n"], group["seeds"]) == (2, [0, 1])
    write_summary(whole, seeds=3)
    assert compare.main([str(whole)]) == 2
    assert "seeds is not a list of seeds" in capsys.readouterr().err


def test_noise_seed_counts_as_a_seed(tmp_path):
    runs = [
        _write(tmp_path, f"n{seed}", {"noise.seed": seed}, test_accuracy_last=0.9)
        for seed in (1, 2)
    ]
    (group,), warnings = compare.compare(runs)
    assert group["n"] == 2
    assert warnings == []


def test_same_seed_twice_warns(tmp_path, capsys):
    runs = [
        _write(tmp_path, name, {"seed": 7}, test_accuracy_last=0.9) for name in ("first", "second")
    ]
    assert compare.main(runs) == 0
    warning = capsys.readouterr().err
    assert warning.startswith("warning: seed 7 occurs 2 times")
    assert "first" in warning
    assert "second" in warning


def test_out_file_holds_the_same_numbers(three_seeds, tmp_path, capsys):
    out = tmp_path / "table.json"
    assert compare.main([*three_seeds, f"--out={out}"]) == 0
    content = json.loads(out.read_text())
    assert content["groups"] == compare.compare(three_seeds)[0]
    assert content["groups"][0]["runs"] == three_seeds
    assert "0.9600 +- 0.0100" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["missing", "unfinished", "damaged", "text", "deep", "binary"])
def test_a_bad_run_is_named_in_one_line(fault, three_seeds, tmp_path, capsys):
    bad = tmp_path / "bad_run"
    if fault != "missing":
        write_summary(bad, test_accuracy_last="high" if fault == "text" else 0.9)
    if fault == "unfinished":
        (bad / "summary.json").unlink()
    if fault == "damaged":
        (bad / "summary.json").write_text('{"seed": 0,')
    if fault == "deep":
        (bad / "config.json").write_text('{"a":' * 10_000 + "1" + "}" * 10_000)
    if fault == "binary":
        (bad / "config.json").write_bytes(b"\xff\x00")
    out = tmp_path / "out.json"
    assert compare.main([*three_seeds, str(bad), f"--out={out}"]) != 0
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {bad}")
    assert captured.err.count("\n") == 1
    assert not out.exists()


def test_out_into_a_missing_folder_is_a_user_error(three_seeds, tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        compare._write(tmp_path / "no" / "where.json", {})


def test_out_replaces_a_link_and_is_no_folder(three_seeds, tmp_path, capsys):
    mine, link = tmp_path / "mine.json", tmp_path / "link.json"
    mine.write_text("mine")
    link.symlink_to(mine)
    assert compare.main([*three_seeds, f"--out={link}"]) == 0
    assert mine.read_text() == "mine" and not link.is_symlink()
    assert compare.main([*three_seeds, f"--out={tmp_path}"]) == 2
    assert "name another one" in capsys.readouterr().err


def test_shell_command(three_seeds):
    command = [sys.executable, "-m", "sop_jax.compare", *three_seeds]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert _rows(done.stdout)[0]["n"] == "3"
