"""Official files -> unified records: `stage1/` from captions, `stage2/` from LLaVA-Instruct, VQA-v2, OK-VQA and JSONL.

Read, check, split by picture, choose, write. `train` and `val` share no picture, whatever the sources call it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from embervlm.console import console
from embervlm.data.check_images import JOURNAL, Decoder
from embervlm.data.choose import subset, val_pictures
from embervlm.data.gather import Checks, Gathered, Gatherer
from embervlm.data.official import Reject
from embervlm.data.prepared import INFO, PreparedSet, open_prepared
from embervlm.data.report import Chosen, print_report, report_of, summary, write_report
from embervlm.data.settings import PrepareSettings
from embervlm.data.shows import Descriptions
from embervlm.data.sources import STAGES, Opener, opened_later
from embervlm.data.workers import Workers, processors
from embervlm.data.writing import check_target
from embervlm.errors import UserError
from embervlm.options import as_dict

REJECTS = "rejects.jsonl"
_NOT_KEPT = ("out", "image_root", "num_workers")
"""Settings that change nothing in the records."""
_LARGE = 32 << 20
"""Bytes of official files from which other processes are worth their start."""


def run_prepare(settings: PrepareSettings) -> list[PreparedSet]:
    """`embervlm prepare`: writes the stages that have sources and prints what became of every source."""
    openers = {split: opened_later(settings, split) for split in ("train", "val")}
    if not any(files for split in openers.values() for files in split.values()):
        raise UserError("nothing to prepare: give at least one of --llava, --vqa, --okvqa, --captions, --jsonl")
    if settings.check_images and settings.missing_images == "ignore":
        raise UserError("--check_images decodes every picture, --missing_images ignore looks at none; leave one out")
    for stage in STAGES:
        check_target(settings.out / f"stage{stage}")
    told = Descriptions(settings.descriptions, settings.image_root) if settings.descriptions else None
    made = []
    with _workspace(settings.out) as space:
        gathered = _gather(settings, openers, space)
        rejects = [r for split in gathered.values() for found in split.values() for r in found.rejects]
        _judge(rejects, sum(f.rows for split in gathered.values() for f in split.values()), settings)
        for stage, sources in STAGES.items():
            train, val = (
                {s: gathered[split][s] for s in sources if len(gathered[split][s])} for split in ("train", "val")
            )
            if train:
                chosen, dropped = _split(train, val, settings)
                read = {split: {s: gathered[split][s] for s in sources} for split in gathered}
                made.append(
                    _write(settings, stage, chosen, read, rejects, dropped, space, told if stage == 2 else None)
                )
            elif val:
                raise UserError(f"stage {stage} has val files but no train files ({', '.join(val)}); give both")
    _beside(settings.out).unlink(missing_ok=True)  # of an earlier attempt that stopped
    console.print(summary(made, rejects))
    for prepared in made:
        print_report(prepared)
    return made


def _gather(
    settings: PrepareSettings, openers: dict[str, dict[str, list[Opener]]], space: Path
) -> dict[str, dict[str, Gathered]]:
    """Split -> source -> its good records. Ids differ within a stage, so stages come one after the other."""
    gathered: dict[str, dict[str, Gathered]] = {split: {} for split in openers}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        workers = stack.enter_context(Workers(_processes(settings)))
        pictures = None
        if settings.check_images:
            pictures = stack.enter_context(Decoder(settings.out / JOURNAL, workers))
        checks = Checks(settings.image_root, settings.missing_images == "reject", pictures)
        gatherer = Gatherer(checks, settings.image_tokens, workers, settings.strict)
        progress = stack.enter_context(Progress(*columns, console=console, transient=True))
        for sources in STAGES.values():
            checks.new_stage()
            for split, files in openers.items():
                for name in sources:
                    found = gathered[split][name] = Gathered(name, space / f"{split}.{name}.jsonl")
                    found.spool.touch()
                    for i, opener in enumerate(files[name], start=1):
                        part = f" {i}/{len(files[name])}" if len(files[name]) > 1 else ""
                        bar = progress.add_task(f"{split} {name}{part}", total=None)
                        source = opener()
                        progress.update(bar, total=len(source))
                        gatherer.gather(found, source, lambda rows, bar=bar: progress.advance(bar, rows))  # type: ignore[misc]
    if pictures:
        console.print(f"{pictures.decoded:,} pictures decoded; what was found is in {settings.out / JOURNAL}")
    return gathered


def _processes(settings: PrepareSettings) -> int:
    if settings.num_workers or settings.check_images:
        return settings.num_workers or processors()
    paths = [path for value in vars(settings).values() if isinstance(value, tuple) for path in value]
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    large = sum(os.path.getsize(file) for file in files) >= _LARGE
    return processors() if large else 1


@contextmanager
def _workspace(out: Path) -> Iterator[Path]:
    """A folder for half-done work inside `out`, gone afterwards, together with `out` where that stays empty."""
    was_there = out.exists()
    for left in out.glob(".prepare.*.partial"):  # of runs that were killed
        if (pid := left.name.split(".")[2]).isdigit() and not _runs(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    space = out / f".prepare.{os.getpid()}.partial"
    space.mkdir(parents=True)
    try:
        yield space
    finally:
        shutil.rmtree(space, ignore_errors=True)
        if not was_there and not any(out.iterdir()):
            out.rmdir()


def _runs(pid: int) -> bool:
    if os.name != "posix":  # elsewhere signal 0 is no question
        return pid != os.getpid()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _judge(rejects: list[Reject], rows: int, settings: PrepareSettings) -> None:
    """Too many bad rows stop here, before anything is replaced; they are written beside `out` to be looked at."""
    share = len(rejects) / max(1, rows)
    if share > settings.max_rejects:
        path = _beside(settings.out)
        _write_rejects(path, rejects)
        raise UserError(
            f"{len(rejects):,} of {rows:,} rows cannot be used, more than {settings.max_rejects:.1%} "
            f"(the first: {rejects[0]}; all are in {path}); mend the files or raise --max_rejects"
        )


def _beside(out: Path) -> Path:
    """data.rejects.jsonl for data: a run that stops leaves nothing inside."""
    whole = out.resolve()
    return whole.with_name(f"{whole.name}.{REJECTS}")


def _split(
    train: dict[str, Gathered], val: dict[str, Gathered], settings: PrepareSettings
) -> tuple[dict[str, list[Chosen]], int]:
    """{"train": ..., "val": ...} without a common picture, and how many train records that cost."""
    dropped = 0
    if val:
        held = {picture for found in val.values() for picture in found.pictures}
        for_val = [Chosen(found, list(range(len(found)))) for found in val.values()]
    else:
        held = val_pictures((p for f in train.values() for p in f.pictures), settings.val_fraction, settings.seed)
        for_val = [Chosen(f, [i for i, p in enumerate(f.pictures) if p in held]) for f in train.values()]
    for_train = []
    for name, found in train.items():
        rest = [i for i, picture in enumerate(found.pictures) if picture not in held]
        dropped += len(found) - len(rest) if val else 0
        wanted = getattr(settings, f"{name}_samples", 0)
        kept = subset([found.kinds[i] for i in rest], wanted, settings.seed, name)
        for_train.append(Chosen(found, [rest[i] for i in kept]))
    splits = {"train": for_train, "val": for_val}
    for name, chosen in splits.items():
        if not any(part.records for part in chosen):
            raise UserError(
                f"the split {name!r} would be empty; give more data, "
                + ("or val files or a larger --val_fraction" if name == "val" else "or fewer pictures to val")
            )
    return splits, dropped


def _write(
    settings: PrepareSettings,
    stage: int,
    splits: dict[str, list[Chosen]],
    read: dict[str, dict[str, Gathered]],
    rejects: list[Reject],
    dropped: int,
    space: Path,
    told: Descriptions | None,
) -> PreparedSet:
    """Into a folder beside the wanted one, then renamed: a half-written set never has the right name."""
    folder = settings.out / f"stage{stage}"
    partial = space / folder.name
    partial.mkdir()
    root = os.path.relpath(settings.image_root.resolve(), folder.resolve())
    info: dict[str, Any] = {"image_root": root, "splits": {}}
    report = report_of(splits, read, settings)
    for name, chosen in splits.items():
        digest = hashlib.sha256()
        with (partial / f"{name}.jsonl").open("wb") as file:
            for part in chosen:
                for plain in part.found.lines(part.records):
                    line = told.add(plain) if told else plain
                    file.write(line)
                    digest.update(line)
        info["splits"][name] = report["totals"][name] | {"sha256": digest.hexdigest()}
    if told:
        console.print(told.summary(), soft_wrap=True)
    info["dropped_from_train_for_val_pictures"] = dropped
    info["settings"] = {k: v for k, v in as_dict(settings).items() if k not in _NOT_KEPT}
    if rejects:
        _write_rejects(partial / REJECTS, rejects)
    write_report(partial, report)
    (partial / INFO).write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    old = space / f"{folder.name}.old"
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    return open_prepared(folder)


def _write_rejects(path: Path, rejects: list[Reject]) -> None:
    lines = [json.dumps(reject.to_json(), ensure_ascii=False) for reject in rejects]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")
