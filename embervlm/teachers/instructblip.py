"""InstructBLIP (Dai et al., 2023, arXiv:2305.06500): its Q-Former reads the instruction beside the picture."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AddedToken
from transformers.modeling_outputs import BaseModelOutputWithPooling

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


PICTURES_KEPT = 64
"""Pictures whose features wait for their next question: 0.7 MB each at full size in bf16."""


class InstructBlipTeacher(HFTeacher):
    """Of a conversation the Q-Former reads the first instruction, and never the answer that is to be scored. So what
    stands before a question differs with it, and only the picture's features serve the next one."""

    shares_prefix = False

    def __init__(self, name: str, model: Any, processor: Any, batch_size: int = 32) -> None:
        super().__init__(name, model, processor, batch_size)
        self._shown: list[str] = []  # the pictures of the batch that comes
        self._seen: OrderedDict[str, Tensor] = OrderedDict()
        self._look = model.vision_model.forward
        model.vision_model.forward = self._look_once

    def _look_once(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """The vision tower's forward, [B, 3, S, S] -> [B, patches + 1, width], of pictures that are new only."""
        shown, self._shown = self._shown, []
        if not shown:  # somebody else's batch
            return self._look(pixel_values=pixel_values, **kwargs)
        new = {name: row for row, name in enumerate(shown) if name not in self._seen}
        if new:
            features = self._look(pixel_values=pixel_values[list(new.values())], **kwargs)[0]
            self._seen.update(zip(new, features, strict=True))
        looked = torch.stack([self._seen[name] for name in shown])
        for name in shown:
            self._seen.move_to_end(name)
        while len(self._seen) > PICTURES_KEPT:
            self._seen.popitem(last=False)
        return BaseModelOutputWithPooling(last_hidden_state=looked)

    def _inputs(
        self, records: list[Record], texts: list[str], images: list[Image.Image] | None, padding_side: str
    ) -> Any:
        if images is None:
            raise UserError(
                f"record {records[0].id} has no picture, and teacher {self.name} cannot read text alone; leave such "
                "records out (cache build --pictures_only), or use llava-1.5-7b"
            )
        self._shown = [str(record.image) for record in records]
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
