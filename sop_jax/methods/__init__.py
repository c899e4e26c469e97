"""Methods by name: every module of this package, but for `base`, is one; there is no registry.

`make(problem, *, field=default, ...)` builds a method. Its keyword arguments are the fields of
`config.method`, and their meanings are read from the `Args:` of its docstring.
"""

import functools
import importlib
import inspect
import pkgutil
import re
import textwrap
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from sop_jax.errors import UserError, suggestion
from sop_jax.methods.base import Method as Method
from sop_jax.methods.base import Problem as Problem


class Field(NamedTuple):
    """One hyper-parameter of a method."""

    name: str
    type: type  # int, float, bool or str
    default: Any  # None: the method's published value for the data and noise
    meaning: str  # one line


def names() -> list[str]:
    """Names of all methods, discovered from the package's files."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def _make(name: str) -> Callable[..., Method]:
    known = names()
    if name not in known:
        raise UserError(
            f"method.name={name!r} is unknown{suggestion(name, known)}; "
            f"the methods are {', '.join(known)}"
        )
    return importlib.import_module(f"sop_jax.methods.{name}").make


def fields(name: str) -> dict[str, Field]:
    """The hyper-parameters of a method, by name. Raises UserError for an unknown method."""
    make = _make(name)
    types_of = typing.get_type_hints(make)
    meanings = _meanings(inspect.getdoc(make) or "")
    found = {}
    for parameter in list(inspect.signature(make).parameters.values())[1:]:
        own = types_of[parameter.name]
        if isinstance(own, types.UnionType):  # float | None
            own = next(part for part in typing.get_args(own) if part is not type(None))
        meaning = meanings.get(parameter.name, "")
        found[parameter.name] = Field(parameter.name, own, parameter.default, meaning)
    return found


def _meanings(doc: str) -> dict[str, str]:
    """{argument: its text in one line} of the `Args:` section of a docstring."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", doc, re.MULTILINE)
    if section is None:
        return {}
    text = textwrap.dedent(section[1])  # an argument starts its line, what continues it does not
    entries = re.findall(r"^(\w+):((?:.*\n?)(?:[ \t]+.*\n?)*)", text, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in entries}


def find(name: str) -> Callable[..., Method]:
    """The factory of a method: `find("sop")(Problem(num_classes=10), variant="paper") -> Method`.

    `find("sop")(num_classes=10, ...)` builds the problem too. Raises UserError for an unknown name.
    """
    return functools.partial(_build, name)


def _build(name: str, problem: Problem | None = None, **values: Any) -> Method:
    if problem is None:
        of_problem = [field for field in Problem._fields if field in values]
        problem = Problem(**{field: values.pop(field) for field in of_problem})
    known = fields(name)
    for field, value in values.items():
        if field not in known:
            owns = ", ".join(known) or "none"
            raise UserError(
                f"method.{field} is no field of method {name!r}{suggestion(field, list(known))}; "
                f"it has {owns}"
            )
        _check_type(known[field], value)
    return _make(name)(problem, **values)


def from_config(config: ConfigDict, problem: Problem) -> Method:
    """The method that `config.method` describes."""
    known = fields(config.name)
    return find(config.name)(problem, **{name: config[name] for name in known if name in config})


def _check_type(field: Field, value: Any) -> None:
    """Raises UserError unless the value is of the field's type: an int passes for a float."""
    if value is None and field.default is None:
        return
    allowed = (int, float) if field.type is float else field.type
    if not isinstance(value, allowed) or isinstance(value, bool) != (field.type is bool):
        raise UserError(
            f"method.{field.name}={value!r} is not allowed: it must be of type "
            f"{field.type.__name__}"
        )
