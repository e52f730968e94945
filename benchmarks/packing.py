"""How full packed rows are, and what packing saves a training step.

    python -m benchmarks.packing            # a few minutes
    python -m benchmarks.packing --quick    # fewer batches

Questions as VQA-v2 asks them: at least 3 of a picture, 5.36 on average (visualqa.org), 6.2 words each, answers of one,
two and three words with the shares of the VQA paper (arXiv:1505.00468). The words are drawn with Zipf's frequencies
from those that GPT-2's vocabulary has whole. Batches are those of `ImageMajorSampler`, of `--batch_size`'s default.

filling: used slots (picture, question, answer) over rows x longest row, over an epoch. Unpacked: the same samples, each
in a row of its own with its picture, padded to the longest of the batch.

speed: a training step (collation, forward, backward, clipping, AdamW; pictures are decoded already) on the same
samples, packed and unpacked in turns; the ratio is the median over the turns. Tokens are those of questions and
answers, which both kinds of step read alike. `language`: the vision tower's features are given, so that only projector,
language model and loss are compared. `dense`: packed, with a mask over whole rows instead of attention in pieces.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from rich.progress import track
from rich.table import Table

from embervlm.batch.collate import Collator, model_inputs
from embervlm.batch.dataset import Sample
from embervlm.batch.encode import encode
from embervlm.batch.sampler import ImageMajorSampler
from embervlm.console import console
from embervlm.data.record import Record
from embervlm.model.modeling import EmberVLM
from embervlm.model.packed import PACKED_SDPA
from embervlm.model.processing import build_processor
from embervlm.settings import TrainSettings

PRESETS = ("37m", "tiny")
LENGTHS = (512, 1024)
BATCH = TrainSettings.batch_size
LEAST_FILLING = 0.97
LEAST_RATIO = 3.0
"""Of the `37m` student; `tiny` writes more tokens a question, so that less of its rows is the picture."""
PER_PICTURE = 5.36


def vqa_records(pictures: int, seed: int = 0) -> list[Record]:
    """Questions about so many pictures, with the lengths of VQA-v2's."""
    rng = np.random.default_rng(seed)
    merges = (files("embervlm") / "model" / "assets" / "gpt2_merges.txt").read_text(encoding="utf-8").splitlines()
    whole = ["".join(line.split(" ")) for line in merges]
    words = np.array([w[1:] for w in whole if len(w) > 2 and w[0] == "Ġ" and w[1:].isascii() and w[1:].islower()])
    odds = 1 / np.arange(2, len(words) + 2)

    def text(count: int) -> str:
        return " ".join(rng.choice(words, count, p=odds / odds.sum()))

    records = []
    for picture in range(pictures):
        for number in range(3 + rng.poisson(PER_PICTURE - 3)):
            asked = max(3, round(rng.lognormal(np.log(6.2) - 0.33**2 / 2, 0.33)))
            said = rng.choice((1, 2, 3), p=(0.90, 0.07, 0.03))
            records.append(Record(f"{picture}-{number}", f"{picture}.jpg", f"{text(asked).capitalize()}?", text(said)))
    return records


def batches_of(records: Sequence[Record], processor: Any, length: int, size: int = BATCH) -> Iterator[list[Sample]]:
    """The whole batches of an epoch, without pixels."""
    encoded = [Sample(record, encode(record, processor, length), None) for record in records]
    order = list(ImageMajorSampler(records, seed=0))
    for at in range(0, len(order) - size + 1, size):
        yield [encoded[index] for index in order[at : at + size]]


def filling(preset: str, length: int, pictures: int) -> dict[str, float]:
    """Shares of used slots, packed and unpacked, over an epoch; rows and slots of a batch."""
    processor = build_processor(preset)
    collators = {"packed": Collator(processor, pack_length=length), "unpacked": Collator(processor)}
    used, slots, rows, count = dict.fromkeys(collators, 0), dict.fromkeys(collators, 0), 0, 0
    for samples in batches_of(vqa_records(pictures), processor, length):
        count += 1
        bare = [Sample(s.record, s.encoded, torch.zeros(3, 1, 1)) for s in samples]
        for name, collate in collators.items():
            batch = collate(bare)
            seen = batch["attention_mask"] if name == "unpacked" else batch["groups"] >= 0
            used[name] += int(seen.sum())
            slots[name] += seen.numel()
        rows += len(seen) if name == "packed" else len(collators["packed"](bare)["groups"])
    return {
        "filling": round(used["packed"] / slots["packed"], 4),
        "filling_unpacked": round(used["unpacked"] / slots["unpacked"], 4),
        "rows": round(rows / count, 2),
        "slots": round(slots["packed"] / count),
        "slots_unpacked": round(slots["unpacked"] / count),
    }


@dataclass(frozen=True)
class Speed:
    """Of one student: of a second, packed and unpacked, and the median ratios of their turns."""

    samples: dict[str, float]
    tokens: dict[str, float]
    ratio: float


