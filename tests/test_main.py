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
from sop_jax.settings import CHOICES

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = f"--config={ROOT}/configs/digits_sop.py"
SMALL = [
    "--config.data.train_limit=100",
    "--config.model.width=2",
    "--config.batch_size=48",
    "--config.epochs=1",
    "--config.compilation_cache=off",
]
DEFAULT = "from sop_jax.config import default\ndef get_config():\n    c = default()\n"
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
        ("--config.num_seeds=0", ["config.num_seeds=0", "from 1 to 1000"]),
        ("--config.num_seeds=two", ["config.num_seeds='two'", "whole number"]),
        ("--config.seeds_by=loop", ["unknown config field --config.seeds_by"]),
        ("--config.num_seeds=1000000000", ["config.num_seeds=1000000000", "from 1 to 1000"]),
        ("--config.epochs=2147483648", ["config.epochs=2147483648", "whole number from 1"]),
        (f"--config.epochs={'9' * 5000}", ["config.epochs=", "must be a whole number"]),
        ("--config.batch_size=2147483648", ["config.batch_size=2147483648"]),
        ("--config.optimizer.learning_rate=nan", ["optimizer.learning_rate=nan", "finite"]),
        ("--config.method.learning_rate_v=1e308", ["config.method.learning_rate_v=1e+308"]),
        ("--config.model.width=2147483648", ["config.model.width=2147483648"]),
        ("--config.method.smoothing=0.9", ["no field of method 'sop'", "label_smoothing"]),
        ("--config.optimizer.warmup=0.1", ["no field of optimiser 'sgd'", "triangular"]),
        ("--config.method.nam=ce", ["no field of method 'sop'", "did you mean 'name'"]),
        ("--config.data.path=my.npz", ["config.data.path='my.npz'", "data.name=npz"]),
        ("--config.noise.labels=worst", ["config.noise.labels='worst'", "noise.kind=human"]),
        ("--config.distributed.process_id=0", ["distributed.process_id=0", "num_processes"]),
        ("--workdir=gs://bucket/run", ["--workdir=gs://bucket/run", "local or mounted folder"]),
        ("--config.epochs=1.5", ["config.epochs='1.5'", "whole number"]),
        ("--config.noise.rate=high", ["config.noise.rate='high'", "a number"]),
        ("--config.augment.flip=maybe", ["config.augment.flip='maybe'", "true or false"]),
        ("--config.data.num_classes=ten", ["config.data.num_classes='ten'", "whole number"]),
        ("--config.noise.rate=1.5", ["config.noise.rate=1.5", "from 0 to 1"]),
        ("--config.noise.kind=none", ["noise.rate", "noise.kind='none'"]),
        ("--config.task=clasify", ["did you mean 'classify'"]),
        ("--wrokdir=x", ["unknown flag --wrokdir", "did you mean 'workdir'"]),
        ("--config.epochs", ["--config.epochs", "expected one argument"]),
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
        (["--config.augment.alternating_flip"], ["alternating_flip=True", "grey images"]),
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
        fails(*flags, words=[".npz file"])
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
            f"{DEFAULT}    c.nosie.rate = 1\n    return c\n",
            ["line 4", "nosie"],
        ),
        (
            f"{DEFAULT}    c.epoch = 1\n    return c\n",
            ["config.epoch is unknown", "did you mean 'epochs'"],
        ),
        (
            "from ml_collections import ConfigDict\n"
            "def get_config():\n    return ConfigDict({'seed': 1})\n",
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
            "--config.augment.flip=false",
            CONFIG,
            "--dry_run",
            "--config.optimizer.schedule=step",
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


def test_another_method_from_any_config_with_its_own_fields(capsys):
    flags = ["--config.method.name=elr", "--config.method.momentum=0.9", "--dry_run"]
    config = main.parse(["main", CONFIG, *flags]).config
    assert config.method.to_dict() == {"name": "elr", "momentum": 0.9, "weight": None}
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2
    assert "config.method.learning_rate_u of the config file is left out" in out[0]
    with pytest.raises(UserError, match="variant is no field of method 'elr' .it belongs to sop"):
        main.parse(["main", CONFIG, *flags, "--config.method.variant=paper"])


def test_a_field_in_a_config_file_must_be_of_its_own_method(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from sop_jax.config import default\n"
        "def get_config():\n"
        "    config = default()\n"
        "    config.method.name = 'gce'\n"
        "    config.method.smoothing = 0.9\n"
        "    return config\n"
    )
    with pytest.raises(UserError, match="config.method.smoothing is no field of method 'gce'"):
        main.parse(["main", f"--config={path}", "--dry_run"])
    with pytest.raises(UserError, match="config.method.smoothing is no field of method 'gce'"):
        main.parse(["main", f"--config={path}", "--dry_run", "--config.method.name=ce"])


def test_a_task_of_other_fields_is_refused_on_the_command_line():
    with pytest.raises(UserError, match="config.task='two_curves' cannot be set on the command"):
        main.parse(["main", CONFIG, "--dry_run", "--config.task=two_curves"])


@pytest.mark.parametrize("text", ["(40,80)", "40,80", "[40, 80]"])
def test_lists_on_the_command_line(text):
    flags = ["--config.optimizer.schedule=step", f"--config.optimizer.drop_epochs={text}"]
    assert main.parse(["main", CONFIG, "--dry_run", *flags]).config.optimizer.drop_epochs == (
        40,
        80,
    )


def test_dry_run_needs_no_workdir_and_writes_nothing(run, tmp_path, capfd):
    status, _, out = run("--dry_run")
    assert status == 0 and "memory a device" in out and "table u: (256, 1)" in out
    assert "method.learning_rate_u = 20.0  # of u" in out
    note = (
        "augment.crop_padding = 1, augment.flip = False (chosen for 100 training rows of 8x8 grey"
    )
    assert note in out and "augment.flip = False  # random" in out
    assert "seeds, one after the other: 0, 1" in run("--dry_run", "--config.num_seeds=2")[2]
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
    assert "--workdir=DIR" in out and "--config.noise.rate = 0.0  the kind's nominal" in out
    for choice in CHOICES:
        for name in choice.names():
            part = out.split(f"with --config.{choice.field}={name}:")[-1].split("\n\n")[0]
            for field in choice.fields(name).values():
                assert f"--config.{choice.field.split('.')[0]}.{field.name} = " in part
                assert field.meaning in part


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.nosie.rate=0.4"], "did you mean 'noise.rate'"),
        (["--config.batch_size=60"], "not divisible by the 8 devices"),
        (["--config.augment.crop_padding=100"], "config.augment.crop_padding=100 is not allowed"),
        (["--config.batch_size=1000000"], "there are 100 training rows, so it is at most 104"),
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


def command(*flags, cwd=ROOT, **variables):
    """The real command, with no --workdir."""
    return subprocess.run(
        [sys.executable, "-m", "sop_jax.main", CONFIG, *SMALL, *flags],
        cwd=cwd,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [("--xla_no_such_flag=1", "xla_no_such_flag"), ("nonsense", 'Could not open file "nonsense"')],
)
def test_flags_that_xla_does_not_know_are_one_line(value, words):
    done = command("--dry_run", XLA_FLAGS=value)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: the variable XLA_FLAGS=") and words in done.stderr


def test_nothing_in_the_current_folder_is_imported(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import importlib.util\n"
        "from sop_jax.config import default\n"
        "def get_config():\n"
        "    assert importlib.util.find_spec('neighbour') is None\n"
        "    return default()\n"
    )
    (tmp_path / "neighbour.py").write_text("")
    done = command(
        "--dry_run",
        f"--config={tmp_path}/mine.py",
        cwd=tmp_path,
        PYTHONPATH=str(ROOT),
        XLA_FLAGS="",
    )
    assert done.returncode == 0, done.stderr
    assert "nothing was trained or written" in done.stdout
