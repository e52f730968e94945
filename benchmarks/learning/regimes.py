"""Which labels a student has. Each regime changes `response` of the training records and nothing else.

A regime is written as prepared sets, one for each way in which an arm can read it:

    labels   the labelled records, as the regime has them
    taught   the same, and the others as the teacher answers them
    answers  every record as the teacher answers it: the same in all regimes with the same pictures, since it looks at
             no label
    sure-answers  those of them that it is sure of
    agreed   those of these that no label of the regime contradicts
    blind    the labelled records without their pictures, val too
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.learning.arms import ALIGNMENTS, Arm
from benchmarks.learning.stage1 import CAPTIONS_READ
from benchmarks.learning.world import World, answered_by_teacher, read_by_teacher, unlabelled, without_pictures
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.data.record import Record
from embervlm.data.writing import write_prepared
from embervlm.evaluate.answers import normalise
from embervlm.evaluate.vqa import question_type

ASKED = ("answers", "sure-answers")  # look at no label
READS = ("labels", "taught", *ASKED, "agreed", "blind")
SURE = 0.75
NOISE_SEED = 17
"""Of the labels that are dropped or wrong: the same in all cells, seeds of training differ."""


@dataclass(frozen=True)
class Regime:
    """One line of the grid's first axis."""

    name: str
    title: str
    label: Callable[[Sequence[Record]], list[Record]]  # train as people agree -> train as this regime has it
    complete: bool = True  # every record of the known pictures has a label
    labels_of: str = ""  # the regime with the same labelled records, where there is one
    more: int = 0  # times as many pictures again, with questions that nobody answered
    borrows: bool = False  # nobody asked about these either: they borrow questions of the known ones
    min_confidence: float = 0.0  # of the teacher's answers to what has no label; the others are left out

    def asks(self, reads: str) -> bool:
        """Whether an arm that reads so needs the teacher's answers about the known pictures."""
        return reads in (*ASKED, "agreed") or (reads == "taught" and not self.complete)

    def asks_more(self, reads: str) -> bool:
        """And about the further ones."""
        return reads not in ("labels", "blind") and self.more > 0


def as_agreed(records: Sequence[Record]) -> list[Record]:
    """The answer of most of the ten annotators."""
    return list(records)


def one_annotator(records: Sequence[Record]) -> list[Record]:
    """The answer of one of the ten, drawn for each question."""
    rng = np.random.default_rng(NOISE_SEED)
    return [replace(record, response=str(rng.choice(record.answers or (record.response,)))) for record in records]


def few(share: float) -> Callable[[Sequence[Record]], list[Record]]:
    """Labels for a share of the pictures, all questions of such a picture; the others keep their questions."""

    def label(records: Sequence[Record]) -> list[Record]:
        pictures = sorted({str(record.image) for record in records})
        count = max(1, round(share * len(pictures)))
        kept = set(np.random.default_rng(NOISE_SEED).permutation(pictures)[:count])
        return [record if str(record.image) in kept else unlabelled(record) for record in records]

    return label


def wrong(share: float) -> Callable[[Sequence[Record]], list[Record]]:
    """So many labels are those of another question of the same template, and not what any annotator said."""

    def label(records: Sequence[Record]) -> list[Record]:
        rng = np.random.default_rng(NOISE_SEED)
        said: dict[str, list[str]] = defaultdict(list)
        for record in records:
            said[question_type(record)].append(record.response)
        spoilt = set(rng.permutation(len(records))[: round(share * len(records))].tolist())
        return [_spoil(r, said[question_type(r)], rng) if at in spoilt else r for at, r in enumerate(records)]

    return label


def _spoil(record: Record, others: Sequence[str], rng: np.random.Generator) -> Record:
    """Another answer of the template. One that no annotator gave, where there is one: yes/no has two answers only."""
    own = normalise(record.response)
    different = [answer for answer in others if normalise(answer) != own]
    heard = {normalise(answer) for answer in record.answers or ()}
    unheard = [answer for answer in different if normalise(answer) not in heard]
    choices = unheard or different
    return replace(record, response=choices[int(rng.integers(len(choices)))]) if choices else record


FEW = {"few25": 0.25, "few5": 0.05, "few1": 0.01}


def few_and_taught(name: str, suffix: str, what: str, limit: float) -> Regime:
    """One of `FEW`, and those of the teacher's answers to the rest that it gives `limit` or more."""
    title = f"{FEW[name]:.0%} have labels, and what the teacher {what}"
    labels = few(FEW[name])
    return Regime(f"{name}-{suffix}", title, labels, complete=False, labels_of=name, min_confidence=limit)


