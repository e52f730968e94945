"""The embedded student with the embedded teacher's words.

Their distributions are over the same tokens then, and a live teacher gives all its logits: nothing is aligned,
projected or cut off. What such a student gains is the ceiling of what logits can give.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from benchmarks.learning.arms import SHARED
from embervlm.model import processing
from embervlm.model.presets import PRESETS
from embervlm.model.tokenizer import student_tokenizer, with_special_tokens
from embervlm.teachers.registry import TEACHERS


def teacher_bpe() -> Tokenizer:
    """The embedded teacher's tokens without its special ones, numbered anew in their order."""
    content = json.loads((Path(TEACHERS["toy-llava"].source) / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"] for token in content["added_tokens"]}
    words = sorted(content["model"]["vocab"], key=content["model"]["vocab"].__getitem__)
    content["model"]["vocab"] = {word: at for at, word in enumerate(word for word in words if word not in special)}
    return Tokenizer.from_str(json.dumps(content | {"added_tokens": [], "post_processor": None}))


def shared_tokenizer() -> PreTrainedTokenizerFast:
    """These tokens and the student's special ones after them."""
    return with_special_tokens(teacher_bpe())


def offer() -> None:
    """From now on this process knows the preset `tiny-shared`: `tiny`, but for the tokenizer."""
    size = teacher_bpe().get_vocab_size()
    PRESETS[SHARED] = replace(PRESETS["tiny"], vocabulary=size)
    processing.student_tokenizer = lambda of: shared_tokenizer() if of == size else student_tokenizer(of)  # type: ignore[attr-defined]
