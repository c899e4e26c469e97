"""The README says what is true: its own-loop example runs, its commands and files exist."""

import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
THEORY = "The theory, by one command each"


def section(title):
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_own_loop_example_runs_and_finds_wrong_labels():
    """The documented 25 lines, on digits with a linear model and 30 % wrong labels."""
    from sklearn.metrics import roc_auc_score

    from sop_jax.data import noise, sources

    digits = sources.digits().train
    images = jnp.asarray(digits.images.reshape(len(digits.labels), -1) / 255.0, jnp.float32)
    given, _ = noise.corrupt(digits.labels, noise.symmetric(0.3, 10), seed=0)
    code = re.search(r"```python\n(.*?)```", section("Your own training loop"), re.DOTALL)[1]
    assert len(code.splitlines()) <= 27
    names = {
        "apply": lambda params, x: x @ params["w"] + params["b"],
        "params": {"w": jnp.zeros((64, 10)), "b": jnp.zeros(10)},
        "num_examples": len(given), "num_classes": 10, "batch_size": 32,
    }  # fmt: skip
    exec(code.replace('"u": 10.0, "v": 10.0', '"u": 60.0, "v": 60.0'), names)  # 25 epochs are few
    params, rows, opt_state = names["params"], names["rows"], names["opt_state"]
    for epoch in range(25):
        order = np.random.default_rng(epoch).permutation(len(given))[:1280].reshape(-1, 32)
        for index in order:
            params, rows, opt_state = names["step"](
                params,
                rows,
                opt_state,
                images[index],
                jnp.asarray(given[index]),
                jnp.asarray(index),
            )
    wrong = given != digits.labels
    assert roc_auc_score(wrong, np.asarray(rows["u"])[: len(given), 0] ** 2) > 0.9
    assert np.mean(np.argmax(images @ params["w"] + params["b"], 1) == digits.labels) > 0.9


def test_quick_start_blocks():
    sys.path.insert(0, str(ROOT / ".ci"))
    try:
        from readme_blocks import quick_start_blocks
    finally:
        sys.path.pop(0)
    train, test = quick_start_blocks(README)
    assert "pip install" in train and "configs/digits_sop.py" in train and "--workdir=" in train
    assert "pytest" in test
    # the first two bash blocks, and the only ones
    assert len(re.findall("^```bash", README, re.MULTILINE)) == 2


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_every_config_stands_in_the_readme(path):
    patterns = re.findall(r"`(\w+)_\{([\w,]+)\}`", section("Every config"))
    names = {f"{stem}_{m}" for stem, methods in patterns for m in methods.split(",")}
    names |= set(re.findall(r"^\| `(\w+)` \|", section("Every config"), re.MULTILINE))
    assert path.stem in names


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "theory").glob("*.py")), ids=lambda p: p.stem
)
def test_every_theory_config_stands_in_the_readme_with_its_figure(path):
    row = next(
        line for line in section(THEORY).splitlines() if line.startswith(f"| `{path.stem}` |")
    )
    figures = re.findall(r"\]\((benchmarks/results/theory/[\w.]+\.png)\)", row)
    assert figures
    for figure in figures:
        with Image.open(ROOT / figure) as image:
            image.load()
        assert (ROOT / figure).stat().st_size < 100_000


def test_files_named_exist():
    for name in (
        "ARCHITECTURE.md",
        "CITATION.cff",
        "LICENSE",
        "launch/gpu.sh",
        "launch/tpu_vm.sh",
        "launch/colab_tpu.ipynb",
        "sop_jax/config.py",
    ):
        assert (ROOT / name).exists(), name
    assert "CC BY-NC" in README


def test_the_map_names_every_module():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in (ROOT / "sop_jax").rglob("*.py"):
        folder = path.parent.name
        assert path.name == "__init__.py" or path.name in text or f"{folder}/" in text, path


def test_jax_has_eight_devices_here():
    """The suite's promise: eight virtual CPU devices."""
    assert len(jax.devices()) == 8
