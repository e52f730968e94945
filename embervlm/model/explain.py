"""`--explain`: what else could have been said at each position of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.measure import Measurement
from rich.segment import Segments
from rich.table import Table
from rich.text import Text

from embervlm.console import console, token_text
from embervlm.tokens import token_bytes

SHOWN = 5
_WIDEST = 1000

Alternative = tuple[bytes | None, float]
"""A token, None for the end of the answer, and its probability."""


@dataclass(frozen=True)
class Position:
    """One step of an answer: the model's own distribution (T = 1, without the control tokens, which no answer holds),
    and what was said."""

    said: Alternative
    rank: int  # of what was said; 1: the likeliest
    likeliest: tuple[Alternative, ...]  # falling
    entropy: float  # nats

    @property
    def rest(self) -> float:
        """The mass of everything that is not among the likeliest."""
        return max(0.0, 1 - sum(probability for _, probability in self.likeliest))


def positions(logits: Sequence[torch.Tensor], ids: Sequence[int], tokenizer: Any) -> tuple[Position, ...]:
    """What each step could have said.

    Args:
        logits: of each step [V], -inf for what may not be said.
        ids: what was said.
    """
    table = token_bytes(tokenizer)
    found = []
    for row, said in zip(logits, ids, strict=True):
        probabilities = row.double().softmax(-1)
        top = probabilities.topk(SHOWN)
        likeliest = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        own = float(probabilities[said])
        found.append(
            Position(
                said=(table[said], own),
                rank=1 + int((probabilities > own).sum()),
                likeliest=tuple((table[token], probability) for token, probability in likeliest),
                entropy=float(torch.special.entr(probabilities).sum()),
            )
        )
    return tuple(found)


def print_positions(found: Sequence[Position]) -> None:
    """One line a position, as long as it must be; what was not the likeliest stands out with its rank."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("", "said", "", "rank", "nats"):
        table.add_column(name, justify="left" if name == "said" else "right")
    for number in range(SHOWN):
        table.add_column("" if number else "likeliest")
    table.add_column("others", justify="right", style="dim")
    for number, position in enumerate(found, start=1):
        token, probability = position.said
        drawn = position.rank > 1
        table.add_row(
            str(number),
            Text(_text(token), "bold yellow" if drawn else "bold"),
            _percent(probability),
            f"{position.rank}!" if drawn else "1",
            f"{position.entropy:.2f}",
            *(Text.assemble(_text(other), (f" {_percent(p)}", "dim")) for other, p in position.likeliest),
            _percent(position.rest),
        )
    drawn_tokens = sum(position.rank > 1 for position in found)
    chosen = f"; {drawn_tokens} of {len(found)} were drawn though another was likelier (!)" if drawn_tokens else ""
    note = f"what else could have been said, by the model's own probabilities before any sampling{chosen}"
    console.print(f"\n[dim]{note}[/]", soft_wrap=True)
    # Lines longer than the terminal are left to it: columns that are squeezed cannot be read.
    room = console.options.update(width=_WIDEST)
    fits = room.update(width=Measurement.get(console, room, table).maximum)
    console.print(Segments(console.render(table, fits)), soft_wrap=True)


def _text(token: bytes | None) -> str:
    return "(end)" if token is None else token_text(token)


def _percent(probability: float) -> str:
    """Short, but never 0% or 100% of what is neither."""
    percent = 100 * probability
    if 0 < percent < 0.1:
        return "<0.1%"
    return f"{percent:.0f}%" if percent >= 99.95 or percent == 0 else f"{percent:.1f}%"
