"""manifest.json of a teacher cache: what it belongs to, and whether its files are those that were written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embervlm.errors import UserError
from embervlm.teachers.shards import sha256

MANIFEST = "manifest.json"
VOCABULARY, ORDER = "vocabulary.safetensors", "order.safetensors"
VERSION = 3
MOST_WORDS = 1 << 24
"""An id is kept in three bytes."""

AGAIN = "run cache_teacher_outputs.py again with another --output_dir, or delete the folder first"


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a cache; UserError where there is none, or it is not one of this version."""
    path = folder / MANIFEST
    if not path.is_file():
        what = "has no manifest.json" if folder.is_dir() else "does not exist"
        raise UserError(f"teacher cache {folder} {what}; make it with cache_teacher_outputs.py --output_dir {folder}")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version = info["version"]
        missing = {"teacher", "data", "settings", "vocabulary", "files", "shards", "complete", "end_of_turn_id"} - set(
            info
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); {AGAIN}") from None
    if version != VERSION or missing:
        raise UserError(f"{path} is of version {version}, this program reads {VERSION}; {AGAIN}")
    if problem := _odd(info):
        raise UserError(f"{path} is damaged: {problem}; {AGAIN}")
    return info


def _odd(info: Mapping[str, Any]) -> str:
    """What in a manifest is not of the kind that it must be; empty: nothing."""
    kinds: dict[str, type] = {
        "teacher": dict, "data": dict, "settings": dict, "files": list, "shards": list, "complete": bool,
        "end_of_turn_id": int, "vocabulary": int,
    }  # fmt: skip
    odd = [name for name, kind in kinds.items() if type(info[name]) is not kind]
    if odd:
        return f"{odd[0]} is {type(info[odd[0]]).__name__}, expected {kinds[odd[0]].__name__}"
    if nameless := [key for key in ("name", "tokenizer") if not isinstance(info["teacher"].get(key), str)]:
        return f"the teacher has no {nameless[0]}"
    if not 0 < info["vocabulary"] <= MOST_WORDS:
        return f"a vocabulary of {info['vocabulary']} tokens"
    unfinished = info.get("unfinished", [])
    if not isinstance(unfinished, list) or not all(isinstance(split, str) for split in unfinished):
        return f"unfinished is {unfinished!r}, expected names of splits"
    for entry in (*info["files"], *info["shards"]):
        facts = [entry.get(key) for key in ("name", "sha256", "bytes")] if isinstance(entry, dict) else []
        if [type(fact) for fact in facts] != [str, str, int] or Path(str(facts[0])[:250]).name != facts[0]:
            return f"a file is described as {entry!r}, expected its name, bytes and sha256"
        if not isinstance(entry.get("order", ORDER), str):
            return f"{entry['name']} has no name of its order"
    return ""


def refuse_other(
    folder: Path,
    info: Mapping[str, Any],
    teacher: Mapping[str, Any],
    data: Mapping[str, str],
    settings: Mapping[str, Any],
    missing_splits: bool = False,
) -> None:
    """UserError naming every fingerprint or setting in which the cache differs from what is asked for.

    Paths of one and the same teacher may differ, so its name is told, but not compared.
    """
    pairs = [(f"teacher {key}", info["teacher"].get(key), value) for key, value in teacher.items() if key != "name"]
    pairs += [
        (f"data of split {split}", info["data"].get(split), value)
        for split, value in data.items()
        if missing_splits or split in info["data"]
    ]
    pairs += [(key, info["settings"].get(key), value) for key, value in settings.items()]
    differences = [f"{what} is {found}, asked for {wanted}" for what, found, wanted in pairs if found != wanted]
    if differences:
        name = info["teacher"].get("name")
        raise UserError(
            f"teacher cache {folder}, made with teacher {name}, does not belong here: {'; '.join(differences)}. "
            f"To make one that does, {AGAIN}"
        )


def file_problem(folder: Path, entry: Mapping[str, Any], verify: bool) -> str:
    """What is wrong with a file of the manifest, as the end of a sentence; empty: nothing."""
    path = folder / entry["name"]
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != entry["bytes"]:
        return f"has {path.stat().st_size} bytes, not the {entry['bytes']} that were written"
    if verify and sha256(path) != entry["sha256"]:
        return "is damaged: its checksum differs from the manifest's"
    return ""


def splits_without_shards(info: Mapping[str, Any]) -> list[str]:
    """Splits that the manifest lists and of which the cache holds nothing."""
    return [split for split in info["data"] if not any(entry.get("split") == split for entry in info["shards"])]


def totals_of(info: Mapping[str, Any]) -> dict[str, float]:
    """Records, tokens, bytes of all files but the manifest, and bytes a token."""
    counted = {key: sum(entry[key] for entry in info["shards"]) for key in ("records", "tokens", "bytes")}
    counted["bytes"] += sum(entry["bytes"] for entry in info["files"])
    return {**counted, "bytes_per_token": round(counted["bytes"] / max(counted["tokens"], 1), 2)}
