"""Captions for Stage 1: LLaVA-Pretrain (blip_laion_cc_sbu_558k.json) or COCO's captions_*.json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embervlm.data.llava import LlavaFile, LlavaMaker
from embervlm.data.official import BadRow, Piece, Read, Source, cut, read, text
from embervlm.data.record import Record
from embervlm.data.rows import is_jsonl, list_of, parse, scan_json
from embervlm.data.settings import COCO_PROMPT
from embervlm.errors import UserError


def read_captions(path: Path) -> Read:
    """One record a caption. The format is told from the file: an array is LLaVA-Pretrain's, an object COCO's."""
    return read(captions_file(path, "caption-"))


def captions_file(path: Path, prefix: str, prompt: str = COCO_PROMPT) -> Source:
    """LLaVA-Pretrain asks its own questions; `prompt` is for COCO's captions."""
    as_llava = LlavaMaker(prefix, "caption")
    if is_jsonl(path):
        return LlavaFile(path, as_llava)
    content = scan_json(path, "LLaVA-Pretrain's array or COCO's object of captions")
    return LlavaFile(path, as_llava) if isinstance(content, list) else CocoCaptions(path, content, prefix, prompt)


@dataclass(frozen=True)
class CaptionMaker:
    """One of COCO's captions, unparsed, with the name of its picture (None: not in the file's list)."""

    prefix: str
    prompt: str

    def make(self, number: int, row: tuple[bytes, str | None]) -> Record:
        content, name = parse(row[0]), row[1]
        said = text(content, "caption")
        if name is None:
            raise BadRow(f"image {content.get('image_id')} is not in the file's list of images")
        about = {"source": "caption", "difficulty": "low"}
        return Record(f"{self.prefix}{number}", name, self.prompt, said, metadata=about)


class CocoCaptions:
    """COCO's object {images: [{id, file_name}], annotations: [{image_id, caption}]}."""

    def __init__(self, path: Path, content: dict[str, Any], prefix: str, prompt: str) -> None:
        images, annotations = list_of(content, "images"), list_of(content, "annotations")
        if images is None or annotations is None:
            raise UserError(f"{path} has no lists 'images' and 'annotations'; expected COCO's captions file")
        self.path, self.maker, self._rows = path, CaptionMaker(prefix, prompt), annotations
        self._names = {key: name for raw in images if (key := _field(raw, "id")) and (name := _field(raw, "file_name"))}

    def __len__(self) -> int:
        return len(self._rows)

    def pieces(self) -> Iterator[Piece]:
        for rows in cut(self._rows):
            yield Piece(self.maker, str(self.path), [(number, (bytes(raw), self._name(raw))) for number, raw in rows])

    def _name(self, raw: Any) -> str | None:
        return self._names.get(_field(raw, "image_id"))


def _field(raw: Any, key: str) -> str:
    """A value as text; "" where the row cannot be read or has none."""
    try:
        row = parse(raw)
    except BadRow:
        return ""
    value = row.get(key) if isinstance(row, dict) else None
    return "" if value is None else str(value)
