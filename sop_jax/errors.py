"""The one exception that users are meant to see: what is wrong, where, and how to mend it, in one
line.
"""


class UserError(Exception):
    """Bad input. `main` prints its text as one line on standard error and exits with status 2, with
    no traceback.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))
