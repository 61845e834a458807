"""The one error that is the user's to mend: the command line prints it as one line and exits with 2."""


class InputError(ValueError):
    """Something given from outside does not fit. The message says what, where and what to do, in one line."""
