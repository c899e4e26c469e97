"""The order of the modules, what the core may not know, their length, and the files that are cited.

The arrow: a module imports only from its left. The theory stands beside the tasks and only they
import it, and no module of the core knows a method by name.
"""

import ast
import io
import pathlib
import re
import subprocess
import tokenize

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sop_jax"
ARROW = (
    "errors",
    "files",
    "finished",
    "exit_status",
    "fields",
    "general",
    "lock",
    "config",
    "palette",
    "compiler",
    "agreement",
    "mesh",
    "data",
    "models",
    "table",
    "methods",
    "schedules",
    "optimizer",
    "settings",
    "limits",
    "fitting",
    "exchange",
    "state",
    "step",
    "programs",
    "checkpoint",
    "collapse",
    "evaluate",
    "noise_model",
    "neighbours",
    "doubts",
    "label_issues",
    "grading",
    "experiment",
    "evidence",
    "workdir",
    "tensorboard",
    "run_folder",
    "claim",
    "heat_maps",
    "panels",
    "plots",
    "report",
    "compare",
    "loop",
    "crossfit",
    "outputs",
    "study",
    "theory",
    "tasks",
    "estimator",
    "process",
    "command_line",
    "chips",
    "hlo",
    "accounts",
    "compile_for",
    "main",
)
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 350  # lines of a module

# What the core may not know: the rows, fields and modules of a method, here SOP's.
METHODS_OWN = re.compile(
    r"""learning_rate_[uv]\b  # its fields
    |\b[uv]_squared\b|["'][uv]["']|\bu\ and\ v\b|\bu(\^2|²)  # its rows
    |\bmethods(\.|\ import\ )sop\b|\bsop_plus\b|\bsop_loss\b|\bmethod\.variant\b  # its module
    """,
    re.VERBOSE,
)
THEORY_TASKS = ("linear_recovery", "image_recovery", "neural_collapse", "two_curves")

# Files that are cited without being in the repository: what runs and .ci/ leave, those of TFDS,
# published code of others that ours was written after, and a method that docs/methods.md adds.
FILES_ELSEWHERE = {
    "summary.json",
    "config.json",
    "run.json",
    "finished.json",
    "block1.sh",
    "block2.sh",
    "dataset_info.json",
    "features.json",
    "augmentations.py",
    "augmentation_archive.py",
    "airbench94_muon.py",
    "sce.py",
    "digits_sce.py",
    "test_sce.py",
}
CITED = re.compile(r"(?<![\w$])\.?\w[\w./-]*\.(?:md|py|json|sh|ipynb)\b")
NOT_IN_THE_REPOSITORY = re.compile(r"\bspec\b|\bspecification\b|\(design\b|\bdesign, \d")


def short_name(path: pathlib.Path) -> str:
    return str(path.relative_to(PACKAGE))


def place(path: pathlib.Path) -> str:
    """The module's name on the arrow: its folder, or its own name at the top."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(path: pathlib.Path) -> set[str]:
    """The modules and folders of ours that a module imports, by their names on the arrow."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            package, *parts = node.module.split(".")
            if package == "sop_jax":
                found |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {name[1] for name in names if name[0] == "sop_jax" and len(name) > 1}
    return found


def third_parties(path: pathlib.Path) -> set[str]:
    """The first words of everything that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=short_name)
def test_imports_go_with_the_arrow(path):
    if path == PACKAGE / "__init__.py":
        return
    assert place(path) in ARROW, f"{short_name(path)} has no place on the arrow yet: give it one"
    here = ARROW.index(place(path))
    for name in imported(path) - {place(path)}:
        assert name in ARROW, f"{path.name} imports {name}, which has no place on the arrow"
        assert ARROW.index(name) < here, f"{path.name} imports {name}, which lies to its right"


def test_every_name_on_the_arrow_is_a_module():
    assert set(ARROW) == {place(path) for path in MODULES} - {"__init__"}


def test_only_the_tasks_import_the_theory():
    users = {place(path) for path in MODULES if "theory" in imported(path)}
    assert users <= {"theory", "tasks"}


@pytest.mark.parametrize("path", MODULES, ids=short_name)
def test_the_core_knows_no_method_by_its_rows_and_fields(path):
    if place(path) in ("methods", "theory") or path.stem in THEORY_TASKS:
        if path.stem in ("base", "__init__"):
            assert not METHODS_OWN.search(path.read_text())
        return
    lines = enumerate(path.read_text().splitlines(), 1)
    known = [
        f"{short_name(path)}:{number}: {line.strip()}"
        for number, line in lines
        if METHODS_OWN.search(line)
    ]
    assert not known, "\n".join(known)


@pytest.mark.parametrize("path", MODULES, ids=short_name)
def test_modules_stay_short(path):
    assert len(path.read_text().splitlines()) < LONGEST


def test_only_models_import_flax_and_nothing_imports_tensorflow_or_torch():
    for path in MODULES:
        names = third_parties(path)
        assert not names & {"tensorflow", "torch"}
        assert "flax" not in names or place(path) == "models", path


def tracked() -> list[pathlib.Path]:
    """The text files of the repository."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    return [path for path in paths if path.suffix not in (".png", ".npz") and path.exists()]


def prose(path: pathlib.Path) -> str:
    """What a file says to its readers: of Python its docstrings and comments, of others all."""
    text = path.read_text()
    if path.suffix != ".py":
        return text
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
    docstrings = [ast.get_docstring(node) or "" for node in nodes]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return "\n".join(docstrings + comments)


def is_there(cited: str, citing: pathlib.Path, paths: list[str]) -> bool:
    """Whether a cited file is in the repository, or one that users have or runs leave."""
    name = cited.removeprefix("sop_jax/") if cited not in paths else cited  # a clone's folder
    stem, last = pathlib.PurePosixPath(name).stem, name.split("/")[-1]
    if stem.isupper() or last in FILES_ELSEWHERE:  # FILE.json, configs/NAME.py: placeholders
        return True
    if name.endswith(".md"):  # in full, or a neighbour
        folder = citing.parent.relative_to(ROOT).as_posix()
        return name in paths or f"{folder}/{name}" in paths
    return any(f"/{path}".endswith(f"/{name}") for path in paths)  # the end of its path will do


def test_files_that_are_cited_exist():
    files = tracked()
    paths = [path.relative_to(ROOT).as_posix() for path in files]
    missing = []
    for path in files:
        for cited in sorted(set(CITED.findall(prose(path)))):
            if not is_there(cited, path, paths):
                missing.append(f"{path.relative_to(ROOT)} cites {cited}")
    assert not missing, "\n".join(missing)


def test_nobody_cites_papers_that_only_the_authors_have():
    cited = []
    for path in tracked():
        found = NOT_IN_THE_REPOSITORY.search(prose(path))
        if found and path.name != "test_layers.py":
            cited.append(f"{path.relative_to(ROOT)}: {found[0]!r}")
    assert not cited, "\n".join(cited)
