"""The command line: every mistake ends in one line, `error: ...`, and nothing already saved is
lost.
"""

import os
import pathlib
import pickle
import subprocess
import sys
import zipfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sop_jax import checkpoint, main
from sop_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = f"--config={ROOT}/configs/digits_sop.py"
SMALL = [
    "--config.data.train_limit=100",
    "--config.model.width=2",
    "--config.batch_size=48",
    "--config.epochs=1",
    "--config.compilation_cache=off",
]
HUMAN = ["--config.noise.kind=human", "--config.noise.rate=0"]


@pytest.fixture
def run(tmp_path, capfd):
    """run(*flags) -> (exit status, last line on standard error, standard output), of main in this
    process.
    """

    def call(*flags, workdir=tmp_path / "run"):
        status = main.main(["main", CONFIG, f"--workdir={workdir}", *SMALL, *flags])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return status, (err.splitlines() or [""])[-1], out

    return call


@pytest.fixture
def fails(run, tmp_path):
    """fails(*flags, words=...) asserts one clear line that holds the words, and that no folder was
    made.
    """

    def call(*flags, words):
        status, line, _ = run(*flags)
        assert status == 2 and line.startswith("error: ")
        for word in words:
            assert word in line
        assert not (tmp_path / "run").exists()

    return call


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.noise.rat=0.4", ["unknown config field", "did you mean 'noise.rate'"]),
        ("--config.nosie.rate=0.4", ["unknown config field", "did you mean 'noise.rate'"]),
        ("--config.rate=0.4", ["did you mean 'noise.rate'"]),
        ("--config.foo=1", ["unknown config field --config.foo", "--help"]),
        ("--config.noise=1", ["unknown config field --config.noise"]),
        ("--config.noise.rate.x=1", ["unknown config field --config.noise.rate.x"]),
        ("--config.epochs=abc", ["config.epochs='abc'", "whole number"]),
        ("--config.num_seeds=0", ["config.num_seeds=0", "at least 1"]),
        ("--config.num_seeds=two", ["config.num_seeds='two'", "whole number"]),
        ("--config.seeds_by=loop", ["config.seeds_by='loop' is unknown", "auto, unroll, vmap"]),
        ("--config.epochs=1.5", ["config.epochs='1.5'", "whole number"]),
        ("--config.noise.rate=high", ["config.noise.rate='high'", "a number"]),
        ("--config.augment.flip=maybe", ["config.augment.flip='maybe'", "true or false"]),
        ("--config.data.num_classes=ten", ["config.data.num_classes='ten'", "whole number"]),
        ("--config.noise.rate=1.5", ["config.noise.rate=1.5", "[0, 1]"]),
        ("--config.noise.kind=none", ["noise.rate", "noise.kind='none'"]),
        ("--config.task=clasify", ["did you mean 'classify'"]),
        ("--wrokdir=x", ["unknown flag --wrokdir", "did you mean 'workdir'"]),
        ("--config.epochs", ["Missing value"]),
        ("garbage", ["unexpected argument 'garbage'"]),
    ],
)
def test_mistakes_on_the_command_line(fails, flag, words):
    fails(flag, words=words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.data.name=digit"], ["data.name='digit'", "did you mean 'digits'"]),
        (["--config.method.name=sopp"], ["method.name='sopp'", "sop_plus"]),
        (["--config.model.name=resnet19"], ["model.name='resnet19'", "resnet18"]),
        (["--config.data.num_classes=5"], ["data.num_classes=5", "go up to 9"]),
        (["--config.noise.kind=asymmetric"], ["asymmetric", "'digits'"]),
        (["--config.noise.kind=superclass_cyclic"], ["superclass_cyclic", "CIFAR-100"]),
        (HUMAN, ["no human labels", "--config.data.labels=FILE"]),
        (["--config.data.train_limit=5000"], ["data.train_limit=5000", "1297"]),
        (["--config.data.downsample=3"], ["data.downsample=3", "8x8"]),
        (["--config.data.validation_fraction=0.001"], ["holds out none"]),
        (["--config.data.validation_fraction=0.999"], ["leaves no training rows"]),
        (["--config.steps_per_dispatch=8"], ["config.steps_per_dispatch=8", "CPU"]),
        (
            ["--config.batch_size=60"],
            ["batch_size=60", "not divisible by the 8 devices", "--config.batch_size=64"],
        ),
    ],
)
def test_mistakes_that_the_data_or_the_devices_reveal(fails, flags, words):
    fails(*flags, words=words)


