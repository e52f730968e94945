"""Text and pictures for Qwen-VL: ChatML (or the base model's plain prompt), 448 x 448 pixels, 256 slots a picture."""

from __future__ import annotations

from typing import Any

from transformers import BatchFeature, ProcessorMixin
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from embervlm.teachers.qwen_vl.tokenizer import APART, IMAGE_TOKEN

_PICTURE = "<img>" + IMAGE_TOKEN + "</img>"
# In what people write, control tokens are ordinary text; <ref>, <box> and <quad> are Qwen-VL's language for places.
_SAFE = f" | replace('<|', '<{APART}|') | replace('<img>', '<{APART}img>') | replace('</img>', '<{APART}/img>')"
_PARTS = (
    "{%- set parts = [{'type': 'text', 'text': message['content']}] if message['content'] is string"
    " else message['content'] %}"
)

CHATML = (
    "{%- set seen = namespace(pictures=0) %}"
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>' }}"
    "{%- endif %}{%- for message in messages %}" + _PARTS + "{{- '' if loop.first and message['role'] == 'system'"
    " else '\n' }}{{- '<|im_start|>' + message['role'] + '\n' }}{%- for part in parts %}"
    "{%- if part['type'] == 'image' %}{%- set seen.pictures = seen.pictures + 1 %}"
    "{{- 'Picture ' ~ seen.pictures ~ ': " + _PICTURE + "\n' }}"
    "{%- elif message['role'] == 'assistant' %}{{- part['text'] }}"
    "{%- else %}{{- part['text']" + _SAFE + " }}{%- endif %}{%- endfor %}{{- '<|im_end|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '\n<|im_start|>assistant\n' }}{%- endif %}"
)
"""model.chat of Qwen-VL-Chat, with the pictures of tokenizer.from_list_format."""

PLAIN = (
    "{%- for message in messages %}" + _PARTS + "{%- for part in parts %}"
    "{%- if part['type'] == 'image' %}{{- '" + _PICTURE + "' }}"
    "{%- elif message['role'] == 'assistant' %}{{- ' ' + part['text'] + '<|endoftext|>' }}"
    "{%- else %}{{- part['text']" + _SAFE + " + ' Answer:' }}{%- endif %}{%- endfor %}{%- endfor %}"
)
"""The prompt by which Qwen's authors evaluate the base model on VQA."""


class QwenVLProcessor(ProcessorMixin):
    """`__call__` takes text with <img><imgpad></img> and the pictures in the order in which the texts name them."""

    attributes = ["image_processor", "tokenizer"]
    image_token = IMAGE_TOKEN

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str = CHATML, slots: int = 256) -> None:
        self.slots = slots
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __call__(self, text: Any = None, images: Any = None, **kwargs: Any) -> BatchFeature:
        """input_ids and attention_mask [B, L], pixel_values fp32 [N, 3, S, S]. images: flat, or a list a text."""
        tensors = kwargs.get("return_tensors")
        texts = [text] if isinstance(text, str) else list(text)
        expanded = [words.replace(_PICTURE, f"<img>{IMAGE_TOKEN * self.slots}</img>") for words in texts]
        data = dict(self.tokenizer(expanded, **kwargs))
        if images is not None:
            flat = [image for group in images for image in (group if isinstance(group, list | tuple) else [group])]
            data["pixel_values"] = self.image_processor(flat, return_tensors=tensors)["pixel_values"]
        return BatchFeature(data, tensor_type=tensors)


def make_image_processor(size: int) -> CLIPImageProcessorPil:
    """Stretched to a square by PIL's bicubic, normalised as CLIP's pictures."""
    return CLIPImageProcessorPil(size={"height": size, "width": size}, do_center_crop=False)
