"""Gives the embedded teacher the tokens of a student, for comparisons with a teacher of the same vocabulary.

    python examples/toy_teacher/retokenise.py --student outputs/stage1/checkpoint-final --out outputs/same_vocabulary

Tower, projector and layers stay. A new token's embedding starts as the mean of the old tokens' that spell it; at first
the embeddings alone learn, so that the layers are not spoilt, then all goes on with its lessons. A running mean of the
weights is exported.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import torch
from build import CHAT_TEMPLATE
from lessons import Lessons
from torch import nn
from train import answer_loss, exam, parameter_groups, save
from transformers import AutoTokenizer, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

from embervlm.data.toyworld.scene import Difficulty
from embervlm.teachers.registry import TEACHERS


def student_tokens(student: Path, processor: LlavaProcessor) -> LlavaProcessor:
    """The teacher's processor with the student's vocabulary, ids included. It begins with the token that ends."""
    own = AutoTokenizer.from_pretrained(student)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own.backend_tokenizer,
        bos_token=own.eos_token,
        eos_token=own.eos_token,
        pad_token=own.pad_token,
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=512,
    )
    assert tokenizer.get_vocab() == own.get_vocab()
    return LlavaProcessor(
        image_processor=processor.image_processor,
        tokenizer=tokenizer,
        patch_size=processor.patch_size,
        vision_feature_select_strategy=processor.vision_feature_select_strategy,
        chat_template=CHAT_TEMPLATE,
    )


@torch.no_grad()
def exchange_tokens(model: LlavaForConditionalGeneration, old: LlavaProcessor, new: LlavaProcessor) -> None:
    """In place: embeddings (tied to the head) of the new tokens, and the ids that the configuration names."""
    before = model.get_input_embeddings().weight.clone()
    tokens = old.tokenizer
    named = {
        new.tokenizer.eos_token_id: tokens.eos_token_id,
        new.tokenizer.pad_token_id: tokens.pad_token_id,
        new.image_token_id: old.image_token_id,
    }
    model.resize_token_embeddings(len(new.tokenizer), mean_resizing=False)
    weight = model.get_input_embeddings().weight
    for token in range(len(new.tokenizer)):
        spelled = [named[token]] if token in named else tokens.encode(new.tokenizer.decode([token]))
        weight[token] = before[spelled or [tokens.pad_token_id]].mean(0)
    text = model.config.text_config
    text.bos_token_id = text.eos_token_id = model.config.eos_token_id = new.tokenizer.eos_token_id
    text.pad_token_id = model.config.pad_token_id = new.tokenizer.pad_token_id
    model.config.image_token_index = model.config.image_token_id = new.image_token_id
    model.generation_config.eos_token_id = model.generation_config.bos_token_id = new.tokenizer.eos_token_id
    model.generation_config.pad_token_id = new.tokenizer.pad_token_id


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, required=True, help="checkpoint whose tokenizer is taken")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rows", type=int, default=16, help="pictures in a step")
    parser.add_argument("--embedding_steps", type=int, default=600, help="of these, the first ones: embeddings alone")
    parser.add_argument("--embedding_rate", type=float, default=3e-3)
    parser.add_argument("--rate", type=float, default=4e-4)
    options = parser.parse_args()
    torch.manual_seed(0)
    shipped = TEACHERS["toy-llava"].source
    old = LlavaProcessor.from_pretrained(shipped)
    model = LlavaForConditionalGeneration.from_pretrained(shipped, dtype=torch.float32)
    print(json.dumps({"step": "shipped", **exam(model, old)}), flush=True)
    new = student_tokens(options.student, old)
    exchange_tokens(model, old, new)
    mean = copy.deepcopy(model)
    embeddings = model.get_input_embeddings().weight
    model.requires_grad_(False)
    optimizer = torch.optim.AdamW([{"params": [embeddings.requires_grad_()], "factor": 1.0}], betas=(0.9, 0.98))
    lessons, began = Lessons(new, 71, Difficulty()), time.time()
    model.train()
    for step in range(options.steps):
        if step == options.embedding_steps:
            model.requires_grad_(True)
            optimizer = torch.optim.AdamW(parameter_groups(model), betas=(0.9, 0.98))
        alone = step < options.embedding_steps
        at, of = (
            (step, options.embedding_steps)
            if alone
            else (step - options.embedding_steps, options.steps - options.embedding_steps)
        )
        rate = (options.embedding_rate if alone else options.rate) * min((at + 1) / 50, 1.0, 2 * (1 - at / of))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        loss, _ = answer_loss(model, lessons.batch(options.rows))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        keep = min(0.99, (step + 1) / (step + 10))
        with torch.no_grad():
            for slow, fast in zip(mean.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)
        if step % 20 == 19:
            print(f"step {step + 1}/{options.steps}  loss {loss:.4f}  {time.time() - began:.0f} s", flush=True)
        if step % 200 == 199 or step == options.steps - 1:
            print(json.dumps({"step": step + 1, **exam(mean, new)}), flush=True)
            save(options.out, mean, new)


if __name__ == "__main__":
    main()
