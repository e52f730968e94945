"""Every flag of `embervlm prepare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embervlm.options import option

LLAVA_SHORT = "{question}\nAnswer the question using a single word or phrase."

_TRAIN, _VAL, _CHOICE = "Official files", "Official files for val", "What becomes of them"


@dataclass(frozen=True)
class PrepareSettings:
    """Turn official files into the unified records of Stage 1 and Stage 2."""

    out: Path = option(Path("data"), "Folder to write stage1/ and stage2/ into", group=_CHOICE)
    image_root: Path = option(Path("data/images"), "Folder of the pictures", group=_TRAIN)
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

    val_llava: tuple[Path, ...] = option((), "LLaVA-Instruct JSON", group=_VAL, shown="split off train")
    val_vqa: tuple[Path, ...] = option((), "VQA-v2 questions", group=_VAL, shown="split off train")
    val_vqa_annotations: tuple[Path, ...] = option((), "their annotations", group=_VAL, shown="none")
    val_okvqa: tuple[Path, ...] = option((), "OK-VQA questions", group=_VAL, shown="split off train")
    val_okvqa_annotations: tuple[Path, ...] = option((), "their annotations", group=_VAL, shown="none")
    val_captions: tuple[Path, ...] = option((), "Captions", group=_VAL, shown="split off train")
    val_jsonl: tuple[Path, ...] = option((), "Records in the unified format", group=_VAL, shown="split off train")
    val_fraction: float = option(
        0.02, "Share of the pictures that become val where no val files are given", group=_VAL, minimum=0, maximum=0.5
    )

    vqa_samples: int = option(100_000, "VQA-v2 questions to keep; 0 = all", group=_CHOICE, minimum=0)
    okvqa_samples: int = option(0, "OK-VQA questions to keep; 0 = all", group=_CHOICE, minimum=0)
    llava_samples: int = option(0, "LLaVA conversations to keep; 0 = all", group=_CHOICE, minimum=0)
    caption_samples: int = option(0, "Captions to keep; 0 = all", group=_CHOICE, minimum=0)
    vqa_prompt: str = option(
        LLAVA_SHORT, "How a VQA question is asked", group=_CHOICE, shown="LLaVA-1.5's short prompt"
    )
    seed: int = option(42, "Seed of the subsets and of the split", group=_CHOICE, minimum=0)
    strict: bool = option(False, "Stop at the first row that cannot be used", group=_CHOICE)
    max_rejects: float = option(0.01, "Largest share of rows that may be rejected", group=_CHOICE, minimum=0, maximum=1)
