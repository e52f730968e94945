"""Trains the embedded teacher that ships in `embervlm/teachers/toy_llava`: hours on two cores, once; users never pay.

    python examples/toy_teacher/train.py --out outputs/toy_teacher          # makes checkpoints and, last, `final/`
    python examples/toy_teacher/train.py --out outputs/toy_teacher --resume # goes on after an interruption

First the vision tower learns what each of the nine cells holds (shape, colour, texture, size), which is what CLIP's
pretraining gives a real teacher; then the whole model learns to answer. A running mean of the weights is exported.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections import defaultdict
from pathlib import Path

import torch
from build import build_model, build_processor
from lessons import Lessons
from torch import nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from embervlm.data.toyworld.questions import OKVQA_TEMPLATES, VQA_TEMPLATES
from embervlm.data.toyworld.scene import COLOURS, SHAPES, SIZES, TEXTURES, Difficulty

# Up to this share of the steps: difficulty, and whether only descriptions are read, which ground words fastest.
CURRICULUM = ((0.08, Difficulty(1, 3, 0.2), True), (0.4, Difficulty(2, 5), False), (1.0, Difficulty(), False))
TOWER_RATE = 0.3  # the tower knows its shapes by then; the full rate would wash them out


def pretrain_vision(model: LlavaForConditionalGeneration, lessons: Lessons, steps: int, rate: float) -> None:
    """Dense supervision of the tower: every token must tell shape, colour, texture and size of its cell's thing.

    Every token, through one shared head: what several tokens tell together, the language model would have to gather.
    And every token must tell where it is: its features are all that the language model learns of a place.
    """
    tower = model.model.vision_tower
    sizes = [len(words) + 1 for words in (SHAPES, COLOURS, TEXTURES, SIZES)]
    head = nn.Linear(tower.config.hidden_size, sum(sizes) + 36)
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    rows, columns = torch.arange(36) // 6, torch.arange(36) % 6
    cell_of = rows // 2 * 3 + columns // 2  # the cell of each of the 36 tokens
    began = time.time()
    for step in range(steps):
        pixels, cells = lessons.grids(96)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = tower(pixels).last_hidden_state  # [B, 36, C]
        guesses = head(tokens.float()).split([*sizes, 36], dim=-1)
        truths = [*cells[:, cell_of].unbind(-1), torch.arange(36).expand(len(pixels), 36)]  # each [B, 36]
        loss = sum(
            nn.functional.cross_entropy(g.flatten(0, 1), t.flatten()) for g, t in zip(guesses, truths, strict=True)
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 24 or step == steps - 1:
            full = truths[0] > 0
            right = [f"{(g.argmax(-1) == t)[full].float().mean():.2f}" for g, t in zip(guesses, truths, strict=True)]
            print(f"vision {step + 1}/{steps}  loss {loss:.3f}  right {right}  {time.time() - began:.0f} s", flush=True)


def answer_loss(
    model: LlavaForConditionalGeneration, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy over the answers' tokens, and which of them the model would have said. [n], [n]"""
    labelled = batch["labels"] != -100
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(
            input_ids=batch["input_ids"],
            pixel_values=batch["pixel_values"],
            attention_mask=batch["mask"].bfloat16(),
            position_ids=batch["position_ids"],
            use_cache=False,
        ).last_hidden_state
        logits = model.lm_head(hidden[labelled])
    return nn.functional.cross_entropy(logits.float(), batch["labels"][labelled]), logits.argmax(-1)


