"""The page of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from embervlm.evaluate.comparison import Compared, Comparison, Row
from embervlm.evaluate.pages.cards import Album, Card, make_card
from embervlm.evaluate.pages.figures import (
    divergence_figures,
    gain_words,
    interval_words,
    p_words,
    score_words,
    shown,
    sure,
    verdict_sentence,
)
from embervlm.evaluate.pages.report import charts
from embervlm.evaluate.pages.report_inputs import Kind, Said, TrainingRun
from embervlm.evaluate.pages.templates import RIGHT, read_asset, render_page, script_source
from embervlm.evaluate.questions import Answered, title_of
from embervlm.files import write_whole

COLOURS: tuple[Kind, ...] = ("student", "teacher", "undistilled", "blind", "baseline", "other")
"""Classes of report.css in the order of the runs: here they are colours and nothing else."""

TONES = {1: "up", 0: "level", -1: "down"}


def write_comparison(comparison: Comparison, path: Path, examples: int = 8) -> Path:
    """Write the page to `path`; `examples`: of each kind of disagreement, drawn by the comparison's seed."""
    return write_whole(path, render_comparison(comparison, examples))


def render_comparison(comparison: Comparison, examples: int = 8) -> str:
    """The page as a string. Everything that models and people wrote is escaped."""
    names = [run.name for run in comparison.runs]
    album = Album(comparison.image_root or Path())
    script = read_asset("page.js")
    exchanges = _exchanges(comparison, examples, album)
    first = comparison.runs[0].result
    return render_page(
        "compare.html.jinja",
        title=_title(names),
        subtitle=f"Split {first.split}, data {first.data}. {names[0]} is what the others are compared with.",
        paired=comparison.paired,
        draws=comparison.draws,
        runs=[{"name": run.name, "kind": colour(at), "file": run.path} for at, run in enumerate(comparison.runs)],
        findings=_findings(comparison),
        tables=[_table(found, comparison) for found in comparison.benchmarks],
        exchanges=exchanges,
        right=RIGHT,
        types=[
            _types(found, comparison) for found in comparison.benchmarks if found.answer_types or found.question_types
        ],
        divergence=_divergence(comparison),
        charts=charts(_histories(comparison)),
        settings={name: [shown(value) for value in values] for name, values in comparison.settings.items()},
        cards=[card for exchange in exchanges for side in exchange["sides"] for card in side["cards"]],
        album=album,
        page_css=Markup(read_asset("page.css")),
        script=Markup(script),
        script_source=Markup(script_source(script)),
    )


def colour(at: int) -> Kind:
    return COLOURS[min(at, len(COLOURS) - 1)]


def _title(names: Sequence[str]) -> str:
    return f"{names[0]} against {names[1] if len(names) == 2 else f'{len(names) - 1} others'}"


def _findings(comparison: Comparison) -> list[tuple[str, str]]:
    """(tone, sentence): the differences (of many runs the first benchmark's), what seeing brings, the notes."""
    said = []
    for found in comparison.benchmarks if len(comparison.runs) == 2 else comparison.benchmarks[:1]:
        names = [comparison.runs[at].name for at in found.runs]
        for other in range(1, len(names)) if comparison.paired else ():
            sentence = verdict_sentence(found.benchmark, names, found.overall, other)
            said.append((TONES[sure(found.overall.differences[other - 1])], sentence))
    for seeing, _, sight in comparison.sights:
        said.append(("good" if sight.verdict == "looks" else "warn", sight.sentence(comparison.runs[seeing].name)))
    return said + [("warn", note) for note in comparison.notes]


def _band(benchmark: str, row: Row, other: int, scale: float) -> dict[str, Any]:
    """A difference as text, and as a place on a scale from -scale to scale, in percent."""
    difference = row.differences[other - 1]
    low, high = difference.interval
    left, right = (50 + 50 * value / scale for value in (low, high))
    return {
        "text": gain_words(benchmark, difference.mean),
        "interval": interval_words(benchmark, difference.interval, True),
        "tone": TONES[sure(difference)],
        "band": {1: "surely", 0: "maybe", -1: "surely-not"}[sure(difference)],
        "left": left,
        "width": right - left,
        "at": 50 + 50 * difference.mean / scale,
        "p": p_words(difference.p).removeprefix("p ").removeprefix("= "),
        "above": f"{100 * difference.above:.1f}%",
    }


