"""Fields of a config as data: name, type, default, range and meaning, stated once and read by all.

The fields that every run has are a table (`config.FIELDS`). Those of a method, a network, an
optimiser or a schedule are the keyword arguments of the function that makes it: their types and
defaults stand in its signature, their meanings in the `Args:` of its docstring. A range is written
`Annotated[float, Bounds(0, 1)]`, a choice of words `Literal["paper", "official"]`.
"""

import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from ml_collections import ConfigDict, config_dict

from sop_jax.errors import UserError, suggestion

TYPES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list such as (40,80)",
    str: "text",
}


class Bounds(NamedTuple):
    """The range of a number, ends included."""

    least: float
    most: float


# Where a field states no range of its own: what the devices' int32 holds, and numbers whose square
# is far from the largest float32.
_WIDEST = {int: Bounds(-(2**31), 2**31 - 1), float: Bounds(-1e6, 1e6)}
COUNT = Bounds(1, 2**31 - 1)
SIZE = Bounds(0, 1e6)


class Field(NamedTuple):
    """One field of a config."""

    name: str  # dotted in `config.FIELDS`, bare in what belongs to a method, network or the like
    type: type  # int, float, bool, str or tuple
    default: Any  # None: unset, filled in from the data, the noise or the machine
    meaning: str  # one line
    bounds: Bounds | None = None  # of int and float; None: as wide as the devices allow
    choices: tuple[str, ...] = ()  # of str; empty: any text

    def initial(self) -> Any:
        """The default as a ConfigDict takes it: an unset field still has its type."""
        return config_dict.placeholder(self.type) if self.default is None else self.default

    def checked(self, path: str, value: Any) -> Any:
        """The value in the field's type (3 becomes 3.0 where a number is wanted).

        Raises:
          UserError: it has another type, or lies outside the range or the choices. The line calls
            the field config.`path`.
        """
        if value is None and self.default is None:
            return None
        if self.type is tuple and isinstance(value, list):
            value = tuple(value)
        if self.type is float and type(value) is int and abs(value) < 2**1000:
            value = float(value)
        if type(value) is not self.type:
            raise UserError(
                f"config.{path}={value!r} is of type {type(value).__name__}; "
                f"it must be {TYPES[self.type]}"
            )
        if self.choices and value not in self.choices:
            raise UserError(
                f"config.{path}={value!r} is unknown{suggestion(value, self.choices)}; "
                f"choose from {', '.join(self.choices)}"
            )
        if self.type in _WIDEST:
            self._check_range(path, value)
        return value

    def _check_range(self, path: str, value: float) -> None:
        least, most = self.bounds or _WIDEST[self.type]
        if not least <= value <= most:  # nor is NaN
            wanted = "a whole number" if self.type is int else "a finite number"
            raise UserError(
                f"config.{path}={_short(value)} is not allowed: it must be {wanted} from "
                f"{_short(least)} to {_short(most)}"
            )

    def described(self) -> str:
        """'0.9  share of ...' or, with choices, '"silu"  meaning (silu, relu)', for `--help`."""
        default = "unset" if self.default is None else self.default
        choices = f" ({', '.join(self.choices)})" if self.choices else ""
        return f"{default}  {self.meaning}{choices}"


def _short(number: float) -> str:
    """A number in at most a dozen characters: a user may give one of thousands of digits."""
    if isinstance(number, int):
        return str(number) if abs(number) < 10**12 else "a number beyond 10**12"
    return f"{number:g}"


def of_function(make: Callable[..., Any]) -> dict[str, Field]:
    """The fields that a factory takes, by name: its keyword-only arguments, in their order."""
    hints = typing.get_type_hints(make, include_extras=True)
    meanings = _meanings(inspect.getdoc(make) or "")
    found = {}
    for name, parameter in inspect.signature(make).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            kind, bounds, choices = _read_type(hints[name])
            meaning = meanings.get(name, "")
            found[name] = Field(name, kind, parameter.default, meaning, bounds, choices)
    return found


def _read_type(hint: Any) -> tuple[type, Bounds | None, tuple[str, ...]]:
    """(plain type, range, choices) of a type hint."""
    bounds = None
    if typing.get_origin(hint) in (types.UnionType, typing.Union):  # float | None
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is Annotated:
        hint, bounds = typing.get_args(hint)
        plain, _, choices = _read_type(hint)  # Annotated[float | None, Bounds(0, 1)]
        return plain, bounds, choices
    if typing.get_origin(hint) is Literal:
        return str, bounds, typing.get_args(hint)
    return typing.get_origin(hint) or hint, bounds, ()  # tuple[int, ...] is a tuple


def _meanings(doc: str) -> dict[str, str]:
    """{argument: its text in one line} of the `Args:` section of a docstring."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", doc, re.MULTILINE)
    if section is None:
        return {}
    text = textwrap.dedent(section[1])  # an argument starts its line, what continues it does not
    entries = re.findall(r"^(\w+):((?:.*\n?)(?:[ \t]+.*\n?)*)", text, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in entries}


def filled(group: str, own: Mapping[str, Field], values: Mapping[str, Any]) -> ConfigDict:
    """The fields `own` of a part of the config, each with its value of `values` or its default.

    Args:
      group: the part's name, for messages: 'method'.
      values: those given; all of them are fields of `own`.
    """
    result = ConfigDict()
    for name, field in own.items():
        result[name] = field.initial()
        value = field.checked(f"{group}.{name}", values[name]) if name in values else None
        if value is not None:
            result[name] = value
    return result


def refuse(path: str, of: str, known: Iterable[str], owners: Mapping[str, Iterable[str]]) -> None:
    """Raises the UserError for a field that does not belong where it stands.

    Args:
      path: the field, dotted: 'method.smoothing'.
      of: whose field it is not: "method 'gce'".
      known: the fields that belong there.
      owners: the fields of every such choice, by its name, to say whose field it is.
    """
    known, name = list(known), path.split(".")[-1]
    whose = [owner for owner, own in owners.items() if name in own]
    hint = f" (it belongs to {_listed(whose)})" if whose else suggestion(name, known)
    fields = ", ".join(known) or "none"
    raise UserError(f"config.{path} is no field of {of}{hint}; the fields there are {fields}")


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