class Student:
    """One student that trains on one batch after the other, packed or not."""

    def __init__(self, preset: str, length: int, pictures: int, vision: bool) -> None:
        torch.manual_seed(0)
        self.model: Any = EmberVLM.from_preset(preset).train()
        processor = self.model.processor
        side = self.model.config.image_size
        positions = self.model.config.text_config.max_position_embeddings
        shown = torch.randn(8, 3, side, side)  # any picture costs the same
        self.batches = [
            [Sample(s.record, s.encoded, shown[index % 8]) for index, s in enumerate(samples)]
            for samples in batches_of(vqa_records(pictures), processor, min(length, positions))
        ]
        if not vision:
            features = self.model.vision(shown[:1]).detach()
            self.model.vision.requires_grad_(False)
            self.model.vision.forward = lambda pixels: features.expand(len(pixels), -1, -1)
        self.collate = {"packed": Collator(processor, pack_length=length), "unpacked": Collator(processor)}
        self.collate["dense"] = self.collate["packed"]
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5)
        self.shared = self.collate["packed"].shared

    def step(self, samples: list[Sample], way: str) -> float:
        """Seconds: on one thread those of the process, which other work on the machine does not change."""
        self.model.language_model.set_attn_implementation("sdpa" if way == "dense" else PACKED_SDPA)
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        began = clock()
        self.model(**model_inputs(self.collate[way](samples), self.model.device), use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return clock() - began

    def compare(self, ways: Sequence[str], turns: int, name: str) -> tuple[dict[str, float], dict[str, Speed]]:
        """Medians of the seconds of each way, and each against the last way."""
        taken: dict[str, list[float]] = {way: [] for way in ways}
        tokens = [sum(len(s.encoded.input_ids) - self.shared for s in samples) for samples in self.batches]
        for turn in track(range(turns + 1), name, console=console, transient=True):
            samples = self.batches[turn % len(self.batches)]
            for way in ways if turn % 2 else reversed(ways):
                seconds = self.step(samples, way)
                if turn:  # the first turn warms up
                    taken[way].append(seconds)
        seconds = {way: statistics.median(times) for way, times in taken.items()}
        mean = statistics.mean(tokens)
        found = {}
        for way in ways[:-1]:
            pair = {way: seconds[way], ways[-1]: seconds[ways[-1]]}
            found[way] = Speed(
                {name: round(BATCH / each, 2) for name, each in pair.items()},
                {name: round(mean / each, 1) for name, each in pair.items()},
                round(statistics.median(o / m for m, o in zip(taken[way], taken[ways[-1]], strict=True)), 2),
            )
        return seconds, found


def speed(preset: str, length: int, turns: int, vision: bool = True) -> dict[str, Any]:
    """Packed against unpacked; without the tower also against a mask over whole rows."""
    student = Student(preset, length, max(60, 16 * turns), vision)
    ways = ["packed", "unpacked"] if vision else ["packed", "dense", "unpacked"]
    name = f"{preset}, {length}{'' if vision else ', language'}"
    seconds, against = student.compare(ways, turns, name)
    found: dict[str, Any] = {
        "ratio": against["packed"].ratio,
        "samples_per_second": against["packed"].samples,
        "tokens_per_second": against["packed"].tokens,
    }
    if not vision:
        found["dense_ratio"] = against["dense"].ratio
        found["dense_over_pieces"] = round(seconds["dense"] / seconds["packed"], 3)
    return found


def measure(quick: bool = False) -> dict[str, Any]:
    """Everything, with `passed`; printed as tables."""
    pictures, turns = (300, 3) if quick else (3000, 5)
    found: dict[str, Any] = {"filling": {}, "speed": {}}
    table = Table(
        "student", "row", "filled", "rows", "slots", "unpacked", "slots", title="Filling", title_justify="left"
    )
    for preset in PRESETS:
        for length in LENGTHS:
            one = found["filling"][f"{preset}/{length}"] = filling(preset, length, pictures)
            shares = f"{one['filling']:.1%}", f"{one['filling_unpacked']:.1%}"
            table.add_row(
                preset, str(length), shares[0], str(one["rows"]), f"{one['slots']:,}", shares[1],
                f"{one['slots_unpacked']:,}",
            )  # fmt: skip
    console.print(table)
    table = Table("student", "row", "part", "packed / unpacked", "tokens/s", "unpacked", "dense mask / pieces")
    for preset in PRESETS:
        for length in LENGTHS[:1] if quick or preset == "tiny" else LENGTHS:
            for vision in (True, False):
                part = "all" if vision else "language"
                one = found["speed"][f"{preset}/{length}/{part}"] = speed(preset, length, turns, vision)
                each = one["tokens_per_second"]
                dense = str(one.get("dense_over_pieces", ""))
                table.add_row(
                    preset, str(length), part, str(one["ratio"]), f"{each['packed']:,.0f}", f"{each['unpacked']:,.0f}",
                    dense,
                )  # fmt: skip
    console.print(table)
    full = all(one["filling"] >= LEAST_FILLING for one in found["filling"].values())
    fast = all(
        one["ratio"] >= LEAST_RATIO
        for name, one in found["speed"].items()
        if name.startswith("37m") and name.endswith("all")
    )
    return {**found, "passed": full and fast}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    found = {"benchmark": "packing", "quick": options.quick, **measure(options.quick)}
    print(json.dumps(found))
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
