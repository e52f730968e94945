"""`generate(image=..., prompt=...)`: questions about pictures in, answers out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from embervlm.errors import UserError
from embervlm.model.tokenizer import ASSISTANT, IMAGE, PAD, USER

NEW_TOKENS = 100


def answer(
    model: Any, generate: Callable[..., Any], image: Any, prompt: Any, max_length: int | None, **kwargs: Any
) -> str | list[str] | list[list[str]]:
    """Lists in, lists out; a list of lists when num_return_sequences asks for several answers to each of them.

    Args:
        generate: transformers' own, bound to the model.
        max_length: new tokens at most.
    """
    processor = model.processor
    if processor is None:
        raise UserError(
            "The model has no processor, so it cannot read a question: load it with EmberVLM.from_pretrained from a "
            "folder that holds processor_config.json, or set model.processor."
        )
    pictures, questions = _pair(image, prompt)
    if not questions:
        return []
    batch = processor.prompts(pictures, questions)
    length = batch["input_ids"].shape[1]
    room = getattr(model.config.text_config, "max_position_embeddings", None)
    wanted = kwargs.pop("max_new_tokens", max_length if max_length is not None else NEW_TOKENS)
    if room is not None and length >= room:
        raise UserError(f"The question takes {length} tokens with its picture, the model reads {room}: shorten it.")
    tokenizer = processor.tokenizer
    options = {
        "max_new_tokens": wanted if room is None else min(wanted, room - length),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "suppress_tokens": never_said(tokenizer),
        **kwargs,
    }
    was_training = model.training
    model.eval()
    try:
        made = generate(**{name: value.to(model.device) for name, value in batch.items()}, **options)
    finally:
        model.train(was_training)
    ids: Tensor = getattr(made, "sequences", made)
    texts = [text.strip() for text in tokenizer.batch_decode(ids[:, length:], skip_special_tokens=True)]
    each = len(texts) // len(questions)
    answers: list[Any] = texts if each == 1 else [texts[i : i + each] for i in range(0, len(texts), each)]
    return answers if isinstance(prompt, list | tuple) or isinstance(image, list | tuple) else answers[0]


def never_said(tokenizer: Any) -> list[int]:
    """Ids that have a place in the chat's frame and none in an answer."""
    return tokenizer.convert_tokens_to_ids([PAD, IMAGE, USER, ASSISTANT])


def _pair(image: Any, prompt: Any) -> tuple[list[Any], list[str]]:
    """Pictures and questions of the same number; one of the two serves a list of the other."""
    pictures = list(image) if isinstance(image, list | tuple) else None
    questions = list(prompt) if isinstance(prompt, list | tuple) else None
    if pictures is None:
        pictures = [image] * (1 if questions is None else len(questions))
    if questions is None:
        questions = [prompt] * len(pictures)
    if len(pictures) != len(questions):
        raise UserError(
            f"{len(pictures)} pictures came with {len(questions)} prompts; pass as many of one as of the other."
        )
    for question in questions:
        if not isinstance(question, str):
            raise UserError(f"A prompt is {type(question).__name__}, expected text: pass prompt='a question'.")
    return pictures, questions
