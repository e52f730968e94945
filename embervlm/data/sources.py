"""Which files `embervlm prepare` was given, as sources: one row a kind of file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path

from embervlm.data.captions import captions_file
from embervlm.data.llava import LlavaFile, LlavaMaker
from embervlm.data.official import Source
from embervlm.data.settings import PrepareSettings
from embervlm.data.tables import TableFiles, TableMaker
from embervlm.data.unified import UnifiedFile
from embervlm.data.vqa import VqaFiles
from embervlm.errors import UserError

STAGES = {1: ("caption",), 2: ("llava", "vqa", "okvqa", "jsonl", "parquet")}
"""Sources by stage, in the order of their records."""
PREFIXES = {"train": "", "val": "val_"}
Opener = Callable[[], Source]


def opened_later(settings: PrepareSettings, split: str) -> dict[str, list[Opener]]:
    """For each source what opens its files; nothing is read yet, but every file is there.

    Raises:
        UserError: a file is missing, or questions have no annotations.
    """
    files = partial(_files, settings, PREFIXES[split])
    tag = "val-" if split == "val" else ""
    prompts = {"vqa": settings.vqa_prompt, "okvqa": settings.okvqa_prompt or settings.vqa_prompt}
    prompts = {name: template(f"--{name}_prompt", text, "{question}") for name, text in prompts.items()}
    caption = template("--caption_prompt", settings.caption_prompt)
    found: dict[str, list[Opener]] = {
        "caption": [
            partial(captions_file, path, prefix, caption)
            for prefix, path in _prefixed(f"{tag}caption", files("captions"))
        ],
        "llava": [
            partial(LlavaFile, path, LlavaMaker(prefix, "llava_instruct"))
            for prefix, path in _prefixed(f"{tag}llava", files("llava"))
        ],
        "jsonl": [partial(UnifiedFile, path) for path in files("jsonl")],
    }
    keep = settings.unlabelled == "keep"
    found["parquet"] = [
        partial(TableFiles, path, TableMaker(prefix, settings.image_root, prompts["vqa"], prompts["okvqa"], keep))
        for prefix, path in _prefixed(f"{tag}parquet", files("parquet"))
    ]
    for name in ("vqa", "okvqa"):
        pairs = _pairs(PREFIXES[split] + name, files(name), files(f"{name}_annotations"), keep)
        found[name] = [partial(VqaFiles, asked, said, name, prompts[name], keep) for asked, said in pairs]
    return found


def template(flag: str, text: str, needed: str = "") -> str:
    r"""A prompt template; a shell leaves "\n" as two characters. UserError when it has no place for the question."""
    if needed not in text:
        raise UserError(f"{flag} is {text!r}; it needs {needed} where the question goes")
    return text.replace("\\n", "\n")


def _files(settings: PrepareSettings, prefix: str, name: str) -> tuple[Path, ...]:
    paths: tuple[Path, ...] = getattr(settings, prefix + name)
    for path in paths:
        if not os.path.exists(path):
            raise UserError(f"cannot read {path} (there is no such file), given as --{prefix}{name}")
    return paths


def _prefixed(name: str, paths: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    """Ids by row number must differ between files and splits: llava-17, llava-1.17, val-llava-17."""
    for i, path in enumerate(paths):
        yield f"{name}-" if i == 0 else f"{name}-{i}.", path


def _pairs(
    name: str, questions: tuple[Path, ...], annotations: tuple[Path, ...], unlabelled: bool
) -> Iterator[tuple[Path, Path | None]]:
    """Each questions file with its annotations; `unlabelled`: the last ones may have none."""
    if len(questions) < len(annotations) or (len(questions) > len(annotations) and not unlabelled):
        raise UserError(
            f"--{name} has {len(questions)} files and --{name}_annotations {len(annotations)}; "
            "each questions file needs its annotations file, in the same order"
            + ("" if unlabelled else ", or --unlabelled keep")
        )
    return zip_longest(questions, annotations)
