"""Batches in the terminal: what looks wrong, the rows, and each sample with the teacher's targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from embervlm.inspection.expected import Expectation, Position, percent
from embervlm.inspection.marks import legible, visible
from embervlm.inspection.notices import Notice
from embervlm.inspection.page import Shown
from embervlm.inspection.view import cut_words, token_line

TOLD = 3
"""Most probable events of a position that are written out."""

LEAST = 0.001
"""Less probable ones are not."""

MOST_CUT = 60
"""Tokens beyond the end of the row that are shown."""

LEGEND = (
    "coloured: asked for (label); dim: read only; struck out: cut off; one colour: the same bytes. at: position of the "
    "row, which reads one token and is asked for the next; label: the teacher's probability of what is asked for; "
    "rest: of all that is not listed here. T = 1, before the training's temperature"
)
_KIND_STYLES = {"anchored": "green", "interior": "yellow", "none": "red"}


def render_notices(notices: Sequence[Notice]) -> Group:
    """What looks wrong, each with what to do."""
    lines = []
    for notice in notices:
        lines.append(Text.assemble(("! ", "bold yellow"), (legible(notice.said), "yellow")))
        lines.append(Text(f"  {legible(notice.advice)}", style="dim"))
    return Group(*lines)


def render_sample(shown: Shown, teachers: Sequence[str]) -> Panel:
    """The row, the teacher's own tokens, and a line for each label."""
    return Panel(
        Group(*_parts(shown, teachers)),
        title=Text(legible(f"{shown.view.record_id}  {shown.facts}")),
        title_align="left",
    )


def _parts(shown: Shown, teachers: Sequence[str]) -> Iterator[RenderableType]:
    view = shown.view
    if shown.problem:
        yield Text(legible(shown.problem), style="red")
    kept = [token for token in view.row if not token.cut]
    cut = view.row[len(kept) :]
    yield token_line("student reads", [*kept, *cut[:MOST_CUT]])
    if len(cut) > MOST_CUT:
        yield Text(f"… and {len(cut) - MOST_CUT:,} more", style="dim")
    if view.truncated:
        yield Text(cut_words(view), style="yellow")
    for number, positions in enumerate(shown.answers):
        name = "" if len(shown.answers) == 1 else f" {number + 1}"
        if view.answers[number].teacher:
            yield token_line(f"teacher{name}", view.answers[number].teacher)
        yield _table(f"answer{name}", positions, teachers)


def _table(title: str, positions: Sequence[Position], teachers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("at", justify="right", style="dim")
    table.add_column("reads", style="dim", overflow="fold")
    table.add_column("asked for", overflow="fold")
    table.add_column("id", justify="right", style="dim")
    if teachers:
        if len(teachers) > 1:
            table.add_column("teacher", overflow="fold")
        table.add_column("target")
        table.add_column("label", justify="right")
        table.add_column("likeliest", overflow="fold")
        table.add_column("rest", justify="right")
    for position in positions:
        asked: list[Text | str] = [
            str(position.at),
            Text(visible(position.reads)),
            Text(visible(position.label)),
            str(position.label_id),
        ]
        if not position.said:
            table.add_row(*asked)
        for number, said in enumerate(position.said):
            who = [Text(legible(teachers[number]))] if len(teachers) > 1 else []
            table.add_row(*(asked if number == 0 else [""] * 4), *who, *_said(said))
    return table


def _said(said: Expectation) -> list[Text | str]:
    kind = Text(said.kind, style=_KIND_STYLES[said.kind])
    if not said.events:
        return [kind, "", "", ""]
    line = Text()
    listed = [event for event in said.events[:TOLD] if event.share.plain >= LEAST]
    for event in listed:
        line.append(visible(event.text), style="bold" if event.is_label else "")
        line.append(f" {percent(event.share.plain)}  ", style="dim")
    unlisted = (
        sum(event.share.plain for event in said.events[len(listed) :]) + said.others_share.plain + said.rest.plain
    )
    return [kind, percent(said.label.plain), line, percent(unlisted)]
