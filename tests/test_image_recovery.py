"""The task image_recovery end to end on small problems: summary, figures, resumption, bad input."""

import json

import numpy as np
import pytest
from PIL import Image

from sop_jax import compiler, main, study
from sop_jax.errors import UserError
from sop_jax.tasks import image_recovery
from sop_jax.theory import image_fit, image_study, photograph

FITS = image_fit.FITS


@pytest.fixture
def config(monkeypatch):
    """Two iterations a part of a one-scale network on 8x8 pixels, compiled unoptimised."""
    monkeypatch.setattr(image_fit, "options_for_steps", compiler.options_for_one_run)
    config = image_recovery.default()
    config.update({"size": 8, "width": 2, "scales": 1, "iterations": 5, "iterations_per_part": 2})
    return config


@pytest.fixture
def matrix_config():
    config = image_recovery.default()
    config.problem = "matrix"
    config.matrix.update(
        {"size": 12, "rank": 1, "iterations": 600, "record_every": 50, "num_problems": 2}
    )
    return config


def run(config, folder):
    image_recovery.check(config)
    image_recovery.run(config, folder)
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture
def one_compilation(monkeypatch):
    """Runs of one image share their fits, which hold no state, so that each is compiled once."""
    made, make = {}, image_fit.make

    def make_once(name, *rest):
        if name not in made:
            made[name] = make(name, *rest)
        return made[name]

    monkeypatch.setattr(image_fit, "make", make_once)


@pytest.mark.slow
def test_images_end_to_end_and_a_killed_run_ends_the_same(
    config, one_compilation, tmp_path, monkeypatch
):
    path = tmp_path / "photo one.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)).save(path)
    config.image = str(path)
    whole = run(config, tmp_path / "whole")
    assert set(whole["images"]) == {"photo one"}
    for key, value in whole["images"]["photo one"].items():
        assert whole[key] == value
    assert whole["psnr_best"] >= whole["psnr_final"]
    assert whole["psnr_plain_final"] == whole["psnr_plain_l1_final"]
    assert whole["psnr_plain_mse_best"] >= whole["psnr_plain_mse_final"]
    assert 4 < whole["psnr_input"] < 12
    path = tmp_path / "whole" / "plots" / "photo one_recovery.png"
    with Image.open(path) as figure:
        assert figure.width == 900 and path.stat().st_size < 100_000
    parts = sorted(file.name for file in (tmp_path / "whole" / "arrays").iterdir())
    fits = [f"photo one_{name}_{end}.npz" for name in FITS for end in (2, 4, 5)]
    assert parts == sorted([*fits, "photo one_clean.npz"])

    finished = []
    original = study.Study.part

    def killed(self, name, compute):
        if len(finished) == 5:
            raise KeyboardInterrupt
        finished.append(name)
        return original(self, name, compute)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(study.Study, "part", killed)
        run(config, tmp_path / "killed")
    saved = [tmp_path / "killed" / "arrays" / f"{name}.npz" for name in finished]
    times = [file.stat().st_mtime_ns for file in saved]
    resumed = run(config, tmp_path / "killed")
    assert [file.stat().st_mtime_ns for file in saved] == times
    for summary in (whole, resumed):
        del summary["seconds"]
    assert resumed == whole
    for part in parts:
        one = np.load(tmp_path / "whole" / "arrays" / part)
        other = np.load(tmp_path / "killed" / "arrays" / part)
        with one, other:
            for key in set(one) - {"part_seconds"}:
                np.testing.assert_array_equal(one[key], other[key])


