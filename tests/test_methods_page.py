"""docs/methods.md: its example is a whole method, and it describes every method and field."""

import importlib.util
import pathlib
import re

import pytest

from sop_jax import methods
from sop_jax.methods.base import Method
from sop_jax.settings import complete

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "methods.md"
METHOD, CONFIG, TEST = "sop_jax/methods/sce.py", "configs/digits_sce.py", "tests/test_sce.py"


def blocks():
    """{file named above a block of Python: the block}."""
    found = re.findall(
        r"\*\*The \w+: `([\w/.]+)`\.\*\*.*?```python\n(.*?)```", PAGE.read_text(), re.S
    )
    return dict(found)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The example's files, written as the page says, with the method among the others."""
    written = {}
    for name, text in blocks().items():
        written[name] = tmp_path / pathlib.Path(name).name
        written[name].write_text(text)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    return written


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_is_one_method_one_config_and_one_test(files):
    assert set(files) == {METHOD, CONFIG, TEST}
    assert "sce" in methods.names()
    load(files[TEST]).test_values_worked_out_by_hand()
    config = complete(load(files[CONFIG]).get_config())
    assert dict(config.method) == {"name": "sce", "alpha": 0.1, "beta": 1.0}
    assert methods.fields("sce")["beta"].meaning.startswith("weight of the reverse")
    method = methods.find("sce")(num_classes=10, alpha=6)
    assert method.views == ("weak",)


def test_every_method_and_every_field_is_described():
    page = PAGE.read_text()
    sections = dict(re.findall(r"^### (\w+).*?\n(.*?)(?=^##|\Z)", page, re.S | re.M))
    assert set(sections) == set(methods.names())
    for name in methods.names():
        text = sections[name] + (sections["sop"] if name == "sop_plus" else "")
        missing = [field for field in methods.fields(name) if f"`{field}`" not in text]
        assert not missing, f"{name}: {missing}"


def test_the_page_names_every_part_of_a_method():
    page = PAGE.read_text()
    parts = [
        field for field in Method.__dataclass_fields__ if not re.search(rf"`{field}[`(]", page)
    ]
    assert parts == []


def test_lines_fit():
    assert max(map(len, PAGE.read_text().splitlines())) <= 100
