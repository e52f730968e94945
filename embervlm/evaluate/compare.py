"""`embervlm compare`: a table on the terminal, one page, one JSON file."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from embervlm.console import console
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.errors import UserError
from embervlm.evaluate.comparison import Compared, Comparison, compare_runs
from embervlm.evaluate.pages.comparison import write_comparison
from embervlm.evaluate.pages.figures import gain_words, p_words, score_words, sure
from embervlm.evaluate.questions import find_data, title_of
from embervlm.evaluate.results import write_json
from embervlm.evaluate.runs import Run, open_runs
from embervlm.settings import CompareSettings

_COLOURS = {1: "green", 0: "dim", -1: "red"}


def run_compare(settings: CompareSettings) -> None:
    """Compare evaluations with the first one named, print it, write it."""
    runs = open_runs(settings.runs)
    page, numbers = settings.output, settings.output.with_suffix(".json")
    for path in (page, numbers):
        if path == numbers == page or path.resolve() in [run.path.resolve() for run in runs]:
            raise UserError(f"{path} is no place for the page; name another file: --output compare.html")
    prepared = _data(settings.dataset_path, runs)
    comparison = compare_runs(runs, prepared, settings.draws, settings.seed, progress=True)
    print_comparison(comparison)
    write_json(numbers, comparison.to_json())
    for path in (numbers, write_comparison(comparison, page, settings.examples)):
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


def _data(named: Path | None, runs: list[Run]) -> PreparedSet | None:
    """The data set that was named, else the first that a run names and that is still the same."""
    first = runs[0].result
    if named is not None:
        prepared = open_prepared(named)
        if (now := prepared.fingerprint(first.split)) != first.data:
            raise UserError(
                f"Split {first.split} of {named} (fingerprint {now}) is not what {runs[0].path} was asked "
                f"({first.data}); name the data set of that evaluation."
            )
        return prepared
    return next((found for run in runs if (found := find_data(run.result, run.path.parent)) is not None), None)


def print_comparison(comparison: Comparison, to: Console = console) -> None:
    """A table for each benchmark, then what must be said about it."""
    for found in comparison.benchmarks:
        to.print(f"\n[bold]{title_of(found.benchmark)}[/bold]  [dim]{found.overall.n:,} questions[/dim]")
        to.print(_table(found, comparison))
    for seeing, _, sight in comparison.sights:
        colour = {"looks": "green", "ignores": "red", "unknown": "yellow"}[sight.verdict]
        to.print(f"[{colour}]{escape(sight.sentence(comparison.runs[seeing].name))}[/{colour}]")
    for note in comparison.notes:
        to.print(f"[yellow]{escape(note)}[/yellow]")
    if comparison.paired:
        first = escape(comparison.runs[0].name)
        to.print(
            f"[dim]Differences are to {first}: paired bootstrap over pictures, {comparison.draws:,} draws, 95% "
            f"intervals, two-sided p. Only here/there: questions that this run alone answers, or {first} alone.[/dim]"
        )


def _table(found: Compared, comparison: Comparison) -> Table:
    name, row = found.benchmark, found.overall
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", overflow="fold")
    headings = ["score [95%]" if name == "instruct" else "accuracy [95%]"]
    if comparison.paired:
        headings += ["difference [95%]", "p", "only here/there"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap="[" in heading)

    def limits(interval: tuple[float, float], sign: bool = False) -> str:
        low, high = (gain_words(name, value, sign) for value in interval)
        return f"[{low}, {high}]"

    for place, at in enumerate(found.runs):
        score = f"{score_words(name, row.scores[place])} {limits(row.intervals[place])}"
        cells = [escape(comparison.runs[at].name), score]
        if place and comparison.paired:
            difference, exchange = row.differences[place - 1], found.exchanges[place - 1]["all"]
            colour = _COLOURS[sure(difference)]
            gain = f"[{colour}]{gain_words(name, difference.mean)}[/{colour}]"
            cells.append(f"{gain} {limits(difference.interval, True)}")
            cells.append(p_words(difference.p).removeprefix("p ").removeprefix("= ").replace(" ", ""))
            cells.append(f"{exchange.only_other:,}/{exchange.only_first:,}")
        table.add_row(*cells)
    return table
