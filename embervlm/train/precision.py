"""In which number format a machine trains."""

from __future__ import annotations

import torch


def precision(fp16: bool, bf16: bool, has_gpu: bool | None = None) -> tuple[dict[str, bool], str | None]:
    """`TrainingArguments` flags and a note for the person, or None.

    Half precision needs a GPU: without one float32 is used, and said so, since a run that silently differs from its
    flags cannot be compared with anything.
    """
    if has_gpu is None:
        has_gpu = torch.cuda.is_available()
    if fp16 and bf16:
        fp16 = False
        note = "Both --fp16 and --bf16 were given: bf16 is used."
    else:
        note = None
    if (fp16 or bf16) and not has_gpu:
        return {"fp16": False, "bf16": False}, f"--{'fp16' if fp16 else 'bf16'} needs a GPU; float32 is used here."
    if bf16 and not torch.cuda.is_bf16_supported():
        return {"fp16": True, "bf16": False}, "This GPU has no bf16; fp16 is used."
    return {"fp16": fp16, "bf16": bf16}, note
