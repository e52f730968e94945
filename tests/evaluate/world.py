"""A prepared data set of six drawn pictures, and a teacher's outputs made from a student."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from embervlm.batch.collate import Collator
from embervlm.batch.dataset import RecordDataset
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.data.record import Record, write_records
from embervlm.evaluate.results import EvalResult, save_result
from embervlm.teachers.outputs import TEMPERATURE_GRID, TeacherOutputs
from embervlm.tokens import encode_spans

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (20, 160, 40)}


def make_world(folder: Path, val: int = 12) -> PreparedSet:
    """VQA, OK-VQA and LLaVA records in turn, over pictures of one colour."""
    (folder / "images").mkdir(parents=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (32, 32), colour).save(folder / "images" / f"{name}.png")
    for split, count in (("train", 12), ("val", val)):
        write_records(folder / f"{split}.jsonl", [_record(split, n) for n in range(count)])
    (folder / "dataset.json").write_text(json.dumps({"image_root": "images", "splits": {}, "settings": {}}))
    return open_prepared(folder)


def _record(split: str, n: int) -> Record:
    colour = list(COLOURS)[n // 4 % 3]
    image, source = f"{colour}.png", {"question_id": 1000 + n}
    if n % 4 == 0:
        kind = {"source": "vqa_v2", "question_type": "what color", **source}
        return Record(f"vqa-{n}", image, "What color is it?", colour, None, (colour,) * 9 + ("pink",), "other", kind)
    if n % 4 == 1:
        truth = "yes" if colour == "red" else "no"
        kind = {"source": "vqa_v2", "question_type": "is it", **source}
        return Record(f"vqa-{n}", image, "Is it red?", truth, None, (truth,) * 10, "yes/no", kind)
    if n % 4 == 2:
        kind = {"source": "ok_vqa", "question_type": "five", **source}
        return Record(f"okvqa-{n}", image, "Which fruit is so?", "apple", None, ("apple",) * 10, "other", kind)
    kind = {"source": "llava_instruct"}
    turns = (("Describe it.", f"The picture is all {colour}."), ("Sure?", "Yes."))
    return Record(f"llava-{n}", image, *turns[0], conversations=turns, metadata=kind)


def outputs_of(model: Any, records: Sequence[Record], root: Path, top_k: int) -> dict[str, list[TeacherOutputs]]:
    """What `model` says about the records, as a teacher would report it: same tokenizer, its own distributions."""
    processor = model.processor
    dataset = RecordDataset(records, root, processor, 256)
    collate = Collator(processor)
    said: dict[str, list[TeacherOutputs]] = {}
    for at in range(len(dataset)):
        batch = collate([dataset[at]])
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        with torch.inference_mode():
            logp = model(**inputs, use_cache=False).logits[0].double().log_softmax(-1)
        turns = []
        for response in dataset[at].encoded.responses:
            rows = logp[response.first : response.first + len(response.ids)]
            top = rows.topk(top_k)
            spans, size = encode_spans(processor.tokenizer, response.text), len(response.text.encode())
            turns.append(
                TeacherOutputs(
                    record_id=records[at].id,
                    turn=response.turn,
                    token_ids=response.ids,
                    starts=np.append(spans.starts, size).astype(np.int32),
                    ends=np.append(spans.ends, size).astype(np.int32),
                    top_ids=top.indices.numpy().astype(np.int32),
                    top_logprobs=top.values.float().numpy(),
                    log_normalisers=np.stack([(rows / t).logsumexp(-1).numpy() for t in TEMPERATURE_GRID], 1),
                    realised_logprobs=rows.gather(1, torch.tensor(response.ids)[:, None].long())[:, 0].float().numpy(),
                )
            )
        said[records[at].id] = turns
    return said


def save(result: EvalResult, prepared: PreparedSet, path: Path) -> Path:
    """As `embervlm evaluate` leaves it."""
    records = prepared.records(result.split)
    save_result(result, path, {r.id: r.metadata["question_id"] for r in records if "question_id" in r.metadata})
    return path


@dataclass
class Sayer:
    """Answers these records so, and every other one with `default`, or with its reference."""

    answers_by_id: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None

    def answers(self, records: Sequence[Record], image_root: Path, max_new_tokens: int) -> list[str]:
        return [self.answers_by_id.get(r.id, r.response if self.default is None else self.default) for r in records]
