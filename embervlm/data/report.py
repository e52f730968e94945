"""What a prepared set holds, source by source, beside the guide's table: data_report.json, a page, a table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, Template
from rich.markup import escape
from rich.table import Table

from embervlm.console import console
from embervlm.data.gather import Gathered
from embervlm.data.images import CONVERTED
from embervlm.data.measure import Numbers, join
from embervlm.data.official import Reject
from embervlm.data.prepared import PreparedSet
from embervlm.data.settings import PrepareSettings

REPORT, PAGE = "data_report.json", "data_report.html"
GUIDE: dict[str, dict[str, Any]] = {
    "llava_instruct": {"samples": 150_000, "question_words": 15.2, "answer_words": 45.0},
    "vqa_v2": {
        "samples": 100_000,
        "question_words": 6.2,
        "answer_words": 1.5,
        "answer_types": {"yes/no": 0.40, "number": 0.10, "other": 0.50},
    },
    "ok_vqa": {"samples": 50_000, "question_words": 7.8, "answer_words": 2.3},
}
"""The guide's table of data sets."""
OKVQA_ROWS = 9_009
LENGTHS = ("question_words", "question_tokens", "answer_words", "answer_tokens")
_BINS = 24
_TWICE = 0.01
"""Share of the smaller source's questions that the other has, too, from which mixing them is counting twice."""


@dataclass(frozen=True)
class Chosen:
    """Some records of a source, by index, in their order."""

    found: Gathered
    records: list[int]


def report_of(
    splits: dict[str, list[Chosen]], read: dict[str, dict[str, Gathered]], settings: PrepareSettings
) -> dict[str, Any]:
    """Everything that data_report.json holds; lengths in tokens are the student's."""
    described: dict[str, dict[str, Any]] = {}
    asked: dict[str, np.ndarray] = {}
    totals = {}
    for split, chosen in splits.items():
        described[split] = {}
        for source, numbers, kinds, pictures in _by_source(chosen):
            described[split][source] = _describe(numbers, kinds, pictures, settings.max_length)
            if split == "train":
                asked[source] = np.unique(numbers.asked[numbers.asked > 0])
        totals[split] = _total(chosen, described[split])
    return {
        "max_length": settings.max_length,
        "image_tokens": settings.image_tokens,
        "totals": totals,
        "splits": described,
        "read": {split: {name: _read(f) for name, f in found.items() if f.rows} for split, found in read.items()},
        "same_questions": (same := _same_questions(asked)),
        "guide": GUIDE,
        "notes": _notes(described["train"], same, _rows(read["train"], "okvqa")),
    }


def _by_source(chosen: list[Chosen]) -> Iterator[tuple[str, Numbers, list[str | None], list[str]]]:
    """(source, numbers, answer types, pictures), of the records' own sources in the order of their first record."""
    places: dict[str, list[tuple[Gathered, list[int]]]] = {}
    for part in chosen:
        here: dict[str, list[int]] = {}
        for i in part.records:
            here.setdefault(part.found.sources[i], []).append(i)
        for source, records in here.items():
            places.setdefault(source, []).append((part.found, records))
    for source, parts in places.items():
        numbers = join([found.numbers().take(np.array(records, dtype=np.int64)) for found, records in parts])
        kinds = [found.kinds[i] for found, records in parts for i in records]
        yield source, numbers, kinds, [found.pictures[i] for found, records in parts for i in records]


def _describe(numbers: Numbers, kinds: list[str | None], pictures: list[str], max_length: int) -> dict[str, Any]:
    shown = [picture for picture in pictures if not picture.startswith("text:")]
    answered = numbers.answer_words > 0
    return {
        "samples": len(numbers),
        "pictures": len(set(shown)),
        "nameless_pictures": sum(picture.startswith(f"{CONVERTED}/") for picture in set(shown)),
        "without_picture": len(pictures) - len(shown),
        "turns": int(numbers.turns.sum()),
        "answered_turns": int(answered.sum()),
        "unlabelled": _unlabelled(numbers),
        **{
            name: _lengths(getattr(numbers, name)[answered] if name.startswith("answer") else getattr(numbers, name))
            for name in LENGTHS
        },
        "positions": _lengths(numbers.positions),
        "answer_types": dict(sorted(Counter(kind for kind in kinds if kind).items())),
        "truncated": int((numbers.positions > max_length).sum()),
        "without_label": int((numbers.first_label >= max_length).sum()),
        "duplicates": len(numbers) - len(np.unique(numbers.same)),
    }