def test_an_image_that_changed_while_the_run_was_away_is_refused(config, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    path = tmp_path / "photo.png"
    config.image = str(path)
    for shade, error in ((0, KeyboardInterrupt), (9, UserError), (0, KeyboardInterrupt)):
        Image.fromarray(np.full((16, 16, 3), shade, np.uint8)).save(path)
        with (
            monkeypatch.context() as patch,
            pytest.raises(error, match="not the one .* began with" if shade else None),
        ):
            patch.setattr(image_fit, "make", stopped)
            image_recovery.run(config, tmp_path / "run")


def test_matrices_end_to_end(matrix_config, tmp_path):
    summary = run(matrix_config, tmp_path)
    assert len(summary["relative_error"]) == 2 and summary["relative_error_max"] == max(
        summary["relative_error"]
    )
    assert [each["gamma"] for each in summary["by_gamma"]] == [1e-6, 1e-3, 1e-9]
    assert summary["alpha"] == pytest.approx(12**0.5)
    with np.load(tmp_path / "arrays" / "gamma_1e-06.npz") as arrays:
        assert arrays["errors"].shape == (2, 12) and arrays["errors"].dtype == np.float64
    for name in ("matrix_error", "matrix_limit"):
        assert (tmp_path / "plots" / f"{name}.png").stat().st_size < 100_000


def test_facts_of_an_image_by_hand():
    """Half of a grey image's entries are wrong; half of them are found, and a right one too."""
    clean, corrupted = np.full((2, 2, 3), 0.5), np.full((2, 2, 3), 0.5)
    corrupted.flat[:6] = 1
    sparse = np.zeros((2, 2, 3))
    sparse.flat[[0, 1, 2, 11]] = 0.5, 0.5, 0.15, -0.15
    curves = {name: np.array([10.0, 20.0 + i, 15.0 + i]) for i, name in enumerate(FITS)}
    recovered = dict.fromkeys(FITS, clean + 0.1)
    facts = image_study.facts(clean, corrupted, curves, recovered, sparse)
    assert facts["psnr_input"] == pytest.approx(10 * np.log10(8))  # 1 / (.5 * .25)
    assert (facts["psnr_final"], facts["psnr_best"], facts["psnr_best_iteration"]) == (15, 20, 2)
    assert (facts["psnr_plain_final"], facts["psnr_plain_best"]) == (16, 21)
    assert (facts["psnr_plain_mse_final"], facts["psnr_plain_mse_best"]) == (17, 22)
    assert facts["psnr_recovered"] == pytest.approx(20)
    assert facts["support"] == [
        {"threshold": 0.05, "precision": 0.75, "recall": 0.5},
        {"threshold": 0.1, "precision": 0.75, "recall": 0.5},
        {"threshold": 0.2, "precision": 1.0, "recall": pytest.approx(1 / 3)},
    ]


def test_a_photograph_of_a_turned_camera_is_upright(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:, 2:] = 255
    exif = Image.Exif()
    exif[274] = 6  # orientation: to be turned clockwise by a right angle
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(
        photograph.load(str(tmp_path / "turned.png"), 2)[:, :, 0], [[0, 0], [1, 1]]
    )


def test_a_photograph_is_cut_square_about_its_centre_and_averaged(tmp_path):
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 2:4], pixels[:, 4:6], pixels[:2, 4:6] = 100, 200, 220
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    image = photograph.load(str(tmp_path / "wide.png"), 2)
    assert image.dtype == np.float32 and image.shape == (2, 2, 3)
    np.testing.assert_allclose(image[..., 0] * 255, [[100, 220], [100, 200]])
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(photograph.load(str(tmp_path / "grey.png"), 2), image)
    for name in photograph.EMBEDDED:
        embedded = photograph.load(name, 32)
        assert embedded.shape == (32, 32, 3) and embedded.std() > 0.1