REGIMES = {
    regime.name: regime
    for regime in (
        Regime("all", "all labels, as most of ten annotators answered", as_agreed),
        Regime("one", "one annotator of ten, drawn for each question", one_annotator),
        *(
            regime
            for name, share in FEW.items()
            for regime in (
                Regime(name, f"{share:.0%} of the pictures have labels", few(share), complete=False),
                few_and_taught(name, "sure", "is sure of", SURE),
            )
        ),
        *(few_and_taught("few5", f"{limit:g}", f"gives {limit:g} or more", limit) for limit in (0.5, 0.9)),
        Regime("more", "all labels, and three times as many pictures without", as_agreed, labels_of="all", more=3),
        Regime(
            "sure",
            "all labels, and 3 times more pictures where the teacher is sure",
            as_agreed,
            labels_of="all",
            more=3,
            min_confidence=SURE,
        ),
        Regime(
            "pictures",
            "all labels, and 3 times more pictures without questions",
            as_agreed,
            labels_of="all",
            more=3,
            borrows=True,
            min_confidence=SURE,
        ),
        Regime("wrong20", "20% of the labels are wrong", wrong(0.2)),
        Regime("wrong40", "40% of the labels are wrong", wrong(0.4)),
    )
}


def data_name(regime: Regime, reads: str) -> str:
    """Which data set an arm reads there. Equal names are equal data: such cells are trained once."""
    if reads in ASKED:
        return f"{regime.name}-{reads}" if regime.more else reads
    if reads in ("labels", "blind"):
        return (regime.labels_of or regime.name) + "-blind" * (reads == "blind")
    if reads == "agreed":
        return f"{regime.name}-agreed"
    return regime.name if regime.complete and not regime.more else f"{regime.name}-taught"


def data_folder(world: World, name: str) -> Path:
    """A data_dir: its stage2/ is the prepared set."""
    return world.folder / "regimes" / name


def cache_folder(world: World, name: str) -> Path:
    return data_folder(world, name) / "teacher_outputs"


def make_data(world: World, regime: Regime, reads: str) -> PreparedSet:
    """The prepared set of a regime as an arm reads it; val is the half to stop on in all of them."""
    name = data_name(regime, reads)
    folder = data_folder(world, name)
    if name == "answers":
        _answers(world)
    else:
        world.once(f"data {name}", lambda: _write(world, regime, reads, folder))
    return open_prepared(folder / "stage2")


def make_cache(world: World, regime: Regime, reads: str) -> Path:
    """What the teacher says about that data, in its own tokens."""
    prepared = make_data(world, regime, reads)
    name = data_name(regime, reads)
    cache = cache_folder(world, name)
    world.timed(f"teacher reads {name}", lambda: read_by_teacher(prepared, cache))
    return cache


def seconds_of(world: World, regime: Regime, arm: Arm) -> float:
    """What the teacher's work for an arm took; counted where arms are compared at equal wall time."""
    notes = [f"teacher reads {data_name(regime, arm.reads)}"] * arm.cached
    notes += ["teacher answers"] * regime.asks(arm.reads)
    notes += [_further_said(regime)] * regime.asks_more(arm.reads)
    notes += [CAPTIONS_READ] * ALIGNMENTS[arm.alignment].taught
    return sum(world.seconds(note) for note in notes)


def _answers(world: World) -> list[Record]:
    folder = data_folder(world, "answers")
    world.timed("teacher answers", lambda: answered_by_teacher(world.base, folder))
    return open_prepared(folder / "stage2").records("train")


def _further_said(regime: Regime) -> str:
    return f"teacher answers {regime.more} times more{', borrowed' * regime.borrows}"


def _more_answers(world: World, regime: Regime) -> PreparedSet:
    """The further pictures alone, as the teacher answers their questions: all of them, whatever is taken of it."""
    said = data_folder(world, f"{regime.more}-times-{'borrowed' if regime.borrows else 'said'}")
    further = world.borrowing(regime.more) if regime.borrows else world.further(regime.more)
    world.timed(_further_said(regime), lambda: answered_by_teacher(further, said))
    return open_prepared(said / "stage2")


def _write(world: World, regime: Regime, reads: str, folder: Path) -> None:
    root, said = world.base.image_root, []
    if regime.asks_more(reads):
        more = _more_answers(world, regime)
        root, said = more.image_root, more.records("train")
    if regime.asks(reads):
        said = [*_answers(world), *said]
    records = fill(regime, regime.label(world.base.records("train")), said, reads)
    splits = {"train": records, "val": world.base.records("val")}
    if reads == "blind":
        splits = {split: without_pictures(some) for split, some in splits.items()}
    write_prepared(folder / "stage2", root, splits, {"regime": regime.title})


def fill(regime: Regime, records: Sequence[Record], said: Sequence[Record], reads: str) -> list[Record]:
    """The records that an arm reads.

    Args:
        records: train as the regime has it, some without a label.
        said: the same and further ones, as the teacher answers them.
    """
    limit = SURE if reads in ("sure-answers", "agreed") else regime.min_confidence
    sure = [r for r in said if not limit or r.metadata["confidence"] >= limit]
    if reads in ASKED:
        return sure
    if reads == "agreed":
        labels = {record.id: normalise(record.response) for record in records if record.labelled}
        return [r for r in sure if labels.get(r.id) in (None, normalise(r.response))]
    known = {record.id: record for record in sure} | {record.id: record for record in records if record.labelled}
    order = dict.fromkeys(record.id for record in (*records, *sure))
    return [known[name] for name in order if name in known]
