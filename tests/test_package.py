"""What the package shows, and what of it is installed."""

import pathlib
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

import sop_jax

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_public_names_are_shown_and_are_there():
    assert {"SOPClassifier", "UserError", "__version__"} <= set(dir(sop_jax))
    assert set(dir(sop_jax)) == set(sop_jax.__all__)
    assert all(hasattr(sop_jax, name) for name in sop_jax.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        sop_jax.no_such_name  # noqa: B018


def test_the_package_alone_loads_neither_jax_nor_the_estimator():
    script = (
        "import sys, sop_jax; loaded = {'jax', 'sklearn', 'sop_jax.estimator'} & set(sys.modules);"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_version():
    assert sop_jax.__version__ == PROJECT["version"]


def test_upper_bounds():
    """JAX and what stands on it change their interfaces; pandas is never required."""
    bounds = {entry.split(">")[0]: entry for entry in PROJECT["dependencies"]}
    for name in ("jax", "flax", "optax", "orbax-checkpoint", "chex", "ml-collections", "numpy"):
        assert "<" in bounds[name]
    assert "filelock" in bounds and "jinja2" in bounds and "pandas" not in bounds


@pytest.mark.slow
def test_wheel_holds_every_file_of_the_package(tmp_path):
    source = tmp_path / "source"
    no_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "sop_jax", source / "sop_jax", ignore=no_caches)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    wanted = {str(path.relative_to(source)) for path in (source / "sop_jax").rglob("*.*")}
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", str(source)]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("sop_jax/")}
    assert held == wanted and "sop_jax/py.typed" in held
