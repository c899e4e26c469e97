"""Methods by name: every module of this package with a `make` function is one; there is no registry
to edit.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable

from ml_collections import ConfigDict

from sop_jax.config import suggestion
from sop_jax.errors import UserError
from sop_jax.methods import base as base
from sop_jax.methods.base import Method as Method


def names() -> list[str]:
    """Names of all methods, discovered from the package's files."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def find(name: str) -> Callable[..., Method]:
    """The factory of a method: `find("sop")(num_classes=10) -> Method`. Raises UserError for an
    unknown name.
    """
    if name not in names():
        known = names()
        raise UserError(
            f"method.name={name!r} is unknown{suggestion(name, known)}; the methods are {', '.join(known)}"
        )
    return importlib.import_module(f"sop_jax.methods.{name}").make


def from_config(method: ConfigDict, num_classes: int) -> Method:
    """Builds the method that `config.method` describes, handing it those of its fields that it
    takes.
    """
    make = find(method.name)
    taken = inspect.signature(make).parameters
    return make(num_classes=num_classes, **{k: v for k, v in method.items() if k in taken})
