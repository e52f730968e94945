"""Pictures and chats -> tensors for the student.

One string is the whole chat: <|user|>{<image> x n}{question}<|assistant|>{answer}<|endoftext|><|user|>...
The picture, if any, comes first in the first user turn. What people write is text: the name of a special token
inside a question or an answer is spelled letter by letter and never becomes that token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from embervlm.data.images import load_image, to_rgb
from embervlm.errors import UserError
from embervlm.model.configuration import EmberVLMConfig
from embervlm.model.presets import Preset, get_preset
from embervlm.model.tokenizer import ASSISTANT, IMAGE, USER, student_tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% set text %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}{% endset %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>' }}{% if message['content'] is not string %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% endif %}{{ text }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' }}"
    "{% generation %}{{ text }}{{ '<|endoftext|>' }}{% endgeneration %}"
    "{% else %}{{ raise_exception('the student knows the roles user and assistant, not ' + message['role']) }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

Picture = Image.Image | np.ndarray | Tensor | str | Path


def open_picture(picture: Picture) -> Image.Image:
    """RGB picture from a PIL image, a path, or an array [H, W], [H, W, 3] or [3, H, W] (uint8, or floats in 0..1)."""
    if isinstance(picture, (str, Path)):
        return load_image(picture)
    if isinstance(picture, Image.Image):
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return to_rgb(ImageOps.exif_transpose(picture) if turned else picture)
    array = np.asarray(picture)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise UserError(f"an array of shape {array.shape} is no picture; expected [H, W], [H, W, 3] or [3, H, W]")
    if array.dtype != np.uint8:
        array = (array * 255 if np.issubdtype(array.dtype, np.floating) else array).clip(0, 255).astype(np.uint8)
    return to_rgb(Image.fromarray(array))


class EmberVLMImageProcessor(BaseImageProcessor):
    """Resizes to a square without keeping the aspect, and normalises.

    Nothing is cut off (a question may be about the edge) and no cell of the small grid is spent on padding.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        image_size: int = 224,
        image_mean: Sequence[float] = (0.485, 0.456, 0.406),
        image_std: Sequence[float] = (0.229, 0.224, 0.225),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    def fetch_images(self, images: Any) -> Any:
        """Opens paths with our own reader; lists keep their nesting."""
        return (
            [self.fetch_images(image) for image in images] if isinstance(images, list | tuple) else open_picture(images)
        )

    def preprocess(self, images: Any, return_tensors: str | None = None, **kwargs: Any) -> BatchFeature:
        """One picture or a (nested) list -> {"pixel_values": float32 [n, 3, size, size]}."""
        pixels = np.stack([self._pixels(picture) for picture in _flatten(images)])
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)

    def _pixels(self, picture: Picture) -> np.ndarray:
        image = open_picture(picture)
        if image.size != (self.image_size, self.image_size):
            image = image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC, reducing_gap=3.0)
        scaled = np.asarray(image, dtype=np.float32) / 255
        normal = (scaled - np.array(self.image_mean, np.float32)) / np.array(self.image_std, np.float32)
        return normal.transpose(2, 0, 1)


def _flatten(images: Any) -> list[Picture]:
    return [flat for image in images for flat in _flatten(image)] if isinstance(images, list | tuple) else [images]


class EmberVLMProcessor(ProcessorMixin):
    """The student's tokenizer and image processor, and how a picture and a question become a row of ids."""

    def __init__(
        self,
        image_processor: EmberVLMImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        num_image_tokens: int = 49,
        chat_template: str | None = CHAT_TEMPLATE,
        **kwargs: Any,
    ) -> None:
        self.num_image_tokens = num_image_tokens
        self.image_token = IMAGE
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def encode_prompt(self, question: str, image: bool) -> list[int]:
        """Ids of one user turn up to and with <|assistant|>, the picture's places included."""
        user, assistant = self.tokenizer.convert_tokens_to_ids([USER, ASSISTANT])
        text = self.tokenizer(question, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [user, *[self.image_token_id] * (self.num_image_tokens * image), *text, assistant]

    def prompts(self, pictures: Sequence[Picture | None], questions: Sequence[str]) -> BatchFeature:
        """Left-padded input_ids and attention_mask [B, L], and pixel_values [n, 3, H, W] when there is a picture."""
        rows = [self.encode_prompt(q, p is not None) for p, q in zip(pictures, questions, strict=True)]
        length = max(map(len, rows))
        ids = np.full((len(rows), length), self.tokenizer.pad_token_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, length - len(row) :], mask[i, length - len(row) :] = row, 1
        batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if shown := [picture for picture in pictures if picture is not None]:
            batch["pixel_values"] = self.image_processor(shown, return_tensors="pt")["pixel_values"]
        return BatchFeature(batch)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        return self.image_token * self.num_image_tokens

    def apply_chat_template(self, conversation: Any, tokenize: bool = False, **kwargs: Any) -> Any:  # type: ignore[override]
        """As transformers' own; when it tokenizes, special tokens inside messages stay text."""
        kwargs.setdefault("sanitize_control_tokens", tokenize)
        return super().apply_chat_template(conversation, tokenize=tokenize, **kwargs)


def build_processor(preset: str | Preset, config: EmberVLMConfig | None = None) -> EmberVLMProcessor:
    """A fresh processor for a preset (by name or itself); `config` tells where its sizes were overridden."""
    preset = get_preset(preset) if isinstance(preset, str) else preset
    config = config or EmberVLMConfig(**preset.config_fields())
    pictures = EmberVLMImageProcessor(config.image_size, preset.image_mean, preset.image_std)
    return EmberVLMProcessor(pictures, student_tokenizer(preset.vocabulary), config.num_image_tokens)
