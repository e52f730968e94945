"""What the fused loss costs: its time against its own three matmuls, its memory against plain PyTorch.

    python -m benchmarks.loss            # 4,096 labelled positions
    python -m benchmarks.loss --quick    # V = 50,257 only, time on 1,024 of them; under a minute

Time: forward and backward of `chunked_loss` against the matmuls of the same chunks (logits, gradient of the hidden
states, gradient of the head) in the same type. Both are measured in turns; the ratio is that of each turn, the median
of all is shown. Memory: the most that a process holds during one forward and backward, less what it held before, for
the fused loss and for logits, log_softmax and a dense KL left to autograd. Where there is a GPU, both are measured
there. The model is a head of V x 384, the teacher 16 events a position and a rest.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from embervlm.console import console
from embervlm.device import pick_device, wait_for
from embervlm.distill.divergences import DIVERGENCES
from embervlm.distill.loss import LossOptions, chunked_loss
from embervlm.distill.targets import Targets

VOCABULARIES = (25_600, 50_257)
POSITIONS, HIDDEN, EVENTS = 4096, 384, 16
MOST_TIME, MOST_MEMORY = 1.15, 0.15
OPTIONS = LossOptions(alpha=0.3, sft_weight=0.7, temperature=2.0)
DEVICE = pick_device("auto")


def make_inputs(positions: int, vocabulary: int) -> tuple[Tensor, Tensor, Tensor, Targets]:
    """hidden, weight, labels, targets."""
    torch.manual_seed(0)
    with DEVICE:
        hidden = torch.randn(positions, HIDDEN, requires_grad=True)
        weight = (0.05 * torch.randn(vocabulary, HIDDEN)).requires_grad_()
        ids = torch.randint(vocabulary // EVENTS, (positions, EVENTS)) * EVENTS + torch.arange(EVENTS)
        shares = torch.rand(positions, EVENTS + 1).softmax(1)
        said = Targets(ids, shares[:, :-1], shares[:, -1], torch.ones(positions, dtype=torch.bool))
        return hidden, weight, torch.randint(vocabulary, (positions,)), said


def fused(inputs: tuple[Tensor, Tensor, Tensor, Targets], options: LossOptions, bf16: bool = False) -> None:
    hidden, weight, labels, targets = inputs
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
        total = chunked_loss(hidden, weight, None, labels, targets, options).total
    torch.autograd.grad(total, (hidden, weight))


def plain(inputs: tuple[Tensor, Tensor, Tensor, Targets], options: LossOptions) -> None:
    """The same loss with everything held. The rest is spread evenly, as a dense target needs some shape."""
    hidden, weight, labels, targets = inputs
    logits = F.linear(hidden, weight)
    ce = F.cross_entropy(logits, labels)
    teacher = (
        (targets.rest / (len(weight) - EVENTS))[:, None].repeat(1, len(weight)).scatter_(1, targets.ids, targets.probs)
    )
    log_q = (logits / options.temperature).log_softmax(1)
    kd = F.kl_div(log_q, teacher, reduction="batchmean")
    total = options.sft_weight * ce + options.alpha * options.temperature**2 * kd
    torch.autograd.grad(total, (hidden, weight))


@torch.no_grad()
def matmuls(inputs: tuple[Tensor, Tensor, Tensor, Targets], options: LossOptions, bf16: bool = False) -> None:
    dtype = torch.bfloat16 if bf16 else torch.float32
    hidden, weight = inputs[0].to(dtype), inputs[1].to(dtype)
    grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
    chunk = options.positions_at_once(len(weight), hidden.device)
    for start in range(0, len(hidden), chunk):
        h = hidden[start : start + chunk]
        logits = h @ weight.t()
        grad_hidden[start : start + chunk] = logits @ weight
        grad_weight.addmm_(logits.t(), h)


def time_ratio(vocabulary: int, positions: int, options: LossOptions, turns: int, bf16: bool = False) -> float:
    inputs = make_inputs(positions, vocabulary)
    ratios = []
    for turn in range(turns + 1):
        seconds = []
        for work in (fused, matmuls) if turn % 2 else (matmuls, fused):
            wait_for(DEVICE)
            began = time.perf_counter()
            work(inputs, options, bf16)
            wait_for(DEVICE)
            seconds.append((work is fused, time.perf_counter() - began))
        taken = dict(seconds)
        ratios.append(taken[True] / taken[False])
    return statistics.median(ratios[1:])  # the first turn warms up


def peak_bytes(way: str, vocabulary: int, positions: int) -> int:
    """In a process of its own: the peak of a process never falls."""
    command = [sys.executable, "-m", "benchmarks.loss", "--measure", way, str(vocabulary), str(positions)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_peak(way: str, vocabulary: int, positions: int) -> int:
    work = {"fused": fused, "plain": plain}[way]
    work(make_inputs(8, 8 * EVENTS), OPTIONS)  # what a first call allocates for good
    inputs = make_inputs(positions, vocabulary)
    if DEVICE.type == "cuda":
        held = torch.cuda.memory_allocated(DEVICE)
        torch.cuda.reset_peak_memory_stats(DEVICE)
        work(inputs, OPTIONS)
        return torch.cuda.max_memory_allocated(DEVICE) - held
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()  # held now, not its peak
    work(inputs, OPTIONS)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        way, vocabulary, positions = options.measure
        print(measure_peak(way, int(vocabulary), int(positions)))
        return 0
    positions, turns = (1024, 3) if options.quick else (POSITIONS, 7)
    found: dict[str, Any] = {"benchmark": "loss", "quick": options.quick, "time": {}, "memory": {}, "memory_mib": {}}
    table = Table(
        "V", "time / matmuls", "memory / plain", "MiB", "MiB plain", title="The fused loss", title_justify="left"
    )
    vocabularies = VOCABULARIES[-1:] if options.quick else VOCABULARIES
    for vocabulary in track(vocabularies, "Default options", console=console, transient=True):
        ours, theirs = (peak_bytes(way, vocabulary, POSITIONS) for way in ("fused", "plain"))
        found["time"][vocabulary] = round(time_ratio(vocabulary, positions, OPTIONS, turns), 3)
        found["memory"][vocabulary] = round(ours / theirs, 3)
        found["memory_mib"][vocabulary] = [round(ours / 2**20), round(theirs / 2**20)]
        mib = (str(mib) for mib in found["memory_mib"][vocabulary])
        table.add_row(f"{vocabulary:,}", str(found["time"][vocabulary]), str(found["memory"][vocabulary]), *mib)
    console.print(table)
    if not options.quick:
        found["others"] = others(turns)
    worst = max(found["time"].values()), max(found["memory"].values())
    found["passed"] = worst[0] <= MOST_TIME and worst[1] <= MOST_MEMORY
    found["device"] = torch.cuda.get_device_name(DEVICE) if DEVICE.type == "cuda" else "cpu"
    print(json.dumps(found))
    return 0 if found["passed"] else 1


def others(turns: int) -> dict[str, float]:
    """Time against the matmuls at V = 25,600 and 1,024 positions with other options."""
    table = Table("other options", "time / matmuls")
    ways = {f"T = {t:g}": (LossOptions(0.3, 0.7, t), False) for t in (1.0, 3.0)}
    ways |= {name: (LossOptions(0.3, 0.7, 2.0, divergence=name), False) for name in DIVERGENCES if name != "forward_kl"}
    ways["bf16"] = (OPTIONS, True)
    found = {}
    for name, (options, bf16) in track(ways.items(), "Other options", console=console, transient=True):
        found[name] = round(time_ratio(VOCABULARIES[0], 1024, options, turns, bf16), 3)
        table.add_row(name, str(found[name]))
    console.print(table)
    return found


if __name__ == "__main__":
    sys.exit(main())
