"""A real LlavaForConditionalGeneration of a few thousand random parameters, with its own tokenizer, built offline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

PIXELS, PATCH = 16, 8
TEXT = [
    "There is a small red circle to the left of the large blue square.",
    "What color is the circle? red green blue yellow. How many squares are there? 1 2 3 12.",
    "Yes, it is. No, it is not. The triangle is above the star: déjà vu, 東京 😀.",
] * 20
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: "
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for item in message['content'] %}{% if item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}"
    "{{ '\nASSISTANT:\n' }}{% else %}"  # written so, because jinja drops a line break behind a block
    "{% for item in message['content'] %}{% if item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}"
    "{{ eos_token }}{% endif %}{% endfor %}"
)

# As language models have it: what was said is a text, not a list of parts.
READER_TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def make_tiny_tokenizer(vocabulary: int = 420) -> PreTrainedTokenizerFast:
    """Byte-level BPE of its own, unlike the student's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<s>", "</s>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=256,
    )


def _text_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )


def make_tiny_processor(chat_template: str = CHAT_TEMPLATE, vocabulary: int = 420) -> LlavaProcessor:
    size = {"height": PIXELS, "width": PIXELS}
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": PIXELS}, crop_size=size),
        tokenizer=make_tiny_tokenizer(vocabulary),
        patch_size=PATCH,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=chat_template,
    )


def make_tiny_reader(folder: Path, chat_template: str | None = READER_TEMPLATE, seed: int = 0) -> Path:
    """A LlamaForCausalLM without eyes, and its tokenizer, in `folder`."""
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = chat_template
    torch.manual_seed(seed)
    config = _text_config(tokenizer)
    config.max_position_embeddings = 1024  # it is told, and given examples
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def make_tiny_teacher(folder: Path, seed: int = 0, vocabulary: int = 420) -> Path:
    """Save model, processor and template to `folder`, as `embervlm.teachers.registry.load_teacher` reads them."""
    processor = make_tiny_processor(vocabulary=vocabulary)
    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=PIXELS,
        patch_size=PATCH,
        projection_dim=16,
    )
    text = _text_config(tokenizer)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=processor.image_token_id,
        image_seq_length=(PIXELS // PATCH) ** 2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    # Random projections start so small that the picture would not matter.
    for parameter in model.model.multi_modal_projector.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


def draw_noise(folder: Path, count: int) -> None:
    """0.png, 1.png, ... of different sizes."""
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
