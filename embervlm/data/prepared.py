"""A prepared data set: a folder with `train.jsonl`, `val.jsonl` and `dataset.json`, written by `embervlm prepare`."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.markup import escape

from embervlm.console import console
from embervlm.data.record import Record, read_records
from embervlm.errors import UserError

INFO = "dataset.json"
_STAGES = ("stage1", "stage2")


@dataclass(frozen=True)
class PreparedSet:
    """One stage's data. `info` is dataset.json: image root, sources and counts of each split, settings."""

    folder: Path
    image_root: Path
    info: dict[str, Any]

    def path(self, split: str) -> Path:
        return self.folder / f"{split}.jsonl"

    def records(self, split: str, unlabelled: bool = False) -> list[Record]:
        """The records of a split, in the order of its file. Those that nobody has answered are left out, unless
        `unlabelled`, and how many they are is said once: training on them would teach to say nothing.

        Raises:
            UserError: the split is missing or empty, or nobody has answered any record of it where answers are needed.
        """
        records = self._read.get(split)
        if records is None:
            if not self.path(split).is_file():
                known = ", ".join(sorted(p.stem for p in self.folder.glob("*.jsonl"))) or "none"
                raise UserError(f"{self.folder} has no split {split!r}; it has: {known}")
            records = self._read[split] = read_records(self.path(split))
        if not records:
            raise UserError(f"the split {split!r} of {self.folder} is empty; prepare it again with more data")
        return records if unlabelled else self._answered(split, records)

    def _answered(self, split: str, records: list[Record]) -> list[Record]:
        kept = self._labelled.get(split)
        if kept is None:
            kept = self._labelled[split] = [record for record in records if record.labelled]
            silent = f"{len(records) - len(kept):,} of {len(records):,} records of {self.path(split)} have no response"
            answer = f"`embervlm answer --dataset_path {self.folder} --splits {split} --ask unlabelled`"
            if not kept:
                raise UserError(f"{silent}; let a teacher answer: {answer}")
            if len(kept) < len(records) and int(os.environ.get("RANK", "0")) == 0:
                told = f"{silent} and are left out; {answer} fills them."
                console.print(f"[yellow]note[/] {escape(told)}", soft_wrap=True)
        return kept

    def fingerprint(self, split: str) -> str:
        """16 hex digits over the split's records."""
        if not self.path(split).is_file():
            self.records(split)  # says what is missing
        return hashlib.sha256(self.path(split).read_bytes()).hexdigest()[:16]

    @property
    def part(self) -> str | None:
        """Which of the records these are; None: all."""
        return None

    def with_pictures(self) -> PreparedSet:
        """The records that have a picture, under the fingerprints of the whole set."""
        return _WithPictures(self.folder, self.image_root, self.info)

    @cached_property
    def _read(self) -> dict[str, list[Record]]:
        return {}

    @cached_property
    def _labelled(self) -> dict[str, list[Record]]:
        return {}


class _WithPictures(PreparedSet):
    @property
    def part(self) -> str:
        return "pictures"

    def records(self, split: str, unlabelled: bool = False) -> list[Record]:
        kept = [record for record in super().records(split, unlabelled) if record.image is not None]
        if not kept:
            raise UserError(f"no record of the split {split!r} of {self.folder} has a picture")
        return kept


def open_prepared(folder: str | Path) -> PreparedSet:
    """Opens a folder that `embervlm prepare` wrote; UserError with what to run when it is not one."""
    folder = Path(folder)
    if not (folder / INFO).is_file():
        what = "there is no such folder" if not folder.is_dir() else f"it has no {INFO}"
        raise UserError(
            f"{folder} is not a prepared data set ({what}); "
            + (_nearby(folder) or f"make one with `embervlm prepare --out {folder.parent}`")
        )
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        root = Path(info["image_root"])
        root = root if root.is_absolute() else (folder / root).resolve()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        raise UserError(f"{folder / INFO} cannot be read ({problem}); run `embervlm prepare` again") from problem
    return PreparedSet(folder, root, info)


def _nearby(folder: Path) -> str:
    """What to do where a set lies one folder further down or up, the likeliest mistake; empty: there is none."""
    if below := [folder / stage for stage in _STAGES if (folder / stage / INFO).is_file()]:
        return f"{' and '.join(map(str, below))} {'is one: name it' if len(below) == 1 else 'are: name one of them'}"
    if folder.name in _STAGES and (folder.parent / INFO).is_file():
        above = os.path.normpath(folder.parent / "..")
        return f"{folder.parent} is one: give the folder that holds it, `--data_dir {above}`"
    return f"{folder.parent} is one: name it" if (folder.parent / INFO).is_file() else ""
