"""What goes wrong through no fault of ours."""

import unicodedata


class InputError(ValueError):
    """The input was wrong; the message is one line that says what, where and what to do. Exit code 2.

    What comes from files may stand in it: line breaks and control characters are taken out.
    """

    def __init__(self, message: str) -> None:
        plain = "".join(" " if unicodedata.category(one)[0] == "C" else one for one in message)
        super().__init__(" ".join(plain.split()))


class PromiseError(RuntimeError):
    """What was promised could not be kept: an export that differs, a budget missed. Exit code 1."""
