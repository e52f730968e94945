"""The benchmarks by name, and which records belong to each."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embervlm.errors import UserError

if TYPE_CHECKING:
    from embervlm.data.record import Record


@dataclass(frozen=True)
class Benchmark:
    title: str
    source: str  # records are chosen by metadata["source"]
    max_new_tokens: int


BENCHMARKS: dict[str, Benchmark] = {
    "vqa": Benchmark("VQA", "vqa_v2", 16),
    "okvqa": Benchmark("OK-VQA", "ok_vqa", 16),
    "instruct": Benchmark("Instruction Following", "llava_instruct", 160),
}


def select(
    records: Sequence[Record], benchmarks: Sequence[str], split: str, max_samples: int | None = None, seed: int = 0
) -> dict[str, list[Record]]:
    """The records of each benchmark, in their order; at most `max_samples` of each, chosen by `seed`."""
    chosen = {}
    for name in benchmarks:
        if name not in BENCHMARKS:
            near = difflib.get_close_matches(name, BENCHMARKS, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(f"There is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}.{hint}")
        source = BENCHMARKS[name].source
        found = [record for record in records if record.source == source]
        if not found:
            present = ", ".join(sorted({record.source for record in records}))
            raise UserError(
                f"Benchmark {name} needs records of source {source}, and split {split} has none (it has {present}). "
                "Leave it out of --benchmarks, or prepare that data."
            )
        if max_samples is not None and max_samples < len(found):
            some = np.random.default_rng(seed).choice(len(found), max_samples, replace=False)
            found = [found[at] for at in sorted(some)]
        chosen[name] = found
    if not chosen:
        raise UserError(f"No benchmark was named; there are {', '.join(BENCHMARKS)}.")
    return chosen
