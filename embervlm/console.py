"""The two places where words for people go: `console` for results, `errors` for what went wrong."""

from __future__ import annotations

from rich.console import Console

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)
