"""Trains the teacher of the stamps example on the prepared train splits (minutes on one core).

    python examples/stamps/train_teacher.py --data_dir data/stamps --out outputs/stamps/teacher

The tower stays frozen, so its features of a few views of each picture are computed once. A row is one picture and what
was said about it; each dialogue sees the picture and itself only. A running mean of the weights is saved.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from teacher_parts import CHANNELS, IMAGE_TOKENS, build_model, build_processor
from torch import Tensor, nn
from transformers import FastVlmForConditionalGeneration, LlavaProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from views import view

from embervlm.data.images import load_image, resolve_image
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.data.record import Record
from embervlm.errors import UserError

LENGTH = 192  # tokens of a row: about half of what is said about a picture, drawn anew each time


@dataclass(frozen=True)
class Subject:
    """A picture and all that was said about it."""

    image: Path
    records: list[Record]


def subjects(sets: list[PreparedSet]) -> list[Subject]:
    found: dict[Path, list[Record]] = defaultdict(list)
    for prepared in sets:
        for record in prepared.records("train"):
            if record.image is not None:
                found[resolve_image(prepared.image_root, record.image)].append(record)
    return [Subject(image, found[image]) for image in sorted(found)]


@torch.no_grad()
def features(
    model: FastVlmForConditionalGeneration, processor: LlavaProcessor, taught: list[Subject], views: int, seed: int
) -> Tensor:
    """The tower's output for each picture as it is and in `views` - 1 variations. bf16 [pictures, views, T, C]"""
    rng, tower, cached = random.Random(seed), model.model.vision_tower.eval(), []
    for subject in taught:
        picture = load_image(subject.image)
        looks = [picture] + [view(picture, rng) for _ in range(views - 1)]
        pixels = processor.image_processor(looks, return_tensors="pt")["pixel_values"]
        with torch.autocast("cpu", torch.bfloat16):
            maps = tower(pixels, return_dict=True).last_hidden_state  # [views, C, h, w]
        cached.append(maps.flatten(2).transpose(1, 2).bfloat16())
    return torch.stack(cached)


class Lessons:
    """Packs what is said about a picture into rows of tokens."""

    def __init__(self, processor: LlavaProcessor, taught: list[Subject], seed: int) -> None:
        self.tokenizer = processor.tokenizer
        self.taught = taught
        self.rng = random.Random(seed)
        start = [self.tokenizer.bos_token_id, *self._ids("USER: ")]
        self.start = start + [processor.image_token_id] * IMAGE_TOKENS + self._ids("\n")

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def dialogue(self, record: Record) -> tuple[list[int], list[int]]:
        """Token ids and labels (-100: not learned). Of ten human answers one is drawn, so that doubt is learned too."""
        turns = list(record.turns())
        if record.answers:
            turns[0] = (turns[0][0], self.rng.choice(record.answers))
        ids, labels = [], []
        for number, (question, answer) in enumerate(turns):
            asked = self._ids(f"{'USER: ' if number else ''}{question}\nASSISTANT:\n")
            said = [*self._ids(answer), self.tokenizer.eos_token_id]
            ids += asked + said
            labels += [-100] * len(asked) + said
        return ids, labels

    def batch(self, chosen: list[int]) -> dict[str, Tensor]:
        """Rows of the chosen pictures; labels are shifted; the 4D mask hides other dialogues; positions restart."""
        rows, length = len(chosen), LENGTH
        ids = torch.full((rows, length), self.tokenizer.pad_token_id)
        labels = torch.full((rows, length), -100)
        positions = torch.zeros(rows, length, dtype=torch.long)
        segments = torch.full((rows, length), -1)
        first = len(self.start)
        for i, picture in enumerate(chosen):
            end = first
            ids[i, :first], segments[i, :first] = torch.tensor(self.start), 0
            positions[i, :first] = torch.arange(first)
            records = self.taught[picture].records
            for number, record in enumerate(self.rng.sample(records, len(records)), start=1):
                here, learned = self.dialogue(record)
                stop = end + len(here)
                if stop > length:
                    continue
                ids[i, end:stop] = torch.tensor(here)
                labels[i, end : stop - 1] = torch.tensor(learned[1:])
                positions[i, end:stop] = torch.arange(first, first + len(here))
                segments[i, end:stop] = number
                end = stop
        used = int((segments >= 0).sum(1).max())
        ids, labels, positions, segments = (t[:, :used] for t in (ids, labels, positions, segments))
        order = torch.arange(used)
        visible = (segments[:, :, None] == segments[:, None, :]) | (segments[:, None, :] == 0)
        visible = visible & (order[:, None] >= order) | torch.eye(used, dtype=torch.bool)
        mask = torch.zeros(rows, 1, used, used).masked_fill(~visible[:, None], torch.finfo(torch.float32).min)
        return {"input_ids": ids, "labels": labels, "position_ids": positions, "attention_mask": mask}