def _lengths(values: np.ndarray) -> dict[str, Any]:
    """Mean, median, 95th percentile, largest, and a histogram whose last bin takes all that is longer."""
    if not len(values):
        return {"mean": 0.0, "median": 0, "p95": 0, "max": 0, "histogram": {"edges": [0, 1], "counts": [0]}}
    most = int(np.percentile(values, 99.5)) + 1
    step = -(-most // _BINS)
    edges = np.arange(0, most + step, step)
    counts, _ = np.histogram(np.minimum(values, edges[-1] - 1), edges)
    return {
        "mean": round(float(values.mean()), 2),
        "median": int(np.median(values)),
        "p95": int(np.percentile(values, 95)),
        "max": int(values.max()),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _total(chosen: list[Chosen], described: dict[str, Any]) -> dict[str, Any]:
    """One row for a split, as dataset.json has it."""
    pictures = {part.found.pictures[i] for part in chosen for i in part.records}
    unlabelled = sum(source["unlabelled"] for source in described.values())

    def mean(name: str, of: str) -> float:
        turns = sum(source[of] for source in described.values())
        return round(sum(s[name]["mean"] * s[of] for s in described.values()) / max(1, turns), 2)

    return {
        "records": sum(len(part.records) for part in chosen),
        "pictures": sum(not picture.startswith("text:") for picture in pictures),
        "turns": sum(source["turns"] for source in described.values()),
        "sources": {source: described[source]["samples"] for source in sorted(described)},
        "mean_question_words": mean("question_words", "turns"),
        "mean_answer_words": mean("answer_words", "answered_turns"),
    } | ({"unlabelled": unlabelled} if unlabelled else {})


def _unlabelled(numbers: Numbers) -> int:
    """Records in none of whose turns anybody answers."""
    if not len(numbers):
        return 0
    starts = np.cumsum(numbers.turns, dtype=np.int64) - numbers.turns
    return int((np.add.reduceat(numbers.answer_words, starts) == 0).sum())


def _rows(read: dict[str, Gathered], name: str) -> int:
    return read[name].rows if name in read else 0


def _read(found: Gathered) -> dict[str, int]:
    return {"rows": found.rows, "rejected": len(found.rejects), "pictures_missing": len(found.missing)}


def _same_questions(asked: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Pairs of sources that ask the same of the same picture."""
    found = []
    for one, other in combinations(asked, 2):
        count = len(np.intersect1d(asked[one], asked[other], assume_unique=True))
        if count:
            share = count / min(len(asked[one]), len(asked[other]))
            found.append({"sources": [one, other], "questions": count, "share_of_smaller": round(share, 4)})
    return found


def _notes(train: dict[str, Any], same: list[dict[str, Any]], okvqa_rows: int) -> list[str]:
    """What a person should know before training."""
    notes = []
    for pair in same:
        if pair["share_of_smaller"] >= _TWICE:
            one, other = pair["sources"]
            notes.append(
                f"{one} and {other} share {pair['questions']:,} questions about the same pictures "
                f"({pair['share_of_smaller']:.0%} of the smaller): they count twice. llava_v1_5_mix665k.json already "
                "holds the training questions of VQA-v2 and OK-VQA; leave one of the two out."
            )
    if okvqa_rows == OKVQA_ROWS:
        notes.append(
            f"ok_vqa: the guide plans 50,000 questions, but OK-VQA has {OKVQA_ROWS:,} to train on; "
            f"{train['ok_vqa']['samples']:,} of them are in train."
        )
    named = [source for source, said in train.items() if said["pictures"] > said["nameless_pictures"]]
    for source, said in train.items():
        if said["nameless_pictures"] and named:
            notes.append(
                f"{source}: {said['nameless_pictures']:,} pictures came without COCO's name, so they may be in val "
                f"under the name that {', '.join(named)} uses."
            )
        if said["unlabelled"]:
            notes.append(
                f"{source}: {said['unlabelled']:,} of {said['samples']:,} samples have no answer; training leaves them "
                "out, `embervlm answer --ask unlabelled` lets a teacher answer."
            )
        if said["without_label"]:
            notes.append(
                f"{source}: {said['without_label']:,} samples have no answer within --max_length and will be left out."
            )
        if said["duplicates"] > 0.01 * said["samples"]:
            notes.append(f"{source}: {said['duplicates']:,} samples repeat another one word by word.")
    return notes


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """data_report.json and the page with histograms."""
    (folder / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = _page().render(report=report, measures=(*LENGTHS, "positions"))
    (folder / PAGE).write_text(page, encoding="utf-8")


@cache
def _page() -> Template:
    template = (files("embervlm.data") / "report.html.jinja").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)


def summary(made: list[PreparedSet], rejects: list[Reject]) -> Table:
    """One row a split."""
    table = Table(
        "folder", "split", "records", "pictures", "turns", "words asked", "words answered", "sources",
        title=f"Prepared ({len(rejects):,} rows rejected)", title_justify="left",
    )  # fmt: skip
    for prepared in made:
        for name, split in prepared.info["splits"].items():
            sources = ", ".join(f"{source} {count:,}" for source, count in split["sources"].items())
            numbers = [f"{split[key]:,}" for key in ("records", "pictures", "turns")]
            words = [f"{split['mean_question_words']:.1f}", f"{split['mean_answer_words']:.1f}"]
            table.add_row(escape(str(prepared.folder)), name, *numbers, *words, escape(sources))
    return table


def print_report(prepared: PreparedSet) -> None:
    """The training sources beside the guide's table, and the notes."""
    report = json.loads((prepared.folder / REPORT).read_text(encoding="utf-8"))
    train = report["splits"]["train"]
    table = Table(
        "train", *map(escape, train), title=f"{prepared.folder.name} (the guide's table)", title_justify="left"
    )
    for name in ("samples", "turns", "truncated", "without_label", "duplicates"):
        label = {"truncated": f"cut at {report['max_length']} positions", "without_label": "no answer left"}.get(
            name, name
        )
        table.add_row(
            label, *(_beside(said[name], GUIDE.get(source, {}).get(name), ",") for source, said in train.items())
        )
    for name in LENGTHS:
        planned = [GUIDE.get(source, {}).get(name) for source in train]
        means = [said[name]["mean"] for said in train.values()]
        table.add_row(name.replace("_", " "), *(_beside(m, p, ".1f") for m, p in zip(means, planned, strict=True)))
    for kind in sorted({kind for said in train.values() for kind in said["answer_types"]}):
        table.add_row(
            kind, *(_share(said["answer_types"], kind, GUIDE.get(source, {})) for source, said in train.items())
        )
    console.print(table)
    for split, sources in report["read"].items():
        for name, read in sources.items():
            if read["rejected"]:
                gone = (
                    f", {read['pictures_missing']:,} pictures missing or unreadable" if read["pictures_missing"] else ""
                )
                console.print(
                    f"[yellow]{split} {name}[/]: {read['rejected']:,} of {read['rows']:,} rows rejected{gone}"
                )
    for note in report["notes"]:
        console.print(f"[yellow]note:[/] {escape(note)}")
    console.print(f"[dim]{escape(str(prepared.folder / PAGE))} has the histograms.[/]", soft_wrap=True)


def _beside(value: float, planned: float | None, form: str) -> str:
    return f"{value:{form}}" + ("" if planned is None else f" ({planned:{form}})")


def _share(kinds: dict[str, int], kind: str, guide: dict[str, Any]) -> str:
    if not kinds:
        return ""
    return _beside(kinds.get(kind, 0) / sum(kinds.values()), guide.get("answer_types", {}).get(kind), ".0%")
