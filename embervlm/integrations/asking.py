"""What the harnesses have in common: their requests in, answers of `EmberVLM.generate` out, whichever of them asks."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from embervlm.data.images import load_image
from embervlm.errors import UserError
from embervlm.model.answering import NEW_TOKENS
from embervlm.model.tokenizer import IMAGE

_log = logging.getLogger(__name__)

_SAMPLING = ("temperature", "top_p", "top_k")
_PASSED_ON = ("num_beams", "length_penalty", "repetition_penalty", "no_repeat_ngram_size", "min_new_tokens")
_WITHOUT_MEANING = ("do_sample", "use_cache", "image_aspect_ratio")
"""Read elsewhere; always so; of models that cut pictures into pieces."""
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class Decoding:
    """How an answer is made and where it ends."""

    max_new_tokens: int = NEW_TOKENS
    until: tuple[str, ...] = ()  # the answer ends before the first of these
    options: tuple[tuple[str, Any], ...] = ()  # of transformers' generate


@dataclass(frozen=True)
class Question:
    """One request. The picture is opened when its turn comes, and not kept."""

    prompt: str
    picture: Callable[[], Image.Image | None]
    decoding: Decoding = field(default_factory=Decoding)


def read_decoding(given: Mapping[str, Any], max_new_tokens: int = NEW_TOKENS) -> Decoding:
    """A harness's generation arguments as ours; greedy unless they ask for sampling at a temperature above 0.

    Args:
        max_new_tokens: where the task says nothing.

    Raises:
        UserError: a value that has no meaning, or several answers to one question.
    """
    given = {name: value for name, value in given.items() if value is not None}
    until = given.pop("until", ())
    until = (until,) if isinstance(until, str) else tuple(until)
    most = given.pop("max_new_tokens", given.pop("max_gen_toks", max_new_tokens))
    try:
        most, temperature = int(most), float(given.get("temperature", 1.0 if given.get("do_sample") else 0.0))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"The generation arguments {dict(given)} hold no number where one belongs ({error})."
        ) from error
    if most < 1 or temperature < 0:
        raise UserError(f"max_new_tokens is {most}, temperature {temperature:g}; expected at least 1 and at least 0.")
    if given.pop("num_return_sequences", 1) != 1:
        raise UserError("One answer is given to each question; leave num_return_sequences out.")
    options = {name: given.pop(name) for name in _PASSED_ON if name in given}
    sampling = {name: given.pop(name) for name in _SAMPLING if name in given}
    if given.get("do_sample", temperature > 0) and temperature > 0:
        options |= sampling | {"do_sample": True, "temperature": temperature}
    if unknown := sorted(given.keys() - set(_WITHOUT_MEANING)):
        _log.warning("Generation arguments that EmberVLM does not know are ignored: %s", ", ".join(unknown))
    return Decoding(most, tuple(end for end in until if end), tuple(sorted(options.items())))


def answer_all(
    model: Any,
    questions: Sequence[Question],
    batch_size: int = 1,
    advance: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """One answer to each question, in their order. Batches hold questions of one decoding and of similar length.

    A question that is longer than the model reads gets an empty answer; how many did is said in one warning.

    Args:
        model: an EmberVLM with its processor.
        advance: called with the number of answers that came in, for a progress bar.
    """
    answers = [""] * len(questions)
    too_long = 0
    groups: dict[Decoding, list[int]] = defaultdict(list)
    for at, question in enumerate(questions):
        groups[question.decoding].append(at)
    for decoding, members in groups.items():
        members.sort(key=lambda at: len(questions[at].prompt))
        for batch in batches(members, batch_size):
            pictures = {at: questions[at].picture() for at in batch}
            fitting = [at for at in batch if _fits(model, questions[at].prompt, pictures[at])]
            too_long += len(batch) - len(fitting)
            with torch.inference_mode():
                texts = model.generate(
                    image=[pictures[at] for at in fitting],
                    prompt=[questions[at].prompt for at in fitting],
                    max_length=decoding.max_new_tokens,
                    **dict(decoding.options),
                )
            for at, text in zip(fitting, texts, strict=True):
                answers[at] = cut(text, decoding.until)
            advance(len(batch))
    if too_long:
        _log.warning(
            "%d of %d questions are longer than EmberVLM reads; their answers are empty.", too_long, len(answers)
        )
    return answers


def cut(text: str, until: Iterable[str]) -> str:
    """The text before the first of the ends. Blanks around an answer are no part of it, so they end nothing."""
    for end in until:
        text = text.split(end, 1)[0]
    return text.strip()


def one_picture(shown: Any, where: str, first: bool = False) -> Image.Image | None:
    """The only picture in what a harness shows (nothing, one, or nested lists): a PIL image or a picture's path.

    Args:
        where: the question, for a sentence about it.
        first: of several pictures take the first instead of refusing.

    Raises:
        UserError: several pictures, or something else, such as a video.
    """
    found = _flat(shown)
    if not found:
        return None
    for thing in found:
        if not isinstance(thing, Image.Image) and not _is_path(thing):
            kind = f"'{thing}'" if isinstance(thing, str | Path) else type(thing).__name__
            raise UserError(f"{where} shows {kind[:200]}; EmberVLM reads pictures only, no video and no sound.")
    if len(found) > 1 and not first:
        raise UserError(
            f"{where} shows {len(found)} pictures, EmberVLM reads one a question: choose another task, or say "
            "first_picture=True to show it the first of them."
        )
    return load_image(found[0]) if _is_path(found[0]) else found[0]


def without_places(prompt: str) -> str:
    """The question without the harness's mark for the picture: ours always comes first."""
    return prompt.replace(IMAGE, "").strip() if IMAGE in prompt else prompt


def batches(members: Sequence[int], size: int) -> Iterable[Sequence[int]]:
    return (members[start : start + size] for start in range(0, len(members), size))


def _fits(model: Any, prompt: str, picture: Any) -> bool:
    room = getattr(model.config.text_config, "max_position_embeddings", None)
    return room is None or len(model.processor.encode_prompt(prompt, picture is not None)) < room


def _flat(shown: Any) -> list[Any]:
    if shown is None:
        return []
    return [thing for part in shown for thing in _flat(part)] if isinstance(shown, list | tuple) else [shown]


def _is_path(thing: Any) -> bool:
    return isinstance(thing, str | Path) and str(thing).lower().endswith(_PICTURES)
