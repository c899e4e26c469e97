"""The launch scripts, with stand-ins for Python and curl; the notebook, run from top to bottom."""

import html
import itertools
import os
import pathlib
import re
import shutil
import stat
import subprocess
import venv

import matplotlib
import nbclient
import nbformat
import pytest
from test_tfds import prepare

from sop_jax import config

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
NOTEBOOK = ROOT / "launch" / "colab_tpu.ipynb"
TAGS = ["accelerator", "parameters", "checkout", "install", "digits", "cifar10"]  # in this order
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ARGUMENTS = ["--config=a b.py", "--workdir=runs/x"]

# Stands for python: `-m venv DIR` copies it there, `-m pip` and `-m sop_jax.main` write their
# arguments to $LOG.
PYTHON = """#!/usr/bin/env bash
case "$1 ${2:-}" in
  "-c "*) exit "${TOO_OLD:-0}" ;;
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *) printf '%s\\n' "$@" >> "$LOG" ;;
esac
"""
CURL = '#!/usr/bin/env bash\n[[ -n "$ENDPOINTS" ]] && echo "$ENDPOINTS"\n'


@pytest.fixture
def launch(tmp_path):
    """launch("gpu.sh", NAME="value") -> (status, arguments that Python got, standard error)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("python-stub", PYTHON), ("curl", CURL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    def run(script, **variables):
        log = tmp_path / "log"
        log.write_text("")
        environment = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "LOG": str(log),
            "PYTHON": "python-stub",
            "ENDPOINTS": "",
            "SOP_JAX_VENV": str(tmp_path / "venv"),
            **variables,
        }
        done = subprocess.run(
            [ROOT / "launch" / script, *ARGUMENTS], env=environment, capture_output=True, text=True
        )
        return done.returncode, log.read_text().splitlines(), done.stderr

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_sound(script):
    text = script.read_text()
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert script.stat().st_mode & stat.S_IXUSR
    assert text.startswith("#!/usr/bin/env bash\n# ") and f"\n#   launch/{script.name} " in text
    assert "\nset -euo pipefail\n" in text
    assert not re.search(r"(^|[\s\"'=])/(home|root|work|opt|usr/local)/", text)


@pytest.mark.parametrize(("script", "extra"), [("gpu.sh", "gpu"), ("tpu_vm.sh", "tpu")])
def test_script_installs_once_and_hands_its_arguments_on(launch, script, extra):
    train = ["-m", "sop_jax.main", *ARGUMENTS]
    assert launch(script) == (
        0,
        ["-m", "pip", "install", "--quiet", "--editable", f"{ROOT}[{extra}]", *train],
        "",
    )
    assert launch(script) == (0, train, "")


def test_pod_tells_jax_how_many_workers_there_are(launch):
    _, arguments, _ = launch("tpu_vm.sh", ENDPOINTS="10.0.0.2,10.0.0.3,10.0.0.4")
    assert "--config.distributed.num_processes=3" in arguments
    _, arguments, _ = launch("tpu_vm.sh", ENDPOINTS="unknown:0:10.0.0.2")
    assert arguments == ["-m", "sop_jax.main", *ARGUMENTS]


def test_old_python_is_refused(launch):
    status, arguments, error = launch("gpu.sh", TOO_OLD="1")
    assert status == 2 and not arguments
    assert error.startswith("error: no Python 3.11 or newer") and error.count("\n") == 1


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def tagged(notebook, tag):
    return [
        cell for cell in notebook.cells if cell.cell_type == "code" and cell.metadata.tags == [tag]
    ]


def test_notebook_is_valid_and_holds_no_outputs(notebook):
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    tags = [tag for cell in cells for tag in cell.metadata.tags]
    assert [tag for tag, _ in itertools.groupby(tags)] == TAGS
    # a TPU has one owner
    assert not re.search(r"\bimport jax\b|\bimport sop_jax\b", NOTEBOOK.read_text())


def test_notebook_names_configs_and_fields_that_exist(notebook):
    text = "\n".join(cell.source for cell in notebook.cells)
    files = re.findall(r'--config="\{checkout\}/(\S+)"', text)
    fields = re.findall(r"--config\.([\w.]+)=", text)
    assert files and all((ROOT / file).is_file() for file in files)
    assert fields and set(fields) <= set(config.flatten(config.default()))


@pytest.mark.parametrize("where", ["launch", "elsewhere"])
def test_notebook_takes_its_own_checkout_or_clones_one(notebook, tmp_path, monkeypatch, where):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    origin = tmp_path / "a b"
    subprocess.run(["git", "init", "--quiet", origin], check=True)
    part = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(f"repository = {str(origin)!r}"),
            *tagged(notebook, "checkout"),
            nbformat.v4.new_code_cell("print(checkout)"),
        ]
    )
    folder = ROOT / "launch" if where == "launch" else tmp_path
    nbclient.execute(part, cwd=str(folder), timeout=60, kernel_name="python3")
    assert (tmp_path / "checkout" / ".git").exists() == (where == "elsewhere")
    checkout = ROOT if where == "launch" else tmp_path / "checkout"
    assert part.cells[-1].outputs[0].text == f"{checkout}\n"


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """The name of a kernel in an environment of its own that has nothing else."""
    home = pathlib.Path.home()  # pip's settings and downloads stay as they are
    monkeypatch.setenv("XDG_CONFIG_HOME", os.environ.get("XDG_CONFIG_HOME", str(home / ".config")))
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME", str(home / ".cache")))
    monkeypatch.setenv("HOME", str(tmp_path))  # compilation cache, IPython's history
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv("XLA_FLAGS")  # one device compiles faster than eight
    # its list of fonts takes seconds to make
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    for arguments in (
        ["pip", "install", "--quiet", "ipykernel"],
        ["ipykernel", "install", "--prefix", environment, "--name=alone"],
    ):
        subprocess.run([python, "-m", *arguments], check=True, capture_output=True)
    monkeypatch.setenv("JUPYTER_PATH", str(environment / "share" / "jupyter"))
    return "alone"


@pytest.mark.slow
def test_notebook_runs_from_top_to_bottom_on_a_cpu(notebook, tmp_path, kernel):
    """All of its cells, installation too; only the one of the accelerator is another."""
    checkout = tmp_path / "a checkout"
    for name in ("configs", "launch", "sop_jax"):
        shutil.copytree(ROOT / name, checkout / name)
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, checkout)
    runs = checkout / "launch" / "runs"
    splits = {
        split: [(f"{split}_{i:05d}", i % 10) for i in range(n)]
        for split, n in (("train", 250), ("test", 100))
    }
    prepare(runs / "tfds", "cifar10", splits, shape=(32, 32, 3), names=CIFAR10)
    (cell,) = tagged(notebook, "accelerator")
    small = re.search('"(.*small_resnet)"', cell.source).group(1)
    cell.source = f'extra = ""\ncifar10_options = "{small}"'

    nbclient.execute(notebook, cwd=str(checkout / "launch"), timeout=300, kernel_name=kernel)

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output.data["text/html"] for output in outputs if "data" in output]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert len(shown) == 2 and "epoch 60/60" in printed and "epoch 1/1" in printed
    for name, frame in zip(("digits", "cifar10"), shown, strict=True):
        assert html.escape((runs / name / "report.html").read_text()) in frame
        assert (runs / name / "label_issues.csv").read_text().splitlines()[10] in printed
