"""Captions for Stage 1: LLaVA-Pretrain (blip_laion_cc_sbu_558k.json) or COCO's captions_*.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embervlm.data.llava import read_llava
from embervlm.data.official import BadRow, Read, load_json, text
from embervlm.data.record import Record
from embervlm.errors import UserError

COCO_PROMPT = "Provide a one-sentence caption for the provided image."  # LLaVA-1.5's prompt for captions


def read_captions(path: Path) -> Read:
    """One record a caption. The format is told from the file: an array is LLaVA-Pretrain's, an object COCO's."""
    content = load_json(path, (dict, list), "LLaVA-Pretrain's array or COCO's object of captions")
    if isinstance(content, list):
        return read_llava(path, "caption", "caption")
    if not isinstance(content.get("images"), list) or not isinstance(content.get("annotations"), list):
        raise UserError(f"{path} has no lists 'images' and 'annotations'; expected COCO's captions file")
    names = {row.get("id"): row.get("file_name") for row in content["images"] if isinstance(row, dict)}

    def make(number: int, row: Any) -> Record:
        said = text(row, "caption")
        name = names.get(row.get("image_id"))
        if not isinstance(name, str):
            raise BadRow(f"image {row.get('image_id')} is not in the file's list of images")
        return Record(f"caption-{number}", name, COCO_PROMPT, said, metadata={"source": "caption", "difficulty": "low"})

    found = Read()
    found.rows(path, content["annotations"], make)
    return found