def test_missing_or_empty_data_folder(fails, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    (tmp_path / "empty").mkdir()
    for folder, state in (("nowhere", "does not exist"), ("empty", "is empty")):
        fails(
            "--config.data.name=cifar10",
            f"--config.data.dir={tmp_path / folder}",
            words=["data.dir", state],
        )


def test_unreadable_npz_files(fails, tmp_path):
    arrays = {
        "train_images": np.zeros((4, 8, 8), np.uint8),
        "train_labels": np.array([0, 1, 2, 1]),
        "test_images": np.zeros((2, 8, 8), np.uint8),
        "test_labels": np.array([0, 1]),
    }
    path = tmp_path / "data.npz"
    flags = ["--config.data.name=npz", f"--config.data.path={path}"]
    fails("--config.data.name=npz", words=["--config.data.path=FILE.npz"])
    fails(*flags, words=["no such file"])
    np.savez(path, **arrays)
    fails(
        *flags, "--config.data.num_classes=2", words=["train_labels", "label 2", "data.num_classes"]
    )
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"text", b""):
        path.write_bytes(content)
        fails(*flags, words=["not an .npz file"])
    np.savez(path, **arrays | {"train_labels": np.array([{}] * 4, object)})
    fails(*flags, words=["train_labels", "pickled objects"])
    del arrays["test_labels"]
    np.savez(path, **arrays)
    fails(*flags, words=["'test_labels' is missing"])


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_malicious_pt_file_is_refused_and_not_run(fails, tmp_path):
    path, marker = tmp_path / "labels.pt", tmp_path / "marker"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "archive/data.pkl", pickle.dumps({"worse_label": Hostile(marker)}, protocol=2)
        )
    fails(*HUMAN, f"--config.data.labels={path}", words=[str(path), "system", "refused"])
    path.write_bytes(pickle.dumps(Hostile(marker)))
    fails(*HUMAN, f"--config.data.labels={path}", words=[str(path), "not a readable .pt"])
    assert not marker.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:\n    pass\n", ["line 1", "SyntaxError"]),
        ("x = 1\n", ["no function get_config"]),
        ("def get_config():\n    return 1 / 0\n", ["line 2", "ZeroDivisionError"]),
        ("import nothing_like_that\n", ["line 1", "nothing_like_that"]),
        ("def get_config():\n    return None\n", ["returned NoneType"]),
        (
            "from sop_jax.config import default\ndef get_config():\n    c = default()\n    c.nosie.rate = 1\n    return c\n",
            ["line 4", "nosie"],
        ),
        (
            "from sop_jax.config import default\ndef get_config():\n    c = default()\n    c.epoch = 1\n    return c\n",
            ["config.epoch is unknown", "did you mean 'epochs'"],
        ),
        (
            "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'seed': 1})\n",
            ["is missing"],
        ),
    ],
)
def test_config_files_with_mistakes(tmp_path, text, words):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        main.parse(["main", f"--config={path}", "--workdir=x"])
    for word in words:
        assert word in str(caught.value)


def test_a_config_file_that_is_not_there_and_missing_flags(tmp_path):
    for flags, words in (
        (
            [f"--config={ROOT}/configs/digit_sop.py", "--workdir=x"],
            "no such file; did you mean 'digits_sop.py'",
        ),
        ([f"--config={tmp_path}", "--workdir=x"], "no such file"),
        (["--workdir=x"], "--config=FILE is missing"),
        ([CONFIG], "--workdir=DIR is missing"),
    ):
        with pytest.raises(UserError) as caught:
            main.parse(["main", *flags])
        assert words in str(caught.value)


