"""LLaVA-Instruct-150K and LLaVA-Pretrain: a JSON array of {id, image?, conversations: [{from, value}, ...]}."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embervlm.data.official import BadRow, Read, load_json
from embervlm.data.record import Record

PLACEHOLDER = "<image>"


def read_llava(path: Path, prefix: str = "llava", source: str = "llava_instruct") -> Read:
    """One record a row, conversations whole. Record ids are "<prefix>-<row>": the file's own ids are not unique.

    As LLaVA's own code reads them: a first turn from gpt is dropped, then human and gpt must alternate; `<image>` is
    taken out of every human turn of a row with a picture, wherever it stands. Rows without `image` are text only.
    """
    found = Read()
    rows = load_json(path, list, "LLaVA's JSON array of conversations")
    found.rows(path, rows, lambda number, row: _record(row, f"{prefix}-{number}", source))
    return found


def _record(row: Any, record_id: str, source: str) -> Record:
    if not isinstance(row, dict) or not isinstance(row.get("conversations"), list):
        raise BadRow("conversations is missing or not a list")
    image = _image(row.get("image"))
    pairs = _pairs(row["conversations"], image is not None)
    metadata = {"source": source, "difficulty": "high" if len(pairs) > 1 or len(pairs[0][1]) > 200 else "medium"}
    if "id" in row:
        metadata["id"] = str(row["id"])  # mix665k mixes numbers and texts
    return Record(
        id=record_id,
        image=image,
        instruction=pairs[0][0],
        response=pairs[0][1],
        conversations=tuple(pairs) if len(pairs) > 1 else None,
        metadata=metadata,
    )


def _image(value: Any) -> str | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or isinstance(value, str):
        return value or None
    raise BadRow(f"image is {type(value).__name__} of several pictures or of no path")


def _pairs(turns: list[Any], has_image: bool) -> list[tuple[str, str]]:
    said = []
    for turn in turns:
        speaker = turn.get("from") if isinstance(turn, dict) else None
        if speaker not in ("human", "gpt") or not isinstance(turn.get("value"), str):
            raise BadRow(f"a turn is from {speaker!r}; expected human or gpt with a text")
        said.append((speaker, turn["value"]))
    if said and said[0][0] == "gpt":
        said = said[1:]
    if any(speaker != ("human", "gpt")[i % 2] for i, (speaker, _) in enumerate(said)):
        raise BadRow("human and gpt do not alternate")
    values = [value for _, value in said]
    if has_image:
        values[::2] = [value.replace(PLACEHOLDER, "") for value in values[::2]]
    values = [value.strip() for value in values]
    pairs = list(zip(values[::2], values[1::2], strict=False))  # a last question without an answer teaches nothing
    if not pairs or not all(answer for _, answer in pairs):
        raise BadRow("a conversation without an answer")
    if not all(question for question, _ in pairs):
        raise BadRow("an empty question")
    return pairs
