"""In which number format a machine trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    fp16: bool = False
    bf16: bool = False
    note: str | None = None  # for the person, where the flags cannot be followed


def choose_precision(fp16: bool, bf16: bool, has_gpu: bool, has_bf16: bool) -> Precision:
    """What the flags become on a machine. A run that differs from its flags says so: nobody could compare it else."""
    if not has_gpu and (fp16 or bf16):
        return Precision(note=f"--{'bf16' if bf16 else 'fp16'} needs a GPU; float32 is used here.")
    if bf16 and not has_bf16:
        return Precision(fp16=True, note="This GPU has no bf16; fp16 is used.")
    if bf16 and fp16:
        return Precision(bf16=True, note="Both --fp16 and --bf16 were given; bf16 is used.")
    return Precision(fp16=fp16, bf16=bf16)


def precision_here(fp16: bool, bf16: bool) -> Precision:
    has_gpu = torch.cuda.is_available()
    return choose_precision(fp16, bf16, has_gpu, has_gpu and torch.cuda.is_bf16_supported())
