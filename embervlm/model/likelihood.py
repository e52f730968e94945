"""How likely a given answer is: the log-probability of text after a picture and a question, teacher-forced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from embervlm.errors import UserError
from embervlm.model.answering import never_said


@torch.inference_mode()
def log_likelihoods(
    model: Any, images: Sequence[Any], prompts: Sequence[str], answers: Sequence[str], *, end: bool = False
) -> list[tuple[float, bool]]:
    """(log-probability in nats, whether greedy decoding would say it) of each answer after its question.

    The log-probability is the sum over the answer's tokens of log p(token | picture, question, tokens before), over the
    whole vocabulary. "Greedy" leaves out the tokens that `generate` never says.

    Args:
        model: an EmberVLM with its processor.
        images: PIL images, paths or arrays; None: no picture.
        end: count the end of the turn as well, so that "2" is no more likely for being the beginning of "20".

    Raises:
        UserError: a question with its answer is longer than the model reads.
    """
    processor, tokenizer = model.processor, model.processor.tokenizer
    if not prompts:
        return []
    said = [tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] for text in answers]
    said = [[*ids, tokenizer.eos_token_id] if end else ids for ids in said]
    asked = [processor.encode_prompt(prompt, image is not None) for image, prompt in zip(images, prompts, strict=True)]
    rows = [[*question, *answer] for question, answer in zip(asked, said, strict=True)]
    length, room = max(map(len, rows)), getattr(model.config.text_config, "max_position_embeddings", None)
    if room is not None and length > room:
        raise UserError(f"A question with its answer takes {length} tokens, the model reads {room}: shorten it.")
    # Padded on the left like every question, so that the answers are the rows' last positions.
    batch = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
    inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
    if shown := [image for image in images if image is not None]:
        pixels = processor.image_processor(shown, return_tensors="pt")["pixel_values"]
        inputs["pixel_values"] = pixels.to(model.device)
    was_training = model.training
    model.eval()
    try:
        logits = model(**inputs, use_cache=False, logits_to_keep=max(map(len, said)) + 1).logits.float()
    finally:
        model.train(was_training)
    found = []
    for row, ids in zip(logits, said, strict=True):
        target = torch.tensor(ids, dtype=torch.long, device=row.device)
        before = row[len(row) - 1 - len(ids) : -1]  # [m, V], at the positions that predict the answer
        total = before.log_softmax(-1).gather(1, target[:, None]).sum()
        before[:, never_said(tokenizer)] = -torch.inf
        found.append((float(total), bool((before.argmax(-1) == target).all())))
    return found