def answer_loss(model: FastVlmForConditionalGeneration, seen: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy over the answers' tokens, from the tower's features `seen` [B, T, C]."""
    labelled = batch["labels"] != -100
    with torch.autocast("cpu", torch.bfloat16):
        noisy = nn.functional.dropout(seen.float(), 0.2, training=model.training)
        projected = model.model.multi_modal_projector(noisy)
        hidden = model.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"].bfloat16(),
            position_ids=batch["position_ids"],
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=projected)},
            use_cache=False,
        ).last_hidden_state
        logits = model.lm_head(hidden[labelled])
    return nn.functional.cross_entropy(logits.float(), batch["labels"][labelled])


def train(
    model: FastVlmForConditionalGeneration, seen: Tensor, lessons: Lessons, args: argparse.Namespace
) -> FastVlmForConditionalGeneration:
    """Returns the running mean of the weights."""
    for parameter in model.model.vision_tower.parameters():
        parameter.requires_grad_(False)
    learned = [p for p in model.parameters() if p.requires_grad]
    matrices, rest = [p for p in learned if p.ndim > 1], [p for p in learned if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98))
    mean, rng, began = copy.deepcopy(model), random.Random(args.seed), time.time()
    per_epoch = len(lessons.taught) // args.rows
    steps, step, recent = args.epochs * per_epoch, 0, 0.0
    for epoch in range(args.epochs):
        order = rng.sample(range(len(lessons.taught)), len(lessons.taught))
        recent = 0.0
        model.train()
        model.model.vision_tower.eval()
        for start in range(0, per_epoch * args.rows, args.rows):
            chosen = order[start : start + args.rows]
            for group in optimizer.param_groups:
                group["lr"] = args.rate * min((step + 1) / 40, 1.0, (steps - step) / (0.6 * steps))
            looks = torch.tensor([rng.randrange(seen.shape[1]) for _ in chosen])
            loss = answer_loss(model, seen[torch.tensor(chosen), looks], lessons.batch(chosen))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            keep = min(0.99, (step + 1) / (step + 10))
            with torch.no_grad():
                for slow, fast in zip(mean.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 1 - keep)
            recent += loss.item() / per_epoch
            step += 1
        print(f"epoch {epoch + 1}/{args.epochs}  loss {recent:.3f}  {time.time() - began:.0f} s", flush=True)
    return mean.eval()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="stage1/ and stage2/ of `embervlm prepare`")
    parser.add_argument("--out", type=Path, required=True, help="folder for the teacher")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--rows", type=int, default=16, help="pictures in a step")
    parser.add_argument("--views", type=int, default=4, help="variations of each picture, itself included")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    try:
        taught = subjects([open_prepared(args.data_dir / "stage1"), open_prepared(args.data_dir / "stage2")])
        processor = build_processor(words for s in taught for r in s.records for turn in r.turns() for words in turn)
        model = build_model(processor)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    began = time.time()
    seen = features(model, processor, taught, args.views, args.seed)
    assert seen.shape[2:] == (IMAGE_TOKENS, CHANNELS)
    print(f"{len(taught)} pictures in {args.views} views seen in {time.time() - began:.0f} s", flush=True)
    mean = train(model, seen, Lessons(processor, taught, args.seed), args)
    mean.save_pretrained(args.out)
    processor.save_pretrained(args.out)
    print(f"wrote {args.out}: {sum(p.numel() for p in mean.parameters()):,} parameters")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
