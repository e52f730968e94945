"""Official files -> unified records: `stage1/` from captions, `stage2/` from LLaVA-Instruct, VQA-v2, OK-VQA and JSONL.

Read, check, split by picture, choose, write. `train` and `val` share no picture, whatever the sources call it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from embervlm.data.captions import read_captions
from embervlm.data.images import resolve_image
from embervlm.data.llava import read_llava
from embervlm.data.official import Read, Reject, image_key
from embervlm.data.prepared import PreparedSet
from embervlm.data.record import Record, read_records
from embervlm.data.settings import PrepareSettings
from embervlm.data.shows import add_descriptions
from embervlm.data.vqa import read_okvqa, read_vqa
from embervlm.data.writing import write_prepared
from embervlm.errors import UserError

REJECTS = "rejects.jsonl"
_STAGES = {1: ("caption",), 2: ("llava", "vqa", "okvqa", "jsonl")}


def run_prepare(settings: PrepareSettings) -> list[PreparedSet]:
    """`embervlm prepare`: writes the stages that have sources and prints what became of every source."""
    console = Console(highlight=False)
    read = {
        "train": _read_split(settings, ""),
        "val": _read_split(settings, "val_"),
    }
    if not any(found.records or found.rejects for split in read.values() for found in split.values()):
        raise UserError("nothing to prepare: give at least one of --llava, --vqa, --okvqa, --captions, --jsonl")
    for split in read.values():
        for source, found in split.items():
            _check_images(source, found, settings)
    rejects = [reject for split in read.values() for found in split.values() for reject in found.rejects]
    _judge(rejects, sum(len(f.records) for split in read.values() for f in split.values()), settings)
    if settings.descriptions:
        taught = [split[source] for split in read.values() for source in _STAGES[2]]
        console.print(add_descriptions(taught, settings.descriptions), soft_wrap=True)
    made = []
    for stage, sources in _STAGES.items():
        train = {s: read["train"][s].records for s in sources if read["train"][s].records}
        val = {s: read["val"][s].records for s in sources if read["val"][s].records}
        if train:
            splits, dropped = _split(train, val, settings)
            made.append(_write(settings, stage, splits, rejects, dropped))
        elif val:
            raise UserError(f"stage {stage} has val files but no train files ({', '.join(val)}); give both")
    console.print(_summary(made, rejects))
    return made


def _read_split(settings: PrepareSettings, prefix: str) -> dict[str, Read]:
    def paths(name: str) -> tuple[Path, ...]:
        return getattr(settings, prefix + name)

    def joined(name: str, reader: Callable[[Path, Path | None, str], Read]) -> Read:
        questions, annotations = paths(name), paths(f"{name}_annotations")
        if len(questions) != len(annotations):
            raise UserError(
                f"--{prefix}{name} has {len(questions)} files and --{prefix}{name}_annotations {len(annotations)}; "
                "each questions file needs its annotations file, in the same order"
            )
        return _sum(reader(q, a, settings.vqa_prompt) for q, a in zip(questions, annotations, strict=True))

    tag = "val-" if prefix else ""
    captions = _sum(_renumber(read_captions(p), f"{tag}caption", i) for i, p in enumerate(paths("captions")))
    llava = _sum(_renumber(read_llava(p), f"{tag}llava", i) for i, p in enumerate(paths("llava")))
    jsonl = Read([record for path in paths("jsonl") for record in read_records(path)])
    return {
        "caption": captions,
        "llava": llava,
        "vqa": joined("vqa", read_vqa),
        "okvqa": joined("okvqa", read_okvqa),
        "jsonl": jsonl,
    }


def _sum(reads: Iterable[Read]) -> Read:
    total = Read()
    for read in reads:
        total += read
    return total


def _renumber(read: Read, prefix: str, file: int) -> Read:
    """Ids by row number must differ between files and splits: llava-17, llava-1.17, val-llava-17."""
    start = f"{prefix}-" if file == 0 else f"{prefix}-{file}."
    return Read([_with_id(r, start + r.id.rsplit("-", 1)[1]) for r in read.records], read.rejects)


def _with_id(record: Record, record_id: str) -> Record:
    return Record(
        record_id,
        record.image,
        record.instruction,
        record.response,
        record.conversations,
        record.answers,
        record.answer_type,
        record.metadata,
    )


def _check_images(source: str, read: Read, settings: PrepareSettings) -> None:
    """Records whose picture is missing or lies outside the root become rejects; a missing root is one error."""
    reasons: dict[str, str | None] = {}
    kept: list[Record] = []
    for record in track(
        read.records, f"checking the pictures of {source}", transient=True, disable=len(read.records) < 20_000
    ):
        if record.image is not None and record.image not in reasons:
            try:
                resolve_image(settings.image_root, record.image)
                reasons[record.image] = None
            except UserError as problem:
                reasons[record.image] = str(problem)
        reason = reasons.get(record.image) if record.image is not None else None
        if reason:
            read.rejects.append(Reject(f"{source}:{record.id}", len(kept), reason))
        else:
            kept.append(record)
    if reasons and all(reasons.values()):
        raise UserError(f"none of the {len(reasons):,} pictures of {source} is there: {next(iter(reasons.values()))}")
    read.records = kept


def _judge(rejects: list[Reject], kept: int, settings: PrepareSettings) -> None:
    if not rejects:
        return
    first = f"the first: {rejects[0].file}, row {rejects[0].row}: {rejects[0].reason}"
    if settings.strict:
        raise UserError(f"{len(rejects):,} rows cannot be used ({first}); mend them or leave out --strict")
    share = len(rejects) / (len(rejects) + kept)
    if share > settings.max_rejects:
        raise UserError(
            f"{len(rejects):,} of {len(rejects) + kept:,} rows cannot be used, more than {settings.max_rejects:.1%} "
            f"({first}); mend the files or raise --max_rejects"
        )


def _split(
    train: dict[str, list[Record]], val: dict[str, list[Record]], settings: PrepareSettings
) -> tuple[dict[str, list[Record]], int]:
    """{"train": records, "val": records} without a common picture, and how many train records that cost."""
    if not val:
        pictures = sorted({_key(r) for records in train.values() for r in records})
        random.Random(f"{settings.seed}-split").shuffle(pictures)
        # At least one picture, or an evaluation would have nothing to look at.
        chosen = (
            set(pictures[: max(1, round(settings.val_fraction * len(pictures)))]) if settings.val_fraction else set()
        )
        val = {source: [r for r in records if _key(r) in chosen] for source, records in train.items()}
        train = {source: [r for r in records if _key(r) not in chosen] for source, records in train.items()}
        dropped = 0
    else:
        held = {_key(r) for records in val.values() for r in records if r.image is not None}
        before = sum(map(len, train.values()))
        train = {source: [r for r in records if _key(r) not in held] for source, records in train.items()}
        dropped = before - sum(map(len, train.values()))
    splits = {
        "train": [r for source, records in train.items() for r in _subset(source, records, settings)],
        "val": [r for records in val.values() for r in records],
    }
    for name, records in splits.items():
        if not records:
            raise UserError(
                f"the split {name!r} would be empty; give more data, "
                + ("or val files or a larger --val_fraction" if name == "val" else "or fewer pictures to val")
            )
    return splits, dropped


def _key(record: Record) -> str:
    return image_key(record.image) if record.image is not None else f"text:{record.id}"


def _subset(source: str, records: list[Record], settings: PrepareSettings) -> list[Record]:
    wanted = getattr(settings, f"{source}_samples", 0)
    if not wanted or wanted >= len(records):
        return records
    chosen = random.Random(f"{settings.seed}-{source}").sample(range(len(records)), wanted)
    return [records[i] for i in sorted(chosen)]


def _write(
    settings: PrepareSettings, stage: int, splits: dict[str, list[Record]], rejects: list[Reject], dropped: int
) -> PreparedSet:
    lines = [json.dumps(asdict(reject), ensure_ascii=False) for reject in rejects]
    more = {
        "dropped_from_train_for_val_pictures": dropped,
        "settings": {k: _plain(v) for k, v in asdict(settings).items() if k not in ("out", "image_root")},
    }
    files = {REJECTS: "\n".join(lines) + "\n"} if lines else {}
    return write_prepared(settings.out / f"stage{stage}", settings.image_root, splits, more, files)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.as_posix() if isinstance(value, Path) else value


def _summary(made: list[PreparedSet], rejects: list[Reject]) -> Table:
    table = Table(
        "folder", "split", "records", "pictures", "turns", "words asked", "words answered", "sources",
        title=f"Prepared ({len(rejects):,} rows rejected)", title_justify="left",
    )  # fmt: skip
    for prepared in made:
        for name, split in prepared.info["splits"].items():
            sources = ", ".join(f"{source} {count:,}" for source, count in split["sources"].items())
            numbers = [f"{split[key]:,}" for key in ("records", "pictures", "turns")]
            words = [f"{split['mean_question_words']:.1f}", f"{split['mean_answer_words']:.1f}"]
            table.add_row(str(prepared.folder), name, *numbers, *words, sources)
    return table
