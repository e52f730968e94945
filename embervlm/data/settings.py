"""Every flag of `embervlm prepare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embervlm.options import option

LLAVA_SHORT = "{question}\nAnswer the question using a single word or phrase."

COCO_PROMPT = "Provide a one-sentence caption for the provided image."  # LLaVA-1.5's prompt for captions

_TRAIN, _VAL, _CHOICE = "Official files", "Official files for val", "What becomes of them"
_PROMPTS, _CHECKS = "Prompts", "Checks"


@dataclass(frozen=True)
class PrepareSettings:
    """Turn official files into the unified records of Stage 1 and Stage 2."""

    out: Path = option(Path("data"), "Folder to write stage1/ and stage2/ into", group=_CHOICE)
    image_root: Path = option(
        Path("data/images"), "Pictures: a folder, perhaps with .zip or .tar in it, or one of these", group=_TRAIN
    )
    llava: tuple[Path, ...] = option((), "LLaVA-Instruct JSON", group=_TRAIN, shown="none")
    vqa: tuple[Path, ...] = option((), "VQA-v2 questions", group=_TRAIN, shown="none")
    vqa_annotations: tuple[Path, ...] = option((), "their annotations, in the same order", group=_TRAIN, shown="none")
    okvqa: tuple[Path, ...] = option((), "OK-VQA questions", group=_TRAIN, shown="none")
    okvqa_annotations: tuple[Path, ...] = option((), "their annotations, in the same order", group=_TRAIN, shown="none")
    captions: tuple[Path, ...] = option((), "Stage 1: LLaVA-Pretrain or COCO captions", group=_TRAIN, shown="none")
    jsonl: tuple[Path, ...] = option((), "Records in the unified format", group=_TRAIN, shown="none")
    descriptions: tuple[Path, ...] = option(
        (), "Stage 2: what the pictures of train and val show, for a teacher that only reads: {image: text}, COCO's "
        "captions or instances", group=_TRAIN, shown="none",
    )  # fmt: skip
    parquet: tuple[Path, ...] = option(
        (), "Converted sets, .parquet or .arrow files or folders of them", group=_TRAIN, shown="none"
    )

    val_llava: tuple[Path, ...] = option((), "LLaVA-Instruct JSON", group=_VAL, shown="split off train")
    val_vqa: tuple[Path, ...] = option((), "VQA-v2 questions", group=_VAL, shown="split off train")
    val_vqa_annotations: tuple[Path, ...] = option((), "their annotations", group=_VAL, shown="none")
    val_okvqa: tuple[Path, ...] = option((), "OK-VQA questions", group=_VAL, shown="split off train")
    val_okvqa_annotations: tuple[Path, ...] = option((), "their annotations", group=_VAL, shown="none")
    val_captions: tuple[Path, ...] = option((), "Captions", group=_VAL, shown="split off train")
    val_jsonl: tuple[Path, ...] = option((), "Records in the unified format", group=_VAL, shown="split off train")
    val_parquet: tuple[Path, ...] = option((), "Converted sets", group=_VAL, shown="split off train")
    val_fraction: float = option(
        0.02, "Share of the pictures that become val where no val files are given", group=_VAL, minimum=0, maximum=0.5
    )

    vqa_samples: int = option(100_000, "VQA-v2 questions to keep; 0 = all", group=_CHOICE, minimum=0)
    okvqa_samples: int = option(0, "OK-VQA questions to keep; 0 = all", group=_CHOICE, minimum=0)
    llava_samples: int = option(0, "LLaVA conversations to keep; 0 = all", group=_CHOICE, minimum=0)
    caption_samples: int = option(0, "Captions to keep; 0 = all", group=_CHOICE, minimum=0)
    parquet_samples: int = option(0, "Rows of converted sets to keep; 0 = all", group=_CHOICE, minimum=0)
    seed: int = option(42, "Seed of the subsets and of the split", group=_CHOICE, minimum=0)
    vqa_prompt: str = option(
        LLAVA_SHORT, "How a VQA question is asked", group=_PROMPTS, shown="LLaVA-1.5's short prompt"
    )
    okvqa_prompt: str | None = option(None, "How an OK-VQA question is asked", group=_PROMPTS, shown="as --vqa_prompt")
    caption_prompt: str = option(
        COCO_PROMPT, "How one of COCO's captions is asked for", group=_PROMPTS, shown="LLaVA-1.5's"
    )

    max_length: int = option(
        512, "Positions of a sample: longer ones are counted in the report", group=_CHECKS, minimum=16
    )
    image_tokens: int = option(49, "Positions of a picture (37m: 49, tiny: 36)", group=_CHECKS, minimum=0)
    missing_images: str = option(
        "reject",
        "Records whose picture is not there; ignore does not look",
        group=_CHECKS,
        choices=("reject", "ignore"),
    )
    check_images: bool = option(False, "Decode every picture, too; goes on where it was stopped", group=_CHECKS)
    num_workers: int = option(
        0, "Processes; the same bytes for any number", group=_CHECKS, minimum=0, shown="the cores, from 32 MB of files"
    )
    unlabelled: str = option(
        "reject", "VQA questions without an annotation; keep: as records without an answer, for `embervlm answer --ask "
        "unlabelled`", group=_CHECKS, choices=("reject", "keep"),
    )  # fmt: skip
    strict: bool = option(False, "Stop at the first row that cannot be used", group=_CHECKS)
    max_rejects: float = option(0.01, "Largest share of rows that may be rejected", group=_CHECKS, minimum=0, maximum=1)
