"""Converted sets as people have them: Parquet files, Arrow files of `datasets`, or folders of these.

The row's columns say what it is:

    texts             the_cauldron, FineVision: a list of {user, assistant}, `images`
    conversations     LLaVA-like (`conversation`, `messages`), `image` or `images`
    question          VQA-v2 and OK-VQA with annotation in the row (lmms-lab/VQAv2, lmms-lab/OK-VQA and others)

Pictures that lie in the table as bytes are written to <image_root>/converted once, under COCO's name where the row
tells it, so that splits by picture hold across sources, else under a hash of their bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from embervlm.data.images import CONVERTED
from embervlm.data.llava import llava_record
from embervlm.data.official import BadRow, Piece, Reject
from embervlm.data.record import Record
from embervlm.data.vqa import vqa_record
from embervlm.errors import UserError

SUFFIXES = (".parquet", ".arrow")
_COLUMNS = (
    "texts conversations conversation messages image images question question_id image_id id_image answers "
    "answers_original multiple_choice_answer answer_type question_type source id"
).split()
_COCO = re.compile(r"^(COCO_[a-z0-9-]{1,20}_)?[0-9]{12}\.[a-zA-Z]{1,5}\Z")
_SPLITS = {"train", "val", "validation", "test", "testdev"}
_KINDS = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"RIFF", ".webp"), (b"BM", ".bmp"))


@dataclass(frozen=True)
class TableMaker:
    """One row as a dictionary of columns."""

    prefix: str
    image_root: Path
    vqa_prompt: str
    okvqa_prompt: str
    unlabelled: bool = False  # a question without answers is a record that nobody has answered

    def make(self, number: int, row: dict[str, Any]) -> Record:
        record_id = f"{self.prefix}{number}"
        if "texts" in row:
            return self._texts(row, record_id)
        if "question" in row:
            return self._question(row, number)
        return llava_record(
            row | {"image": self._picture(row), "images": None}, record_id, _source(row, "llava_instruct")
        )

    def _texts(self, row: dict[str, Any], record_id: str) -> Record:
        """One element of `texts` is a round; all rounds are about the same picture."""
        turns = row["texts"]
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise BadRow("texts is no list of {user, assistant}")
        said = [
            {"from": speaker, "value": turn.get(key)}
            for turn in turns
            for speaker, key in (("human", "user"), ("gpt", "assistant"))
        ]
        content = {"image": self._picture(row), "conversations": said}
        return llava_record(content, record_id, _source(row, "the_cauldron"))

    def _question(self, row: dict[str, Any], number: int) -> Record:
        kind = "vqa" if "multiple_choice_answer" in row else "okvqa"
        if isinstance(row.get("answers_original"), list):
            row = row | {"answers": row["answers_original"]}
        if row.get("question_id") is None:
            row = row | {"question_id": f"{self.prefix}{number}"}
        image = self._picture(row)
        if image is None:
            raise BadRow("a question without a picture")
        prompt = self.okvqa_prompt if kind == "okvqa" else self.vqa_prompt
        bare = self.unlabelled and not row.get("answers") and not row.get("multiple_choice_answer")
        record = vqa_record(row, kind, image, prompt, bare)
        if bare or row.get("answer_type") is not None:
            return record
        return Record(**{name: getattr(record, name) for name in _FIELDS} | {"answer_type": _guess(record.response)})

    def _picture(self, row: dict[str, Any]) -> str | None:
        """The row's one picture as a name below the image root; None for a row of text."""
        cell = row.get("image") if row.get("image") is not None else row.get("images")
        if isinstance(cell, list):
            if len(cell) > 1:
                raise BadRow(f"{len(cell)} pictures in a row; expected one")
            cell = cell[0] if cell else None
        image_id = row.get("image_id", row.get("id_image"))
        if cell is None:
            return None if image_id is None else f"{_digits(image_id)}.jpg"
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if isinstance(content, str):
            return content
        if not content:
            if isinstance(path, str) and path:
                return path
            raise BadRow("image has neither bytes nor a path")
        if not isinstance(content, bytes):
            raise BadRow(f"image is {type(content).__name__}; expected bytes or a path")
        return self._keep(content, str(path or ""), image_id)

    def _keep(self, content: bytes, path: str, image_id: Any) -> str:
        ending = next((ending for start, ending in _KINDS if content.startswith(start)), ".img")
        base = PurePosixPath(path.replace("\\", "/")).name
        if not _COCO.match(base):
            known = image_id is not None and re.fullmatch("[0-9]{1,20}", str(image_id))
            base = (_digits(image_id) if known else hashlib.sha256(content).hexdigest()[:20]) + ending
        target = self.image_root / CONVERTED / base
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{base}.{os.getpid()}.partial")
            partial.write_bytes(content)
            partial.replace(target)
        return f"{CONVERTED}/{base}"


_FIELDS = ("id", "image", "instruction", "response", "conversations", "answers", "metadata")


