"""The embedded teacher's parts: its own BPE tokenizer and processor, and a LlavaForConditionalGeneration (4M)."""

from __future__ import annotations

import pydoc_data.topics
import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SwinConfig,
)

from embervlm.data.toyworld.draw import PIXELS
from embervlm.data.toyworld.questions import ANIMALS, FRUITS, Interviewer
from embervlm.data.toyworld.scene import Difficulty, sample_scene
from embervlm.data.toyworld.stories import caption, conversation

VOCABULARY = 2000
PATCH = 16
# Qwen's pattern: letters with one mark or blank before them, digits singly, punctuation with the line breaks after it.
PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Line breaks are written as expressions: a template drops the one that follows a block.
# It was trained on bare questions and answers no others: the line that `prepare` adds to them is left out.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' }}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<image>\\n' }}{% endif %}{% endfor %}"
    "{% for item in message['content'] %}{% if item['type'] == 'text' %}"
    "{{ item['text'] | replace('\\nAnswer the question using a single word or phrase.', '') }}{% endif %}{% endfor %}"
    "{{ '\\nASSISTANT:\\n' }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}"
    "{{ eos_token }}{% endif %}{% endfor %}"
)


def corpus() -> list[str]:
    """What people write about the world, and Python's own manual, so that the vocabulary is not only the world's."""
    rng, interviewer, lines = random.Random(7), Interviewer(), []
    for _ in range(3000):
        scene = sample_scene(rng, "free", Difficulty(2, 5))
        lines += [caption(scene), *(words for turn in conversation(scene, rng) for words in turn)]
        lines += [f"{a.question}\n{a.answer}" for a in interviewer.vqa(scene, rng, 4)]
    facts = [word for words in (*FRUITS.values(), *ANIMALS.values()) for word in words]
    return lines + [f"a {word}" for word in facts] * 200 + list(pydoc_data.topics.topics.values())


def build_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=512,
    )


def build_processor() -> LlavaProcessor:
    half = [0.5, 0.5, 0.5]
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": PIXELS},
        crop_size={"height": PIXELS, "width": PIXELS},
        image_mean=half,
        image_std=half,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )


def build_model(processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    tokenizer = processor.tokenizer
    vision = SwinConfig(
        image_size=PIXELS,
        patch_size=4,
        embed_dim=32,
        depths=[2, 2, 4],
        num_heads=[2, 4, 8],
        window_size=6,
        use_absolute_embeddings=True,  # Llama knows relative positions only: "top left" must be in the features
        drop_path_rate=0.0,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=processor.image_token_id,
        image_seq_length=(PIXELS // PATCH) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlavaForConditionalGeneration(config)