def test_an_image_that_cannot_be_had_is_named(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
        tmp_path / "good.png"
    )
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    for name, message in (
        ("absent.png", "no file"),
        ("cut.png", "cannot be read"),
        ("text.png", "cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            photograph.load(str(tmp_path / name), 32)
    with pytest.raises(UserError, match="config.size=96 is larger than the image .* 64x64"):
        photograph.load(str(tmp_path / "good.png"), 96)
    with pytest.raises(UserError, match="no file ''"):
        photograph.load("", 32)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"problem": "video"}, "config.problem='video' is unknown"),
        ({"corruption": 1.0}, r"config.corruption=1.0 is not allowed: a rate lies in \[0, 1\)"),
        ({"corruption": -0.1}, "config.corruption"),
        ({"corruption": float("nan")}, "config.corruption"),
        ({"size": 9}, "multiple of 2 and at least 4"),
        ({"size": 16, "scales": 4}, "at least 32"),
        ({"iterations": 0}, "config.iterations=0"),
        ({"alpha": 1e9}, r"diverges above 3HW/4 = 48; lower config.alpha below 1.966e\+05"),
        ({"alpha": 0.0}, "config.alpha=0.0 .* above 0"),
        ({"learning_rate": float("inf")}, "config.learning_rate=inf"),
        ({"matrix.rank": 50}, "config.matrix.rank=50 .* below its size, config.matrix.size=50"),
        ({"matrix.rank": 0}, "config.matrix.rank=0"),
        ({"matrix.corruption": 1.2}, "config.matrix.corruption=1.2"),
        ({"matrix.alpha": -1.0}, "config.matrix.alpha=-1.0"),
        ({"matrix.compared_gammas": (1e-3, 0.0)}, "config.matrix.compared_gammas"),
        ({"matrix.record_every": 7}, "must divide config.matrix.iterations"),
    ],
)
def test_bad_fields_are_named(config, change, message):
    config.update_from_flattened_dict(change)
    if any(name.startswith("matrix.") for name in change):
        config.problem = "matrix"
    with pytest.raises(UserError, match=message):
        image_recovery.check(config)


def test_two_images_of_one_name_are_refused(config, tmp_path):
    config.image = "china, elsewhere/china.png"
    with pytest.raises(UserError, match="two images called 'china'"):
        image_recovery.run(config, tmp_path)


@pytest.mark.parametrize(
    "factor, diverges", [(0.9, False), (1.1, False), (3.0, True), (float("nan"), True)]
)
def test_a_part_whose_loss_grew_is_not_kept(factor, diverges):
    """A part multiplies the loss by `factor`: a little up and down is the input's noise."""

    def advance(state, count):
        losses = np.geomspace(1, factor, count) if factor == factor else np.full(count, np.nan)
        return state._replace(iteration=state.iteration + count), image_fit.Progress(losses, losses)

    state = image_fit.State({}, (), np.int32(4))
    fit = image_fit.Fit(state, advance, lambda state: {}, "lower config.alpha")
    if diverges:
        with pytest.raises(
            UserError, match="the loss ended at .* after 7 iterations; lower config.alpha"
        ):
            image_study.advance(fit, state, 3, np.inf)
    else:
        assert image_study.advance(fit, state, 3, np.inf)["state_0"] == 7
        # against the first loss of an earlier part
        with pytest.raises(UserError, match="descent diverged"):
            image_study.advance(fit, state, 3, 0.1)


@pytest.mark.slow
def test_a_rate_beyond_reason_diverges_and_the_limits_are_named(config, tmp_path):
    config.update({"image": "china", "learning_rate": 1e30, "alpha": 1e-30})
    with pytest.raises(UserError, match=r"descent diverged: the loss .* below 3HW/4 = 48"):
        run(config, tmp_path)
    assert [file.name for file in (tmp_path / "arrays").iterdir()] == ["china_clean.npz"]


def test_command_line(tmp_path, capsys):
    command = [
        "sop_jax",
        "--config=configs/theory/image_recovery.py",
        "--config.compilation_cache=off",
        "--dry_run",
    ]
    assert main.main(command) == 0
    out = capsys.readouterr().out
    assert (
        "images: china, flower, reduced to" in out
        and "fold an iteration (1.0025 in the paper)" in out
    )
    matrix = [
        "sop_jax",
        "--config=configs/theory/matrix_recovery.py",
        "--config.compilation_cache=off",
        "--dry_run",
    ]
    assert (
        main.main(matrix) == 0 and "matrices: 10 of 50x50, alpha 7.071" in capsys.readouterr().out
    )
    assert main.main([*command[:-1], f"--workdir={tmp_path}", "--config.image=absent.jpg"]) == 2
    assert capsys.readouterr().err.startswith("error: config.image: there is no file 'absent.jpg'")