def _scale(rows: Sequence[Row]) -> float:
    ends = [abs(end) for row in rows for difference in row.differences for end in difference.interval]
    return max([*ends, 1e-9])


def _table(found: Compared, comparison: Comparison) -> dict[str, Any]:
    row, scale = found.overall, _scale([found.overall])
    lines = []
    for place, at in enumerate(found.runs):
        difference = _band(found.benchmark, row, place, scale) if place and comparison.paired else None
        lines.append(
            {
                "name": comparison.runs[at].name,
                "kind": colour(at),
                "score": score_words(found.benchmark, row.scores[place]),
                "interval": interval_words(found.benchmark, row.intervals[place]),
                "difference": difference,
            }
        )
    measure = "score" if found.benchmark == "instruct" else "accuracy"
    return {
        "title": title_of(found.benchmark),
        "n": row.n,
        "measure": measure,
        "rows": lines,
        "left_out": found.left_out,
    }


def _types(found: Compared, comparison: Comparison) -> dict[str, Any]:
    parts = (("Answer type", found.answer_types), ("Question type", found.question_types))
    scale = _scale([row for _, rows in parts for row in rows])
    others = range(1, len(found.runs))
    lines = [
        {
            "part": part,
            "rows": [
                {
                    "name": row.name,
                    "n": row.n,
                    "scores": [score_words(found.benchmark, score) for score in row.scores],
                    "differences": [_band(found.benchmark, row, other, scale) for other in others],
                }
                for row in rows
            ],
        }
        for part, rows in parts
        if rows
    ]
    runs = [{"name": comparison.runs[at].name, "kind": colour(at)} for at in found.runs]
    return {"title": title_of(found.benchmark), "runs": runs, "parts": lines}


def _exchanges(comparison: Comparison, examples: int, album: Album) -> list[dict[str, Any]]:
    """For each benchmark and each other run: the counts, and some questions that only one of the two answers."""
    rng = np.random.default_rng(comparison.seed)
    found = []
    for compared in comparison.benchmarks:
        for other, exchange in enumerate(compared.exchanges, start=1):
            pair = [comparison.runs[at].name for at in (compared.runs[0], compared.runs[other])]
            sides = []
            for mine, theirs in ((0, other), (other, 0)):
                only = [q for q in compared.questions if q[mine].score >= RIGHT > q[theirs].score]
                some = [only[at] for at in sorted(rng.permutation(len(only))[:examples])]
                name = comparison.runs[compared.runs[mine]].name
                cards = [_card(compared, question, comparison, album) for question in some]
                sides.append({"name": name, "count": len(only), "cards": cards})
            kinds = [{"name": kind, "counts": counts} for kind, counts in exchange.items()]
            kinds = kinds if len(kinds) > 2 else kinds[:1]
            found.append(
                {
                    "title": title_of(compared.benchmark),
                    "first": pair[0],
                    "other": pair[1],
                    "colours": (colour(compared.runs[0]), colour(compared.runs[other])),
                    "n": compared.overall.n,
                    "all": exchange["all"],
                    "kinds": kinds,
                    "sides": sides,
                }
            )
    return found


def _card(compared: Compared, question: Sequence[Answered], comparison: Comparison, album: Album) -> Card:
    said = [
        Said(comparison.runs[at].name, colour(at), one.answer, one.score)
        for at, one in zip(compared.runs, question, strict=True)
    ]
    return make_card(compared.benchmark, question[0].record, said, album)


def _divergence(comparison: Comparison) -> dict[str, list[str]]:
    """Figure -> its value of each run; {} when no run has any."""
    figures = [divergence_figures(run.result) for run in comparison.runs]
    names: Mapping[str, None] = dict.fromkeys(name for found in figures for name in found)
    return {name: [found.get(name, "–") for found in figures] for name in names}


def _histories(comparison: Comparison) -> list[TrainingRun]:
    """Each training once, though several evaluations are of its checkpoint."""
    found: list[TrainingRun] = []
    for at, run in enumerate(comparison.runs):
        if run.history and all(run.history != other.history for other in found):
            found.append(TrainingRun(run.name, colour(at), 2, run.history))
    return found
