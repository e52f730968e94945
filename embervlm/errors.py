"""The one exception that carries a sentence for a person."""


class UserError(ValueError):
    """Something the person at the keyboard can mend: what was read, what was found, what was expected, what to do.

    The command line prints it without a traceback and exits with code 2 (`--debug` shows the traceback).
    """
