"""InstructBLIP (Dai et al., 2023, arXiv:2305.06500): its Q-Former reads the instruction beside the picture."""

from __future__ import annotations

from typing import Any

from PIL import Image
from transformers import AddedToken

from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.teachers.families import read
from embervlm.teachers.hf import HFTeacher

TEMPLATE = (
    "{% for message in messages %}{% for item in message['content'] %}{% if item['type'] == 'text' %}"
    "{{ ' ' if message['role'] == 'assistant' else '' }}{{ item['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Instruction, blank, answer, end of sequence, as in training (LAVIS, blip2_vicuna_instruct.py); the processor puts the
picture in front."""


class InstructBlipTeacher(HFTeacher):
    """Of a conversation the Q-Former reads the first instruction, and never the answer that is to be scored."""

    def _inputs(
        self, records: list[Record], texts: list[str], images: list[Image.Image] | None, padding_side: str
    ) -> Any:
        if images is None:
            raise UserError(
                f"record {records[0].id} has no picture, and teacher {self.name} cannot read text alone; leave such "
                "records out (cache build --pictures_only), or use llava-1.5-7b"
            )
        inputs = super()._inputs(records, texts, images, padding_side)
        asked = self.processor.qformer_tokenizer(
            [record.turns()[0][0] for record in records], padding=True, truncation=True, return_tensors="pt"
        ).to(self.model.device)
        inputs["qformer_input_ids"] = asked["input_ids"]
        inputs["qformer_attention_mask"] = asked["attention_mask"]
        return inputs


def load(name: str, source: str, files: dict[str, Any], weights: dict[str, Any]) -> HFTeacher:
    """The checkpoint as transformers reads it, with the prompt of its training."""
    model, processor = read(name, source, files, weights)
    processor.chat_template = TEMPLATE
    # A tokenizer that was saved with its image token gives a string, of which the processor wants the content.
    processor.image_token = AddedToken(str(processor.image_token), normalized=False, special=True)
    return InstructBlipTeacher(name, model, processor)
