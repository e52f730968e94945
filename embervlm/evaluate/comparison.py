"""Several evaluations of the same questions beside each other: paired differences, who answers what, what differs."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embervlm.data.prepared import PreparedSet
from embervlm.errors import UserError
from embervlm.evaluate.asking import progress_bar
from embervlm.evaluate.pages.cards import UNTYPED, kind_of
from embervlm.evaluate.pages.templates import RIGHT
from embervlm.evaluate.paired import DRAWS, Difference, paired_bootstrap
from embervlm.evaluate.questions import Answered, benchmarks_of, read_answered, read_ids, title_of
from embervlm.evaluate.resampling import pictures_by_id, pictures_of
from embervlm.evaluate.runs import Run, differing
from embervlm.evaluate.sight import UNSEEING, Sight, sight_of
from embervlm.evaluate.vqa import answer_type_order

SCHEMA = "embervlm/comparison-1"


@dataclass(frozen=True)
class Row:
    """Some questions of a benchmark, and how each run does on them. Scores are 0 to 1."""

    name: str
    n: int
    scores: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]  # 95%
    differences: tuple[Difference, ...]  # of the second run to the first, of the third ...; () where not paired


@dataclass(frozen=True)
class Exchange:
    """Questions that the first run and another answer; answered: a score of `RIGHT` or more."""

    both: int = 0
    only_first: int = 0
    only_other: int = 0
    neither: int = 0


@dataclass(frozen=True)
class Compared:
    """One benchmark."""

    benchmark: str
    runs: tuple[int, ...]  # places in `Comparison.runs`; the others are compared with the first of these
    overall: Row
    answer_types: tuple[Row, ...] = ()
    question_types: tuple[Row, ...] = ()
    exchanges: tuple[Mapping[str, Exchange], ...] = ()  # of each other run: "all" and by answer type
    left_out: int = 0  # questions that not all of these runs were asked
    questions: tuple[tuple[Answered, ...], ...] = ()  # by question, then by run


@dataclass(frozen=True)
class Comparison:
    """On disk, as JSON: {"schema", "split", "data", "paired", "draws", "seed", "runs": [{"name", "file", "system"}],
    "benchmarks": {name: {"runs": names, "left_out", "overall": row, "answer_types": [row], "question_types": [row],
    "exchanges": {name: {"all" or answer type: {"both", "only_first", "only_other", "neither"}}}}}, "sights": [{"run",
    "against", "verdict", "sentence", ..}], "divergence": {run: {..}}, "settings": {what: [value of each run]},
    "notes": [sentences]}; a row is {"name", "n", "scores", "intervals", "differences": [{"mean", "interval", "above",
    "p"}]}. Scores and differences are 0 to 1.
    """

    runs: tuple[Run, ...]
    draws: int
    seed: int
    benchmarks: tuple[Compared, ...]
    sights: tuple[tuple[int, int, Sight], ...] = ()  # the run that sees, the one that does not, what seeing brings
    settings: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    image_root: Path | None = None  # None: the data set is not at hand, and nothing is paired

    @property
    def paired(self) -> bool:
        return self.image_root is not None

    def to_json(self) -> dict[str, Any]:
        names = [run.name for run in self.runs]
        first = self.runs[0].result
        return {
            "schema": SCHEMA,
            "split": first.split,
            "data": first.data,
            "paired": self.paired,
            "draws": self.draws,
            "seed": self.seed,
            "runs": [{"name": r.name, "file": r.path.as_posix(), "system": r.result.system} for r in self.runs],
            "benchmarks": {found.benchmark: _plain(found, names) for found in self.benchmarks},
            "sights": [
                {"run": names[seeing], "against": names[blind], "verdict": sight.verdict}
                | {"sentence": sight.sentence(names[seeing])}
                | dataclasses.asdict(sight)
                for seeing, blind, sight in self.sights
            ],
            "divergence": {
                run.name: dataclasses.asdict(run.result.divergence) for run in self.runs if run.result.divergence
            },
            "settings": dict(self.settings),
            "notes": list(self.notes),
        }


def compare_runs(
    runs: Sequence[Run], prepared: PreparedSet | None, draws: int = DRAWS, seed: int = 0, progress: bool = False
) -> Comparison:
    """Compare evaluations of one split of one data set with the first of them.

    Args:
        prepared: the data set, whose answers the official scorers score again; None: it is not at hand, and only the
            figures of the results are laid side by side.

    Raises:
        UserError: no benchmark or question in common; answers that are missing, damaged or not the result's.
    """
    measured = [benchmarks_of(run.result) for run in runs]
    names = dict.fromkeys(name for found in measured for name in found)
    shared = {name: tuple(at for at, found in enumerate(measured) if name in found) for name in names}
    shared = {name: members for name, members in shared.items() if len(members) > 1}
    if not shared:
        said = "; ".join(
            f"{run.name}: {', '.join(found) or 'nothing'}" for run, found in zip(runs, measured, strict=True)
        )
        raise UserError(f"No two of these evaluations measured the same benchmark ({said}).")
    scored: list[dict[str, dict[str, float]]] = [{} for _ in runs]
    benchmarks, notes = [], []
    if prepared is None:
        folder = runs[0].result.settings.get("dataset_path") or "its folder"
        notes.append(
            f"The data set is not at hand any more (looked for {folder}, fingerprint {runs[0].result.data}), so single "
            "answers cannot be scored: figures stand side by side, without paired differences. --dataset_path names it."
        )
    for name, members in shared.items():
        if prepared is None:
            benchmarks.append(_side_by_side(name, members, runs))
            continue
        records = prepared.records(runs[0].result.split)
        answers = []
        with progress_bar(f"{title_of(name)}: scoring the answers again" if progress else None, len(members)) as tell:
            for at in members:
                found = read_answered(runs[at].path, runs[at].result, name, records)
                answers.append({one.record.id: one for one in found})
                tell(1)
        for at, known in zip(members, answers, strict=True):
            scored[at][name] = {key: one.score for key, one in known.items()}
        benchmarks.append(_compare(name, members, answers, draws, seed, progress))
        if benchmarks[-1].left_out:
            notes.append(
                f"{title_of(name)}: not all were asked the same questions. Compared are the "
                f"{benchmarks[-1].overall.n:,} that all were asked; {benchmarks[-1].left_out:,} are left out."
            )
    absent = [
        f"{run.name} was not asked {title_of(name)}"
        for name in shared
        for at, run in enumerate(runs)
        if at not in shared[name]
    ]
    pictures = {} if prepared is None else pictures_by_id(prepared.records(runs[0].result.split))
    return Comparison(
        tuple(runs), draws, seed, tuple(benchmarks), tuple(_sights(runs, scored, pictures, seed)), differing(runs),
        (*notes, *(f"{words}." for words in absent)), None if prepared is None else prepared.image_root,
    )  # fmt: skip


def _compare(
    name: str,
    members: tuple[int, ...],
    answers: Sequence[Mapping[str, Answered]],
    draws: int,
    seed: int,
    progress: bool,
) -> Compared:
    common = [key for key in answers[0] if all(key in other for other in answers)]
    if not common:
        raise UserError(
            f"{title_of(name)}: the evaluations have no question in common; use the same --max_samples and --seed."
        )
    asked = len(set().union(*answers))
    questions = tuple(tuple(other[key] for other in answers) for key in common)
    scores = np.array([[one.score for one in row] for row in questions]).T  # [runs, questions]

    pictures = pictures_of([row[0].record for row in questions])

    def row(title: str, places: Sequence[int]) -> Row:
        found = paired_bootstrap(scores[:, places], draws, seed, [pictures[at] for at in places])
        tell(len(places))
        return Row(title, found.n, found.means, found.intervals, found.differences)

    def rows(groups: Mapping[str, Sequence[int]]) -> tuple[Row, ...]:
        return tuple(row(title, places) for title, places in groups.items())

    by_answer = _grouped((question[0].record.answer_type or UNTYPED for question in questions), answer_type_order)
    by_question = _grouped((kind_of(question[0].record) for question in questions), str)
    right = scores >= RIGHT
    exchanges = tuple(
        {"all": _exchange(right[0], right[other])}
        | {kind: _exchange(right[0, places], right[other, places]) for kind, places in by_answer.items()}
        for other in range(1, len(members))
    )
    groups = [found if len(found) > 1 else {} for found in (by_answer, by_question)]
    total = len(common) * (1 + sum(map(bool, groups)))
    with progress_bar(f"{title_of(name)}: intervals" if progress else None, total) as tell:
        overall, answer_types, question_types = row("all", range(len(common))), rows(groups[0]), rows(groups[1])
    left_out = asked - len(common)
    return Compared(name, members, overall, answer_types, question_types, exchanges, left_out, questions)


def _grouped(kinds: Iterable[str], order: Callable[[str], Any]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for at, kind in enumerate(kinds):
        groups[kind].append(at)
    return {kind: groups[kind] for kind in sorted(groups, key=order)}


def _exchange(first: np.ndarray, other: np.ndarray) -> Exchange:
    counts = (first & other, first & ~other, ~first & other, ~first & ~other)
    return Exchange(*(int(found.sum()) for found in counts))


def _side_by_side(name: str, members: tuple[int, ...], runs: Sequence[Run]) -> Compared:
    """The figures of the results, of one set of questions."""
    found = [benchmarks_of(runs[at].result)[name] for at in members]
    ids = [read_ids(runs[at].path, name) for at in members]
    for at, asked in zip(members[1:], ids[1:], strict=True):
        if asked != ids[0]:
            raise UserError(
                f"{title_of(name)}: {runs[at].path} was asked other questions than {runs[members[0]].path}, and the "
                "data set is not at hand to score those in common; name it with --dataset_path."
            )
    scores, intervals = tuple(mean for _, mean, _ in found), tuple(interval for *_, interval in found)
    return Compared(name, members, Row("all", found[0][0], scores, intervals, ()))


def _sights(
    runs: Sequence[Run],
    scored: Sequence[Mapping[str, Mapping[str, float]]],
    pictures: Mapping[str, str],
    seed: int,
) -> Iterable[tuple[int, int, Sight]]:
    """Each evaluation without pictures beside that of the same checkpoint with them, else beside the student's."""
    seeing = [at for at, run in enumerate(runs) if run.result.system not in (*UNSEEING, "teacher")]
    for blind, run in enumerate(runs):
        if run.result.system not in UNSEEING:
            continue
        checkpoint = run.result.settings.get("checkpoint")
        same = [at for at in seeing if checkpoint and runs[at].result.settings.get("checkpoint") == checkpoint]
        students = same or ([] if checkpoint else [at for at in seeing if runs[at].result.system == "student"])
        for at in students[:1]:
            sight = sight_of(runs[at].result, run.result, scored[at], scored[blind], pictures, seed)
            if sight is not None:
                yield at, blind, sight


def _plain(found: Compared, names: Sequence[str]) -> dict[str, Any]:
    others = [names[at] for at in found.runs[1:]]
    return {
        "runs": [names[at] for at in found.runs],
        "left_out": found.left_out,
        "overall": dataclasses.asdict(found.overall),
        "answer_types": [dataclasses.asdict(row) for row in found.answer_types],
        "question_types": [dataclasses.asdict(row) for row in found.question_types],
        "exchanges": {
            name: {kind: dataclasses.asdict(counts) for kind, counts in exchange.items()}
            for name, exchange in zip(others, found.exchanges, strict=False)
        },
    }
