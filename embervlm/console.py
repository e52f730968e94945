"""The two places where words for people go: `console` for results, `errors` for what went wrong."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def print_tokens(title: str, tokens: Iterable[tuple[bytes | None, float]]) -> None:
    """Tokens with their probabilities."""
    console.print(f"\n[dim]{title}[/]")
    table = Table.grid(padding=(0, 3, 0, 0))
    for token, probability in tokens:
        table.add_row(f"{probability:6.1%}", escape(token_text(token)))
    console.print(table)


def token_text(token: bytes | None) -> str:
    """A token in quotes. It may be a part of a letter: such bytes are written as \\xe4."""
    return "(special)" if token is None else repr(token.decode(errors="backslashreplace")).replace("\\\\x", "\\x")
