"""`embervlm cache import`: a cache from the log-probabilities that an inference server wrote."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import track

from embervlm import tokens
from embervlm.console import console
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.teachers.from_logprobs import ESTIMATED_TAIL, outputs_from_logprobs
from embervlm.teachers.outputs import TeacherOutputs, keep_likely
from embervlm.teachers.plan import plan_shards
from embervlm.teachers.shards import sha256
from embervlm.teachers.store import CacheWriter

if TYPE_CHECKING:
    from embervlm.settings import CacheImportSettings

SHOWN = 20
"""Bad lines that are told one by one."""
_SHARD_RECORDS = 1024


def run_import(settings: CacheImportSettings) -> int:
    """Write the cache; exit code 1, nothing written and the lines named where any are bad or missing."""
    prepared = open_prepared(settings.dataset_path)
    target = settings.output_dir
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already; give import a new --output_dir")
    tokenizer = _load_tokenizer(settings.teacher_tokenizer)
    places, bad = _find_lines(settings.records)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        writer = CacheWriter(
            partial,
            {
                "name": f"{settings.teacher_tokenizer}, imported",
                "weights": f"records {sha256(settings.records)[:16]}",
                "tokenizer": tokens.fingerprint(tokenizer),
                "template": "imported",
            },
            {split: prepared.fingerprint(split) for split in settings.splits},
            {
                "top_k": "imported",
                "min_share": settings.min_share,
                "shard_records": _SHARD_RECORDS,
                "tail": ESTIMATED_TAIL,
            },
            tokenizer.eos_token_id,
            tokens.token_bytes(tokenizer),
        )
        _write(settings, prepared, places, tokenizer, writer, bad)
        if bad:
            for problem in bad[:SHOWN]:
                console.print(f"[red]{escape(problem)}[/]", soft_wrap=True)
            console.print(f"{len(bad):,} problems; nothing was written. Mend {settings.records} and import it again.")
            return 1
        if target.is_dir():
            target.rmdir()
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    totals = writer.manifest["totals"]
    console.print(
        f"{escape(str(target))}: {totals['records']:,} records, {totals['tokens']:,} tokens, "
        f"{totals['bytes_per_token']:.1f} bytes a token; tails above T = 1 are estimated",
        soft_wrap=True,
    )
    return 0


def _write(
    settings: CacheImportSettings,
    prepared: PreparedSet,
    places: dict[tuple[str, int], tuple[int, int]],
    tokenizer: Any,
    writer: CacheWriter,
    bad: list[str],
) -> None:
    """Shard by shard, so that the file of records may be larger than the memory."""
    plan = plan_shards({split: prepared.records(split) for split in settings.splits}, _SHARD_RECORDS)
    wanted = {(record.id, turn) for shard in plan for record in shard.records for turn in range(len(record.turns()))}
    bad += [f"line {places[key][0]}: {settings.dataset_path} has no turn {key[1]} of record {key[0]}"
            for key in places if key not in wanted]  # fmt: skip
    with settings.records.open("rb") as file:
        for shard in track(plan, "importing", console=console):
            records = []
            for record in shard.records:
                turns = _read(file, record, places, tokenizer, bad)
                records.append((record.id, [keep_likely(turn, settings.min_share) for turn in turns]))
            if not bad:
                writer.add(shard.name, shard.split, shard.source, records)
    if not bad:
        writer.finish([shard.name for shard in plan])


def _read(
    file: Any, record: Record, places: dict[tuple[str, int], tuple[int, int]], tokenizer: Any, bad: list[str]
) -> list[TeacherOutputs]:
    found = []
    for turn, (_, answer) in enumerate(record.turns()):
        place = places.get((record.id, turn))
        if place is None:
            bad.append(f"no line has turn {turn} of record {record.id}")
            continue
        file.seek(place[1])
        row = json.loads(file.readline())
        try:
            ids, said = row["token_ids"], row["logprobs"]
            if not isinstance(said, list) or not isinstance(ids, list) or not all(type(i) is int for i in ids):
                raise UserError('"token_ids" must be a list of whole numbers and "logprobs" a list')
            found.append(outputs_from_logprobs(record.id, answer, ids, said, tokenizer, turn))
        except KeyError as error:
            bad.append(f"line {place[0]}: it has no {error}")
        except UserError as error:
            bad.append(f"line {place[0]}: {error}")
    return found


def _find_lines(path: Path) -> tuple[dict[tuple[str, int], tuple[int, int]], list[str]]:
    """(record, turn) -> (number of its line, its first byte); and what is wrong with other lines."""
    if not path.is_file():
        raise UserError(f"There is no file of records {path}; name it with --records")
    places: dict[tuple[str, int], tuple[int, int]] = {}
    bad, at = [], 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            begin, at = at, at + len(line)
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                key = str(row["id"]), int(row.get("turn", 0))
            except (ValueError, KeyError, TypeError, AttributeError):
                bad.append(f'line {number} is no JSON object with an "id"')
                continue
            if key in places:
                bad.append(f"line {number}: turn {key[1]} of record {key[0]} is in line {places[key][0]}, too")
            places.setdefault(key, (number, begin))
    return places, bad


def _load_tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--teacher_tokenizer {folder} does not load: {reason}") from None