def _source(row: dict[str, Any], name: str) -> str:
    source = row.get("source")
    return source if isinstance(source, str) and source else name


def _digits(image_id: Any) -> str:
    try:
        return f"{int(image_id):012d}"
    except (TypeError, ValueError, OverflowError):
        raise BadRow(f"image_id is {image_id!r}; expected a number") from None


def _guess(response: str) -> str:
    """The answer type of a set that does not say."""
    if response.lower() in ("yes", "no"):
        return "yes/no"
    return "number" if response.replace(".", "", 1).isdigit() else "other"


@dataclass(frozen=True)
class TablePiece(Piece):
    """One row group or record batch of a file, opened where it is worked on."""

    part: int = 0
    first: int = 0  # number of its first row in the file
    before: int = 0  # rows of the source's earlier files

    def records(self) -> Iterator[tuple[int, Record | Reject]]:
        number = self.first
        for rows in _batches(Path(self.file), self.part):
            for row in rows:
                try:
                    yield number, self.maker.make(self.before + number, row)
                except BadRow as problem:
                    yield number, Reject(self.file, number, str(problem), self.unit)
                number += 1


class TableFiles:
    """A file, or all files of a folder in the order of their names, rows numbered through."""

    def __init__(self, path: Path, maker: TableMaker) -> None:
        if maker.image_root.is_file():
            raise UserError(
                f"the pictures of {path} are written into --image_root, but {maker.image_root} is a file; give a folder"
            )
        self.maker, self._parts = maker, []
        for file in _files(path):
            names, counts = _layout(file)
            if not {"texts", "question", "conversations", "conversation", "messages"} & set(names):
                raise UserError(
                    f"{file} has the columns {', '.join(names)}; expected one of texts, question, conversations, "
                    "messages"
                )
            self._parts += [(file, part, count) for part, count in enumerate(counts)]

    def __len__(self) -> int:
        return sum(count for _, _, count in self._parts)

    def pieces(self) -> Iterator[Piece]:
        first = before = 0
        for file, part, count in self._parts:
            if part == 0:
                first, before = 0, before + first
            yield TablePiece(self.maker, str(file), (), part=part, first=first, before=before)
            first += count


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and not p.name.startswith("cache-"))
    if not found:
        raise UserError(f"{path} holds no .parquet or .arrow files")
    splits = {name for p in found if (name := re.split(r"[-_.]", p.name)[0]) in _SPLITS}
    if len(splits) > 1:
        raise UserError(
            f"{path} holds several splits ({', '.join(sorted(splits))}); give the files of one, as in "
            f"{path}/train-*.parquet"
        )
    return found


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet and Arrow files need pyarrow; pip install 'embervlm[parquet]'") from None
    return pyarrow


def _layout(file: Path) -> tuple[list[str], list[int]]:
    """The columns, and the rows of each row group or record batch."""
    with _reading(file) as arrow:
        if file.suffix == ".parquet":
            with arrow.parquet.ParquetFile(file) as table:
                rows = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
                return table.schema_arrow.names, rows
        names, batches = _ipc(file)
        return names, [batch.num_rows for batch in batches]


def _batches(file: Path, part: int) -> Iterator[list[dict[str, Any]]]:
    """Rows of known columns, 64 at a time: pictures of a whole row group are hundreds of MB."""
    with _reading(file) as arrow:
        if file.suffix == ".parquet":
            with arrow.parquet.ParquetFile(file) as table:
                columns = [name for name in _COLUMNS if name in table.schema_arrow.names]
                for batch in table.iter_batches(batch_size=64, row_groups=[part], columns=columns):
                    batch.validate(full=True)  # texts that are not UTF-8
                    yield batch.to_pylist()
        else:
            batch = _ipc(file)[1][part]
            batch.validate(full=True)  # Arrow follows the offsets of a damaged file out of its memory
            known = batch.select([name for name in _COLUMNS if name in batch.schema.names])
            yield from (known.slice(start, 64).to_pylist() for start in range(0, known.num_rows, 64))


@contextmanager
def _reading(file: Path) -> Iterator[Any]:
    """pyarrow, or the sentence that it is not there; what it raises on a damaged file is one, too."""
    arrow = _arrow()
    try:
        yield arrow
    except UserError:
        raise
    except (arrow.ArrowException, OSError, ValueError, LookupError, OverflowError) as problem:
        raise UserError(f"{file} cannot be read ({problem}); download or write it again") from problem


def _ipc(file: Path) -> tuple[list[str], list[Any]]:
    """`datasets` writes streams; others write files. Memory-mapped: batches cost nothing until they are used."""
    arrow = _arrow()
    mapped = arrow.memory_map(str(file))
    try:
        reader = arrow.ipc.open_stream(mapped)
        return reader.schema.names, list(reader)
    except arrow.ArrowInvalid:
        reader = arrow.ipc.open_file(mapped)
        return reader.schema.names, [reader.get_batch(i) for i in range(reader.num_record_batches)]
