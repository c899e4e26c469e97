"""The one exception that users are meant to see."""

import difflib
from collections.abc import Sequence


class UserError(Exception):
    """Bad input: what is wrong, where, and how to mend it, in one line.

    `main` prints its text on standard error and exits with status 2, with no traceback.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))


def suggestion(name: str, known: Sequence[str]) -> str:
    """'; did you mean "x"?' where a known name is near (or is `name` within its group), else ''."""
    near = [k for k in known if k.endswith(f".{name}")] or difflib.get_close_matches(
        name, known, n=1
    )
    return f"; did you mean {near[0]!r}?" if near else ""