@torch.no_grad()
def exam(model: LlavaForConditionalGeneration, processor: LlavaProcessor, pictures: int = 96) -> dict[str, float]:
    """Share of questions answered exactly as the scene says, by template (greedy answers, seen through the argmax)."""
    lessons = Lessons(processor, 991, Difficulty())
    tokenizer = processor.tokenizer
    right: dict[str, list[bool]] = defaultdict(list)
    model.eval()
    for _ in range(pictures):
        scene = lessons.scene()
        questions = [
            (a.template, a.answer_type, a.question, a.answer) for a in lessons.interviewer.vqa(scene, lessons.rng, 7)
        ]
        lessons.dialogues = lambda _scene, q=questions: [[(x[2], x[3])] for x in q]  # type: ignore[method-assign]
        state = lessons.rng.getstate()
        lessons.scene = lambda s=scene: s  # type: ignore[method-assign]
        batch = lessons.batch(1)
        del lessons.scene, lessons.dialogues
        lessons.rng.setstate(state)
        _, said = answer_loss(model, batch)
        truth = batch["labels"][batch["labels"] != -100]
        ends = (truth == tokenizer.eos_token_id).nonzero().flatten().tolist()
        start = 0
        for (template, kind, _, _), end in zip(questions, ends, strict=False):
            good = bool((said[start : end + 1] == truth[start : end + 1]).all())
            for key in ("all", kind, template, *(("without yes/no",) if kind != "yes/no" else ())):
                right[key].append(good)
            start = end + 1
    model.train()
    return {key: round(sum(v) / len(v), 3) for key, v in sorted(right.items())}


def save(folder: Path, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
    half = copy.deepcopy(model).half()
    half.save_pretrained(folder)
    processor.save_pretrained(folder)


def parameter_groups(model: LlavaForConditionalGeneration) -> list[dict]:
    """Weight decay on matrices only; the tower learns slowly."""
    groups = []
    for tower in (True, False):
        named = [(n, p) for n, p in model.named_parameters() if n.startswith("model.vision_tower") == tower]
        for decay, chosen in ((0.05, [p for _, p in named if p.ndim > 1]), (0.0, [p for _, p in named if p.ndim <= 1])):
            groups.append({"params": chosen, "weight_decay": decay, "factor": TOWER_RATE if tower else 1.0})
    return groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vision_steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=3400)
    parser.add_argument("--rows", type=int, default=16, help="pictures in a step")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument(
        "--decay", type=float, default=0.35, help="share of the steps, at the end, in which the rate falls to 0"
    )
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    assert set(VQA_TEMPLATES).isdisjoint(OKVQA_TEMPLATES)
    processor = build_processor()
    model = build_model(processor)
    options.out.mkdir(parents=True, exist_ok=True)
    state_file, first, done = options.out / "state.pt", 0, None
    if options.resume and state_file.exists():
        done = torch.load(state_file, weights_only=True)
        model.load_state_dict(done["model"])
        first = int(done["step"])
    else:
        pretrain_vision(model, Lessons(processor, 11, Difficulty()), options.vision_steps, 2e-3)
    mean = copy.deepcopy(model)
    model.model.language_model.compile()
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=options.rate, betas=(0.9, 0.98))
    if done:
        optimizer.load_state_dict(done["optimizer"])
        mean.load_state_dict(done["mean"])
    began, history, lessons = time.time(), [], None
    for step in range(first, options.steps):
        share = step / options.steps
        rate = options.rate * min((step + 1) / 100, 1.0, max(0.0, (1 - share) / options.decay))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        stage = next(i for i, (edge, _, _) in enumerate(CURRICULUM) if share < edge)
        if lessons is None or lessons.difficulty is not CURRICULUM[stage][1]:
            lessons = Lessons(processor, 1000 + step, *CURRICULUM[stage][1:])
        loss, _ = answer_loss(model, lessons.batch(options.rows))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        keep = min(0.998, (step - first + 1) / (step - first + 10))
        with torch.no_grad():
            for slow, fast in zip(mean.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)
        history.append(loss.item())
        if step % 20 == 19:
            recent = sum(history[-20:]) / 20
            print(f"step {step + 1}/{options.steps}  loss {recent:.4f}  {time.time() - began:.0f} s", flush=True)
        if step % 200 == 199 or step == options.steps - 1:
            marks = exam(mean, processor)
            print(json.dumps({"step": step + 1, **marks}), flush=True)
            torch.save(
                {
                    "model": model.state_dict(),
                    "mean": mean.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                },
                options.out / "state.pt.new",
            )
            os.replace(options.out / "state.pt.new", state_file)
            save(options.out / ("final" if step == options.steps - 1 else "latest"), mean, processor)


if __name__ == "__main__":
    main()
