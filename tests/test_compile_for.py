"""`compile_for`: what it refuses, and what it says of programs for chips that are not there."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from sop_jax import chips, compile_for
from sop_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
needs_libtpu = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="needs libtpu: pip install '.[compile_tpu]'"
)
has_cuda = importlib.util.find_spec("jax_plugins") and importlib.util.find_spec(
    "jax_plugins.xla_cuda12"
)
needs_cuda = pytest.mark.skipif(
    not has_cuda, reason="needs CUDA's compiler: pip install '.[compile_gpu]'"
)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("v5p3:2x2", "chip 'v5p3' is unknown; did you mean 'v5p'"),
        ("v5e", "shape '' is none; it is such as v5e:2x2"),
        ("h100:0", "shape '0' is none; it is such as h100:4"),
    ],
)
def test_topologies_that_do_not_exist_are_named(name, line):
    with pytest.raises(UserError) as error:
        chips.find(name)
    assert line in str(error.value)


@pytest.mark.parametrize(("name", "extra"), [("v5e:2x2", "compile_tpu"), ("h100:1", "compile_gpu")])
def test_a_compiler_that_is_not_installed_is_one_line(monkeypatch, name, extra):
    monkeypatch.setattr(chips, "_installed", lambda module: False)
    with pytest.raises(UserError, match=rf"pip install 'sop-jax\[{extra}\]'"):
        chips.find(name)


def run(*arguments):
    """In a process of its own, with one CPU device and no data."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-m", "sop_jax.compile_for", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


SMALL = ("--config=configs/cifar10_sop_plus.py", "--config.model.name=small_resnet")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--topology=v5e:2x2", "--config.batch_size=x"], "config.batch_size='x' has the wrong"),
        ([], "the following arguments are required: --topology"),
        (["--topology=v5e:2x2", "--image_shape=8"], "it is HEIGHTxWIDTHxCHANNELS"),
        (["--topology=v5e:2x2", "--rows=0"], "it is a whole number, 1 or more"),
        (["--config=configs/theory/linear_figure2.py", "--topology=v5e:2x2"], "config.task="),
    ],
)
def test_mistakes_end_in_one_line(monkeypatch, capsys, arguments, line):
    monkeypatch.chdir(ROOT)
    assert compile_for.main(["--config=configs/digits_sop.py", *arguments]) == 2
    printed = capsys.readouterr()
    assert not printed.out and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert line in printed.err


def test_sizes_stand_in_for_data_that_are_not_there():
    config = compile_for.command_line.parse(
        ["", f"--config={ROOT}/configs/cifar100_sop.py", "--dry_run", "--config.data.downsample=2"]
    ).config
    flags, rest = compile_for._flags(["--topology=v5e:2x2", "--rows=1000", "--image_shape=8x6x1"])
    assert rest == []
    data = compile_for.data_of(config, flags)
    assert data.train.images.shape == (1000, 4, 3, 1) and len(data.class_names) == 100


@pytest.fixture(scope="module")
def of_four_chips(tmp_path_factory):
    """The account of a small network's SOP+ step on four v5e chips."""
    folder = tmp_path_factory.mktemp("compiled")
    done = run(
        *SMALL,
        "--topology=v5e:2x2",
        "--config.batch_size=512",
        "--rows=12800",
        f"--out={folder}/out.json",
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "out.json").read_text()), done.stdout


@pytest.mark.slow
@needs_libtpu
def test_nothing_as_long_as_the_data_set_travels_and_no_element_is_read_alone(of_four_chips):
    result, _ = of_four_chips
    assert result["devices"] == 4 and result["steps_per_dispatch"] == 25
    assert result["collectives"]["as_long_as_the_data_set"] == []
    assert result["collectives"]["all-reduce"]["count_of_network"] > 10
    assert result["large_copies_megabytes"] < 1  # the images are not copied
    # it took 14.4 ms before it had a form for TPUs
    assert result["parts"]["augmentation"]["ms"] < 1.5


@pytest.mark.slow
@needs_libtpu
def test_the_account_says_what_fits_and_how_it_was_made(of_four_chips):
    result, printed = of_four_chips
    memory = result["memory_bytes"]
    assert memory["fits"] and 0 < memory["total"] < memory["device"] == 16 * 2**30
    assert memory["largest_batch_per_device"] > 128
    assert result["command"].startswith("python -m sop_jax.compile_for --config=configs/")
    assert result["versions"]["libtpu"] and result["versions"]["jax"]
    estimate = result["estimate"]
    assert estimate["step_ms"] == pytest.approx(
        sum(own.get("ms", 0) for own in result["parts"].values()), rel=1e-3
    )
    assert 0 < estimate["utilisation"] < 1
    assert "memory a device:" in printed and "images/s" in printed


@pytest.mark.slow
@needs_libtpu
def test_nothing_as_long_as_the_data_set_travels_on_256_chips(tmp_path):
    done = run(
        *SMALL,
        "--topology=v5e:16x16",
        "--config.method.name=sop",
        "--config.batch_size=4096",
        f"--out={tmp_path}/out.json",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["devices"] == 256
    assert result["collectives"]["as_long_as_the_data_set"] == []


@pytest.mark.slow
@needs_cuda
def test_a_gpus_convolutions_are_cudnns_in_bfloat16(tmp_path):
    done = run(
        *SMALL,
        "--topology=h100:2",
        "--config.batch_size=256",
        "--config.method.name=sop",
        f"--hlo={tmp_path}/program.txt",
        f"--out={tmp_path}/out.json",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["device_kind"] == "NVIDIA H100 80GB HBM3" and result["devices"] == 2
    assert result["collectives"]["as_long_as_the_data_set"] == []
    convolutions = [
        line
        for line in (tmp_path / "program.txt").read_text().splitlines()
        if 'custom_call_target="__cudnn$conv' in line
    ]
    assert convolutions and all("bf16[" in line.split("custom-call(")[0] for line in convolutions)
