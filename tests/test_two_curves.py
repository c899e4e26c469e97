"""The task end to end in a tiny version, its summary's keys, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image

from sop_jax.errors import UserError
from sop_jax.tasks import two_curves


@pytest.fixture
def config():
    config = two_curves.default()
    config.kernel.depths = (1, 5)
    config.certificate.depths = (1, 5)
    config.certificate.curves = ("circles-0.3", "winding-4-0.3", "coils-0.3-1-3")
    config.concentration.update({"depths": (2,), "widths": (8, 32), "seeds": 3})
    config.training.update({"curves": ("circles-1",), "depths": (1, 2), "width": 32, "seeds": 2})
    config.training.update({"samples": 6, "steps": 40, "table_steps": (20, 40), "grid": 20})
    config.tradeoff.update({"curve": "circles-1", "depths": (2,), "widths": (32,), "seeds": 2})
    config.tradeoff.update({"samples": (3, 6), "steps": 40})
    config.linearised.update({"width": 64, "steps": 5})
    return config


def test_a_tiny_study_leaves_figures_and_the_keys_read_from_outside(config, tmp_path):
    two_curves.run(config, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["kernel"]["1"]["0.3"] == pytest.approx(np.cos(0.3) * (1 - 0.3 / np.pi))
    assert list(summary["kernel"]["5"]) == ["0", "0.1", "0.3", "0.7", "1.5", "2.5", "3.14159"]
    assert summary["label_eigenvalue"]["circles-0.3"]["5"] == pytest.approx(0.071, abs=1e-3)
    assert summary["certificate_norm"]["circles-0.3"]["5"] == pytest.approx(1 / 0.071, rel=0.01)
    assert summary["certificate_norm"]["winding-4-0.3"]["1"] is None
    geometry = summary["geometry"]["coils-0.3-1-3"]
    assert geometry["separation"] == pytest.approx(0.3)
    assert geometry["curvature"] == pytest.approx(1)
    assert geometry["near_returns"] == 3 and geometry["loop_number"] >= 3
    assert set(summary["concentration"]["2"]) == {"8", "32"}
    concentration = summary["concentration"]["2"]["32"]
    assert concentration["mean"]["0"] == pytest.approx(1 + concentration["relative_bias"])
    one_angle = abs(concentration["mean"]["0.3"] - 0.827) / np.sqrt(7)
    assert concentration["rms_distance"] >= one_angle - 1e-3

    def training(key):
        return summary[key]["circles-1"]["2"]["40"]

    seeds = training("training_accuracy_seeds")
    assert len(seeds) == 2 and np.mean(seeds) == pytest.approx(training("training_accuracy"))
    assert np.std(seeds, ddof=1) == pytest.approx(training("training_accuracy_std"), abs=1e-4)
    tradeoff = summary["tradeoff"]
    assert set(tradeoff["width"]["2"]) == {"32"} and set(tradeoff["samples"]["2"]) == {"3", "6"}
    assert 0 <= summary["linearised"]["flow"] < 1
    figures = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert figures == [
        "certificate.png",
        "concentration.png",
        "kernel.png",
        "tradeoff.png",
        "training.png",
    ]
    for name in figures:
        assert (tmp_path / "plots" / name).stat().st_size < 100_000
        with Image.open(tmp_path / "plots" / name) as image:
            assert image.width <= 900


def test_a_diverging_run_names_depth_seed_and_limit(config, tmp_path):
    config.seed = 3
    config.training.learning_rate = 500.0
    with pytest.raises(
        UserError, match=r"diverged at depth 1, seed 3: .*learning_rate=500 .*2/lam_max = \d"
    ):
        two_curves.run(config, tmp_path)
    assert not (tmp_path / "summary.json").exists()


def test_a_dry_run_writes_nothing(config, tmp_path, capsys):
    two_curves.run(config, tmp_path / "run", dry_run=True)
    assert "3 certificates" in capsys.readouterr().out and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("group", "field", "value"),
    [
        ("training", "width", 0),
        ("training", "samples", 0),
        ("training", "seeds", 0),
        ("training", "depths", (1, 0)),
        ("training", "depths", ()),
        ("training", "steps", 50),
        ("training", "table_steps", (30,)),
        ("training", "table_steps", (60,)),
        ("training", "learning_rate", -1.0),
        ("training", "curves", ("circles-0.3", "knots-3")),
        ("certificate", "curves", ("circles-2.5",)),
        ("concentration", "widths", (1.5,)),
        ("concentration", "seeds", 1),
        ("kernel", "angles", (4.0,)),
        ("tradeoff", "samples", (0,)),
        ("tradeoff", "curve", "coils-0.3-0.01-3"),
        ("linearised", "depth", 0),
    ],
)
def test_bad_fields_are_refused_by_name(config, group, field, value):
    config[group].update({field: value})
    with pytest.raises(UserError, match=f"config.{group}.{field}"):
        two_curves.check(config)


def test_a_misspelt_field_is_refused(config):
    config.training.widht = 3
    with pytest.raises(UserError, match="config.training.widht is unknown"):
        two_curves.check(config)


def test_the_config_file_is_the_default():
    from configs.theory.two_curves import get_config

    two_curves.check(get_config())
    assert get_config().to_dict() == two_curves.default().to_dict()
