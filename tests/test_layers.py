"""Imports go with the arrow (design, 1): a module imports only from its left. And modules stay
short.
"""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "sop_jax"
ARROW = (
    "errors",
    "files", "command_line", "config", "palette", "compiler", "mesh", "data", "models", "theory", "table", "methods", "optimizer",
    "step", "checkpoint", "evaluate", "label_issues", "experiment", "seeds", "workdir", "tensorboard", "run_folder", "heat_maps", "panels",
    "plots", "report", "compare", "loop", "outputs", "study", "tasks", "estimator", "main",
)  # fmt: skip
MODULES = sorted(PACKAGE.rglob("*.py"))


def place(path: pathlib.Path) -> str:
    """The module's name on the arrow: its folder, or its own name at the top."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "sop_jax"
        ):
            parts = node.module.split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("sop_jax.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_with_the_arrow(path):
    if path == PACKAGE / "__init__.py":
        return
    here = ARROW.index(place(path))
    for name in imported(path) - {place(path)}:
        assert ARROW.index(name) < here, f"{path.name} imports {name}, which lies to its right"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_stay_short(path):
    assert len(path.read_text().splitlines()) < 400


def test_only_models_import_flax_and_nothing_imports_tensorflow_or_torch():
    for path in MODULES:
        names = {
            n.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for n in node.names
        }
        names |= {
            node.module.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module
        }
        assert not names & {"tensorflow", "torch"}
        assert "flax" not in names or place(path) == "models", path
