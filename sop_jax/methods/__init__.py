"""Methods by name: every module of this package, but for `base`, is one; there is no registry.

`make(problem, *, field=default, ...)` builds a method. Its keyword arguments are the fields of
`config.method`, and their meanings are read from the `Args:` of its docstring.
"""

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from sop_jax.errors import UserError, suggestion
from sop_jax.fields import Field, of_function, refuse
from sop_jax.methods.base import Method as Method
from sop_jax.methods.base import Problem as Problem


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
    return of_function(_make(name))


def find(name: str) -> Callable[..., Method]:
    """The factory of a method: `find("sop")(Problem(num_classes=10), variant="paper") -> Method`.

    `find("sop")(num_classes=10, ...)` builds the problem too. Raises UserError for an unknown name.
    """
    _make(name)
    return functools.partial(_build, name)


def _build(name: str, problem: Problem | None = None, **values: Any) -> Method:
    if problem is None:
        of_problem = [field for field in Problem._fields if field in values]
        problem = Problem(**{field: values.pop(field) for field in of_problem})
    known = fields(name)
    for field in values:
        if field not in known:
            owners = {other: fields(other) for other in names()}
            refuse(f"method.{field}", f"method {name!r}", known, owners)
    checked = {field: known[field].checked(f"method.{field}", values[field]) for field in values}
    return _make(name)(problem, **checked)


def from_config(config: ConfigDict, problem: Problem) -> Method:
    """The method that a complete `config.method` describes."""
    return find(config.name)(problem, **{name: config[name] for name in fields(config.name)})
