"""`embervlm infer`: ask a trained student about a picture."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from rich.markup import escape

from embervlm.console import console, print_tokens
from embervlm.data.images import load_image
from embervlm.device import pick_device
from embervlm.model.modeling import EmberVLM
from embervlm.tokens import token_bytes

if TYPE_CHECKING:
    from embervlm.settings import InferenceSettings

SHOWN = 5


@dataclass(frozen=True)
class Answered:
    """What the student said and how fast."""

    text: str
    tokens: int  # generated, the end included
    seconds: float  # of the whole answer, the picture included
    first: tuple[tuple[bytes | None, float], ...]  # the likeliest first tokens with their probabilities, falling


def run_inference(settings: InferenceSettings) -> None:
    """Load the checkpoint, answer, and print the answer, its speed and how it could have begun."""
    image = None if settings.image is None else load_image(settings.image)
    model = EmberVLM.from_pretrained(settings.checkpoint).eval().to(pick_device(settings.device))
    options: dict[str, Any] = {}
    if settings.do_sample:
        options = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p}
    answered = ask(model, image, settings.prompt, settings.max_length, **options)
    console.print(f"[bold]{escape(answered.text) or '(nothing)'}[/]", soft_wrap=True)
    print_tokens("how it could have begun", answered.first)
    speed = answered.tokens / answered.seconds
    console.print(f"\n[dim]{answered.tokens} tokens in {answered.seconds:.2f} s, {speed:.1f} tokens/s[/]")


@torch.inference_mode()
def ask(model: EmberVLM, image: Image.Image | None, prompt: str, max_length: int, **options: Any) -> Answered:
    """One answer, and the likeliest tokens at its first position.

    Args:
        max_length: new tokens at most.
        options: of transformers' generate.
    """
    first: list[tuple[bytes | None, float]] = []
    steps = 0

    def watch(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """A logits processor that changes nothing: it counts steps and looks at the first one."""
        nonlocal steps
        if steps == 0 and model.processor is not None:
            table = token_bytes(model.processor.tokenizer)
            top = scores[0].float().softmax(-1).topk(SHOWN)
            likeliest = zip(top.indices.tolist(), top.values.tolist(), strict=True)
            first.extend((table[token], probability) for token, probability in likeliest)
        steps += 1
        return scores

    began = time.perf_counter()
    text = model.generate(image=image, prompt=prompt, max_length=max_length, logits_processor=[watch], **options)
    return Answered(text, steps, time.perf_counter() - began, tuple(first))
