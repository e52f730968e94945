"""The one exception that carries a sentence for a person."""

LONGEST = 1500
"""Characters of a sentence. What was found is quoted in it, and a damaged file can hold anything."""


def shortened(text: str) -> str:
    """Lines that are too long without their middle: a sentence begins with what was read and ends with what to do."""
    if len(text) <= LONGEST:
        return text
    lines = text.split("\n")  # torch wraps the sentence of a loader's process into a traceback, of which all is needed
    return "\n".join(x if len(x) <= LONGEST else f"{x[: LONGEST - 500]} [...] {x[-400:]}" for x in lines)


class UserError(ValueError):
    """Something the person at the keyboard can mend: what was read, what was found, what was expected, what to do.

    The command line prints it without a traceback and exits with code 2 (`--debug` shows the traceback).
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(shortened(sentence))
