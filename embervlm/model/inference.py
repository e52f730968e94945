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
from embervlm.errors import UserError
from embervlm.model.attention import attention_to_picture
from embervlm.model.explain import Position, positions, print_positions
from embervlm.model.heatmap import check_place, draw_heatmap
from embervlm.model.modeling import EmberVLM

if TYPE_CHECKING:
    from embervlm.settings import InferenceSettings


@dataclass(frozen=True)
class Answered:
    """What the student said and how fast."""

    text: str
    tokens: int  # generated, the end included
    seconds: float  # of the whole answer, the picture included
    ids: tuple[int, ...]  # what was generated
    positions: tuple[Position, ...]  # what else could have been said: of the first token, or of each


def run_inference(settings: InferenceSettings) -> None:
    """Load the checkpoint, answer, and print the answer, its speed and what else could have been said."""
    if settings.heatmap is not None:
        if settings.image is None:
            raise UserError(
                "--heatmap shows where an answer looks in a picture, and none is given; name one with --image."
            )
        check_place(settings.heatmap)
    image = None if settings.image is None else load_image(settings.image)
    model = EmberVLM.from_pretrained(settings.checkpoint).eval().to(pick_device(settings.device))
    options: dict[str, Any] = {"do_sample": settings.do_sample}
    if settings.do_sample:
        options |= {"temperature": settings.temperature, "top_p": settings.top_p}
    answered = ask(model, image, settings.prompt, settings.max_length, explain=settings.explain, **options)
    console.print(f"[bold]{escape(answered.text) or '(nothing)'}[/]", soft_wrap=True)
    if settings.explain:
        print_positions(answered.positions)
    else:
        print_tokens("how it could have begun", answered.positions[0].likeliest)
    speed = answered.tokens / answered.seconds
    console.print(f"\n[dim]{answered.tokens} tokens in {answered.seconds:.2f} s, {speed:.1f} tokens/s[/]")
    if settings.heatmap is not None and image is not None:
        found = attention_to_picture(model, image, settings.prompt, answered.ids)
        draw_heatmap(settings.heatmap, image, settings.prompt, found)
        console.print(f"wrote {settings.heatmap}", markup=False, soft_wrap=True)


@torch.inference_mode()
def ask(
    model: EmberVLM, image: Image.Image | None, prompt: str, max_length: int, explain: bool = False, **options: Any
) -> Answered:
    """One answer, and what else could have been said at its first position.

    Args:
        max_length: new tokens at most.
        explain: at every position.
        options: of transformers' generate.

    Raises:
        UserError: a checkpoint without a processor, a question that is too long.
    """
    logits: list[torch.Tensor] = []
    steps = 0
    sequence = torch.empty(1, 0)

    def watch(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """A logits processor that changes nothing: it keeps what later ones (temperature, top_p) would change."""
        nonlocal steps
        if explain or steps == 0:
            logits.append(scores[0].clone())
        steps += 1
        return scores

    def follow(ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """A stopping criterion that stops nothing: it sees each token once it is chosen."""
        nonlocal sequence
        sequence = ids
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    began = time.perf_counter()
    text = model.generate(
        image=image,
        prompt=prompt,
        max_length=max_length,
        logits_processor=[watch],
        stopping_criteria=[follow],
        **options,
    )
    seconds = time.perf_counter() - began
    ids = sequence[0, -steps:].tolist()
    processor: Any = model.processor
    return Answered(text, steps, seconds, tuple(ids), positions(logits, ids[: len(logits)], processor.tokenizer))
