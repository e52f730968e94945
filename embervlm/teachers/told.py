"""A language model without eyes as a teacher: it is told in words what the picture shows.

The student still looks at the picture. What is told is privileged information (Vapnik and Vashist, 2009; Lopez-Paz et
al., 2016, arXiv:1511.03643): captions, objects, annotations, in `metadata["shows"]` of each record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, BatchFeature, GgufConfig

from embervlm.data.record import SHORT_SOURCES, Record
from embervlm.data.shows import SHOWS, known
from embervlm.errors import UserError
from embervlm.teachers.families import complete
from embervlm.teachers.hf import HFTeacher
from embervlm.teachers.outputs import Answer, Sampling, TeacherOutputs

TOLD = "This is what a picture shows:\n{shows}\n\n{question}"
"""How the first question is asked about a picture."""

SHORT = "Answer briefly."
"""Behind a question that people answered in a word or two."""

EXAMPLES = tuple(
    (f"{question}\n{SHORT}", answer)
    for question, answer in (
        ("What kind of food is an apple?", "fruit"),
        ("Is ice hot?", "no"),
        ("How many legs has a dog?", "4"),
        ("Is a rose a plant?", "yes"),
        ("How many wheels has a bicycle?", "2"),
    )
)
"""Turns in front of such a question: left alone, chat models say "No, it is not." where people said "no"."""

PLAIN = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ 'Question: ' + message['content'] + '\nAnswer:' }}{% else %}"
    "{{ ' ' + message['content'] + eos_token + '\n' }}{% endif %}{% endfor %}"
)
"""For a model without a chat template."""

_HELP = (
    f'put a text into metadata["{SHOWS}"] (`embervlm prepare --descriptions FILE` does), leave the records out, or '
    "take a teacher that sees"
)


def tell(record: Record) -> Record:
    """The record as text alone: in front of its first question stands what its picture shows.

    Raises:
        UserError: there is a picture of which nothing is known.
    """
    (question, answer), *later = record.turns()
    if record.short and not question.endswith(SHORT):
        question = f"{question}\n{SHORT}"
    if record.image is not None:
        shows = known(record)
        if not shows:
            raise UserError(f'record {record.id} has a picture and no metadata["{SHOWS}"]: {_HELP}')
        question = TOLD.replace("{question}", question).replace("{shows}", shows)
    turns = ((question, answer), *later)
    return replace(record, image=None, instruction=question, conversations=turns if record.conversations else None)


class ToldTeacher(HFTeacher):
    """Scores and answers what `tell` makes of the records; no picture is opened."""

    told = f'metadata["{SHOWS}"]'
    """What it is told in the place of pictures."""

    def check_records(self, records: Sequence[Record]) -> None:
        """UserError where any record has a picture of which nothing is known, before hours of scoring."""
        blind = [record.id for record in records if record.image is not None and not known(record)]
        if blind:
            raise UserError(
                f"teacher {self.name} only reads, and {len(blind):,} of {len(records):,} records have a picture and no "
                f'metadata["{SHOWS}"] ({blind[0]} is the first): {_HELP}'
            )

    def score(self, records: list[Record], image_root: Path, top_k: int) -> list[list[TeacherOutputs]]:
        return super().score([tell(record) for record in records], image_root, top_k)

    def answer(
        self, records: list[Record], image_root: Path, max_new_tokens: int, sampling: Sampling | None = None
    ) -> list[Answer]:
        return super().answer([tell(record) for record in records], image_root, max_new_tokens, sampling)

    def _render(self, turns: Sequence[tuple[str, str]], image: bool, prompt: bool = False) -> str:
        """The turns as ever; a question that asks for a short answer has the examples in front of it."""
        examples = EXAMPLES if turns[0][0].endswith(SHORT) else ()
        return super()._render((*examples, *turns), image, prompt)

    def fingerprint(self) -> dict[str, str]:
        """That of any teacher, and how it is told."""
        prompt = hashlib.sha256(repr((TOLD, SHORT, EXAMPLES, SHORT_SOURCES)).encode()).hexdigest()[:16]
        return super().fingerprint() | {"told": f"{self.told}, prompt {prompt}"}


class TextProcessor:
    """A tokenizer that is asked as a processor for text and pictures is."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.chat_template = tokenizer.get_chat_template() if tokenizer.chat_template else PLAIN

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> str:
        spoken = [{**message, "content": "".join(part["text"] for part in message["content"])} for message in messages]
        # The answer comes at once: what is taught is the answer, not the thinking before it.
        return self.tokenizer.apply_chat_template(
            spoken, chat_template=self.chat_template, enable_thinking=False, **options
        )

    def __call__(self, text: list[str], images: None = None, **options: Any) -> BatchFeature:
        return BatchFeature(dict(self.tokenizer(text, return_token_type_ids=False, **options)))


def load(name: str, source: str, files: dict[str, Any], weights: dict[str, Any]) -> HFTeacher:
    """Any AutoModelForCausalLM, with its chat template or with `PLAIN`."""
    tokenizer = AutoTokenizer.from_pretrained(source, **files)
    if "gguf_file" in files:
        if "quantization_config" in weights:
            raise UserError(f"teacher {name}: the weights of a GGUF file are quantised already; drop --teacher_load_in")
        # Dense, because kernels for packed weights would come from the hub.
        weights = weights | {"quantization_config": GgufConfig(dequantize=True)}
    model = complete(name, AutoModelForCausalLM, source, **files, **weights)
    return ToldTeacher(name, model, TextProcessor(tokenizer))
