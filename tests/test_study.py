"""The folder of a theory task: parts survive a kill, damage is mended, other configs refused."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sop_jax import config as configs
from sop_jax import finished, study
from sop_jax.errors import UserError


@pytest.fixture
def config():
    config = configs.base("two_curves")
    config.sizes = (1, 2)
    return config


def squares(calls):
    def compute():
        calls.append(1)
        return {"x": np.arange(3.0) ** 2, "n": 7}

    return compute


def test_a_killed_study_computes_only_what_is_missing(config, tmp_path, capsys):
    calls = []
    with pytest.raises(KeyboardInterrupt), study.opened(config, tmp_path / "run") as folder:
        folder.part("squares", squares(calls))
        raise KeyboardInterrupt
    assert not (tmp_path / "run" / "summary.json").exists()
    with study.opened(config, tmp_path / "run") as folder:
        arrays = folder.part("squares", squares(calls))
        np.testing.assert_array_equal(arrays["x"], [0.0, 1.0, 4.0])
        assert set(arrays) == {"x", "n"} and arrays["n"] == 7 and len(calls) == 1
        figure = Figure(figsize=(3, 2), dpi=90)
        figure.subplots().plot([0, 1])
        folder.figure("line", figure)
        folder.finish({"total": float(arrays["x"].sum())})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (
        summary["total"] == 5
        and summary["task"] == "two_curves"
        and summary["seconds"]["squares"] >= 0
    )
    with Image.open(tmp_path / "run" / "plots" / "line.png") as figure:
        assert figure.size == (270, 180)
    with study.opened(config, tmp_path / "run") as folder:
        assert folder is None
    assert "already finished" in capsys.readouterr().out


def finish(config, workdir, calls):
    with study.opened(config, workdir) as folder:
        if folder is not None:
            arrays = folder.part("squares", squares(calls))
            folder.finish({"total": float(arrays["x"].sum())})


def test_a_finished_study_with_damaged_files_is_mended(config, tmp_path):
    """Also where the arrays are whole, but another study's, which part() cannot see."""
    calls = []
    finish(config, tmp_path, calls)
    (tmp_path / "summary.json").unlink()
    np.savez(tmp_path / "arrays" / "squares.npz", x=np.zeros(3), part_seconds=0.0)
    finish(config, tmp_path, calls)
    assert json.loads((tmp_path / "summary.json").read_text())["total"] == 5 and len(calls) == 2
    assert finished.damaged(tmp_path) == []
    finish(config, tmp_path, calls)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:],
    ],
)
def test_a_damaged_part_is_computed_anew(config, tmp_path, damage, capsys):
    calls = []
    with study.opened(config, tmp_path) as folder:
        before = folder.part("squares", squares(calls))
    path = tmp_path / "arrays" / "squares.npz"
    path.write_bytes(damage(path.read_bytes()))
    with study.opened(config, tmp_path) as folder:
        after = folder.part("squares", squares(calls))
    assert len(calls) == 2 and "is damaged" in capsys.readouterr().out
    np.testing.assert_array_equal(before["x"], after["x"])


def test_another_config_or_a_folder_in_use_is_refused(config, tmp_path):
    with (
        study.opened(config, tmp_path),
        pytest.raises(UserError, match="in use"),
        study.opened(config, tmp_path),
    ):
        pass
    config.compilation_cache = "off"
    with study.opened(config, tmp_path) as folder:
        assert folder is not None
    config.sizes = (1, 3)
    with (
        pytest.raises(UserError, match=r"sizes \(was \[1, 2\], now \[1, 3\]\)"),
        study.opened(config, tmp_path),
    ):
        pass
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"), study.opened(config, tmp_path):
        pass


def test_a_study_from_before_the_data_decided_is_recognised(tmp_path):
    """The main task's fields stand in a study's config too, where they are not resolved."""

    def with_batch(size):
        config = configs.default()
        config.update(task="neural_collapse", batch_size=size)
        return config

    finish(with_batch(128), tmp_path, [])
    with study.opened(with_batch(None), tmp_path) as folder:
        assert folder is None
    with (
        pytest.raises(UserError, match="batch_size .was 128, now 64."),
        study.opened(with_batch(64), tmp_path),
    ):
        pass