def test_overrides_reach_the_config_in_any_order_and_it_is_locked():
    command = main.parse(
        [
            "main",
            "--config.noise.rate",
            "0.2",
            "--noconfig.augment.flip",
            CONFIG,
            "--dry_run",
            "--config.optimizer.drop_epochs=(3,5)",
            "--config.data.num_classes=10",
        ]
    )
    config = command.config
    assert (config.noise.rate, config.augment.flip, config.data.num_classes) == (0.2, False, 10)
    assert (
        tuple(config.optimizer.drop_epochs) == (3, 5)
        and command.workdir is None
        and command.dry_run
    )
    with pytest.raises(AttributeError):
        config.noise.rat = 1


def test_dry_run_needs_no_workdir_and_writes_nothing(run, tmp_path, capfd):
    status, _, out = run("--dry_run")
    assert status == 0 and "memory a device" in out and "table u: (256, 1)" in out
    assert "seeds: 2 in one program (unroll): 0, 1" in run("--dry_run", "--config.num_seeds=2")[2]
    assert main.main(["main", CONFIG, *SMALL, "--dry_run"]) == 0
    assert "nothing was trained or written" in capfd.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_kept_from_other_configs_and_finished_only_once(run, tmp_path):
    def files():
        return {
            str(path): path.read_bytes()
            for path in (tmp_path / "run").rglob("*")
            if path.is_file() and path.name != ".lock"
        }

    assert run()[0] == 0
    before = files()
    assert any(path.endswith("summary.json") for path in before)
    for flag, words in (
        ("seed=1", "seed (was 0, now 1)"),
        ("epochs=2", "cosine"),
        ("noise.rate=0.2", "noise.rate"),
        ("optimizer.learning_rate=0.5", "optimizer.learning_rate (was 0.02, now 0.5)"),
    ):
        status, line, _ = run(f"--config.{flag}")
        assert status == 2 and "belongs to a run with another config" in line and words in line
    for flags in ([], ["--config.eval_every=3"], ["--dry_run"]):
        status, _, out = run(*flags)
        assert status == 0 and ("already finished" in out or flags == ["--dry_run"])
    assert files() == before


class State(NamedTuple):
    step: jax.Array
    rows: jax.Array


def test_a_disk_without_room_is_said_before_orbax_begins(tmp_path, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: Usage)
    checkpoints = checkpoint.Checkpoints(tmp_path)
    with pytest.raises(UserError, match="no room for the checkpoint of step 3"):
        checkpoints.save(State(jnp.int32(3), jnp.zeros(8)), {})
    checkpoints.close()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["best"]


def test_file_errors_and_interruption_are_one_line(run, monkeypatch, tmp_path):
    def fail_with(error):
        def task(*_):
            raise error

        monkeypatch.setattr("sop_jax.tasks.classify.run", task)

    fail_with(OSError(28, "No space left on device", "/data/x"))
    goes_on = "what is saved is kept, and the same command goes on from it"
    assert run()[:2] == (2, f"error: No space left on device: /data/x; {goes_on}")
    fail_with(OSError(28, "No space left on device"))
    assert run()[:2] == (2, f"error: No space left on device: {tmp_path / 'run'}; {goes_on}")
    fail_with(KeyboardInterrupt())
    assert run()[:2] == (
        130,
        "error: interrupted; the same command goes on from the last checkpoint",
    )


def test_help_lists_the_flags_and_the_fields(capsys):
    assert main.main(["main", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--workdir=DIR" in out and "--config.noise.rate = 0.0  # " in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.nosie.rate=0.4"], "did you mean 'noise.rate'"),
        (["--config.batch_size=60"], "not divisible by the 8 devices"),
        ([], "cannot be made or written"),
    ],
)
def test_the_real_command_ends_in_one_line(tmp_path, flags, words):
    (tmp_path / "file").write_text("x")
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sop_jax.main",
            CONFIG,
            f"--workdir={tmp_path}/file/run",
            *SMALL,
            *(flags or ["--config.batch_size=64"]),
        ],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert last.startswith("error: ") and words in last
