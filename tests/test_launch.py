"""The launch scripts, with stand-ins for Python and curl; the digits part of the notebook, run."""

import html
import itertools
import os
import pathlib
import re
import stat
import subprocess

import matplotlib
import nbclient
import nbformat
import pytest

from sop_jax import config

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
NOTEBOOK = ROOT / "launch" / "colab_tpu.ipynb"
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


@pytest.fixture(scope="module")
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
    assert sum(
        len(tagged(notebook, tag)) for tag in ("parameters", "install", "digits", "cifar10")
    ) == len(cells)
    # a TPU has one owner
    assert not re.search(r"\bimport jax\b|\bimport sop_jax\b", NOTEBOOK.read_text())


def test_notebook_names_configs_and_fields_that_exist(notebook):
    text = "\n".join(cell.source for cell in notebook.cells)
    files = re.findall(r"--config=\{checkout\}/(\S+)", text)
    fields = re.findall(r"--config\.([\w.]+)=", text)
    assert files and all((ROOT / file).is_file() for file in files)
    assert fields and set(fields) <= set(config.flatten(config.default()))


@pytest.mark.slow
def test_digits_part_trains_and_shows_the_report(notebook, tmp_path, monkeypatch):
    # its list of fonts takes seconds to make
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())
    monkeypatch.setenv("HOME", str(tmp_path))  # compilation cache, IPython's history
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("XLA_FLAGS")  # one device compiles faster than eight
    settings = nbformat.v4.new_code_cell(f"epochs = 2\ncheckout = {str(ROOT)!r}\nworkdir = 'here'")
    part = nbformat.v4.new_notebook(
        cells=[*tagged(notebook, "parameters"), settings, *tagged(notebook, "digits")]
    )
    nbclient.execute(part, cwd=str(tmp_path), timeout=300, kernel_name="python3")

    page = (tmp_path / "here" / "digits" / "report.html").read_text()
    outputs = list(itertools.chain.from_iterable(cell.outputs for cell in part.cells))
    shown = [output.data["text/html"] for output in outputs if "data" in output]
    assert len(shown) == 1 and html.escape(page) in shown[0]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "epoch 2/2" in printed
    issues = (tmp_path / "here" / "digits" / "label_issues.csv").read_text().splitlines()
    assert issues[10] in printed
