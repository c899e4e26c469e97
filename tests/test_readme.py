"""README and docs/ say what is true: the examples run, the files and configs named exist."""

import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from sop_jax.data import noise, sources
from sop_jax.label_issues import CSV_COLUMNS

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
THEORY = (ROOT / "docs" / "theory.md").read_text()
RUNS = (ROOT / "docs" / "runs.md").read_text()
LONGEST_LOOP = 27  # lines of the example


def section(title, text=README):
    return text.split(f"\n## {title}")[1].split("\n## ")[0]


def python_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_own_loop_example_runs_and_finds_wrong_labels():
    """On digits with a linear model and 30 % wrong labels; then what it says of the noise."""
    digits = sources.digits().train
    images = jnp.asarray(digits.images.reshape(len(digits.labels), -1) / 255.0, jnp.float32)
    given, _ = noise.corrupt(digits.labels, noise.symmetric(0.3, 10), seed=0)
    loop, afterwards = python_blocks(section("Your own training loop"))
    assert len(loop.splitlines()) <= LONGEST_LOOP
    names = {
        "apply": lambda params, x: x @ params["w"] + params["b"][None, :],
        "params": {"w": jnp.zeros((64, 10)), "b": jnp.zeros(10)},
        "num_examples": len(given),
        "num_classes": 10,
        "batch_size": 32,
    }
    exec(loop.replace('"u": 10.0, "v": 10.0', '"u": 60.0, "v": 60.0'), names)  # 25 epochs are few
    carry = names["params"], names["rows"], names["opt_state"]
    for epoch in range(25):
        order = np.random.default_rng(epoch).permutation(len(given))[:1280].reshape(-1, 32)
        for index in order:
            batch = images[index], jnp.asarray(given[index]), jnp.asarray(index)
            carry = names["step"](*carry, *batch)
    params, rows, _ = carry
    names |= {"rows": rows, "labels": jnp.asarray(given)}
    exec(afterwards, names)
    estimated = np.asarray(names["noise"])
    assert estimated.shape == (len(given), 10)
    on_given = estimated[np.arange(len(given)), given]
    assert roc_auc_score(given != digits.labels, on_given) > 0.9
    assert np.mean(np.argmax(names["apply"](params, images), 1) == digits.labels) > 0.9


def test_the_csv_example_takes_what_is_safe_and_prints_the_rest(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "runs" / "digits_sop"
    folder.mkdir(parents=True)
    lines = ("6,1,4,0.01,True,0.98,True", "7,3,5,0.1,True,0.6,False", "8,2,2,0.9,False,0.9,False")
    (folder / "label_issues.csv").write_text("\n".join([",".join(CSV_COLUMNS), *lines]) + "\n")
    monkeypatch.chdir(tmp_path)
    exec(python_blocks(RUNS)[0], made := {})
    assert capsys.readouterr().out == "7 3 -> 5\n"
    assert [row["label"] for row in made["rows"]] == ["4", "3", "2"]


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


def test_the_readme_is_short():
    assert len(README.split()) <= 1200


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_every_config_stands_in_the_readme(path):
    names = set()
    for line in section("Every config").splitlines():
        for stem, methods in re.findall(r"^\| `(\w+?)_\{([\w,]+)\}`", line):
            names |= {f"{stem}_{method}" for method in methods.split(",")}
        names |= set(re.findall(r"^\| `(\w+)`", line))
    assert path.stem in names


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "theory").glob("*.py")), ids=lambda p: p.stem
)
def test_every_theory_config_has_its_figures_in_the_docs(path):
    figures = re.findall(r"\]\(\.\./([\w./]+\.png)\)", section(f"`{path.stem}`", THEORY))
    assert figures
    for figure in figures:
        with Image.open(ROOT / figure) as image:
            image.load()
        assert (ROOT / figure).stat().st_size < 100_000


def test_links_lead_somewhere():
    for path in (ROOT / "README.md", ROOT / "ARCHITECTURE.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!http)([\w./-]+)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_the_licence_of_the_labels_is_named():
    assert "CC BY-NC" in README and "CITATION.cff" in README


def test_the_map_names_every_module():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in (ROOT / "sop_jax").rglob("*.py"):
        folder = path.parent.name
        assert path.name == "__init__.py" or path.name in text or f"{folder}/" in text, path


def test_jax_has_eight_devices_here():
    """The suite's promise: eight virtual CPU devices."""
    assert len(jax.devices()) == 8
