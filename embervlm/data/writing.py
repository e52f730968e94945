"""Writing a prepared data set: whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embervlm.data.official import image_key
from embervlm.data.prepared import INFO, PreparedSet, open_prepared
from embervlm.data.record import Record, write_records
from embervlm.errors import UserError


def check_target(folder: Path) -> None:
    """UserError where writing a prepared set would delete something else."""
    if folder.exists() and any(folder.iterdir()) and not (folder / INFO).is_file():
        raise UserError(f"{folder} holds other files than a prepared set; choose another folder or empty it")


def write_prepared(
    folder: Path,
    image_root: Path,
    splits: Mapping[str, Sequence[Record]],
    more: Mapping[str, Any],
    files: Mapping[str, str] | None = None,
) -> PreparedSet:
    """Into a folder beside the wanted one, then renamed: a half-written set never has the right name.

    Args:
        more: further keys of dataset.json, which has the image root, relative to the folder, and each split's counts.
        files: name -> text of further files in the folder.
    """
    check_target(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        info: dict[str, Any] = {"image_root": os.path.relpath(image_root.resolve(), folder.resolve()), "splits": {}}
        for name, records in splits.items():
            write_records(partial / f"{name}.jsonl", records)
            info["splits"][name] = _statistics(records) | {
                "sha256": hashlib.sha256((partial / f"{name}.jsonl").read_bytes()).hexdigest()
            }
        for name, text in (files or {}).items():
            (partial / name).write_text(text, encoding="utf-8")
        info |= more
        (partial / INFO).write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_prepared(folder)


def _statistics(records: Sequence[Record]) -> dict[str, Any]:
    turns = [turn for record in records for turn in record.turns()]
    answered = [words for _, answer in turns if (words := answer.split())]
    unlabelled = sum(not record.labelled for record in records)
    return {
        "records": len(records),
        "pictures": len({image_key(r.image) for r in records if r.image is not None}),
        "turns": len(turns),
        "sources": dict(sorted(Counter(r.source for r in records).items())),
        "mean_question_words": round(sum(len(q.split()) for q, _ in turns) / len(turns), 2),
        "mean_answer_words": round(sum(map(len, answered)) / max(1, len(answered)), 2),
    } | ({"unlabelled": unlabelled} if unlabelled else {})
