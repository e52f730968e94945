"""Other families of teachers, tiny and random: what their processors and positions do differently from LLaVA's."""

from __future__ import annotations

import torch
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from embervlm.teachers.hf import HFTeacher
from tests.tiny_teacher import make_tiny_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}{% else %}{{ item['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# SmolVLM-256M-Instruct's own: a blank before every answer, which joins its first word.
SMOLVLM = (
    "{{ '<|im_start|>' }}{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}{{ '<end_of_utterance>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}


def _tokenizer(*special: str) -> PreTrainedTokenizerFast:
    tokenizer = make_tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return tokenizer


def _qwen_processor(kind: type, patch_size: int):
    tokenizer = _tokenizer(
        "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
    )
    tokenizer.image_token, tokenizer.bos_token, tokenizer.eos_token = "<|image_pad|>", None, "<|im_end|>"
    images = {"patch_size": patch_size, "size": {"shortest_edge": 256, "longest_edge": 4096}}
    return kind(Qwen2VLImageProcessor(**images), tokenizer, Qwen2VLVideoProcessor(**images), chat_template=CHATML)


def _qwen_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
    }
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}


def make_qwen25() -> HFTeacher:
    processor = _qwen_processor(Qwen2_5_VLProcessor, 14)
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10_000.0}
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, "vocab_size": len(processor.tokenizer) + 5, "rope_parameters": rope},
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.3,
        },
        **_qwen_ids(processor.tokenizer),
    )
    torch.manual_seed(0)
    return HFTeacher("tiny qwen2.5-vl", Qwen2_5_VLForConditionalGeneration(config), processor)


def make_qwen3() -> HFTeacher:
    processor = _qwen_processor(Qwen3VLProcessor, 16)
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10_000.0}
    config = Qwen3VLConfig(
        text_config={**TEXT, "head_dim": 8, "vocab_size": len(processor.tokenizer) + 5, "rope_parameters": rope},
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "deepstack_visual_indexes": [0],
            "initializer_range": 0.3,
        },
        **_qwen_ids(processor.tokenizer),
    )
    torch.manual_seed(0)
    return HFTeacher("tiny qwen3-vl", Qwen3VLForConditionalGeneration(config), processor)


def make_smolvlm() -> HFTeacher:
    tokenizer = _tokenizer("<|im_start|>", "<global-img>", *(f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2)))
    tokenizer.bos_token = "<|im_start|>"
    size = {"longest_edge": 32}
    processor = Idefics3Processor(
        Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size=size),
        tokenizer,
        image_seq_len=4,
        chat_template=SMOLVLM,
    )
    config = Idefics3Config(
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(processor.tokenizer), "pad_token_id": 0},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "initializer_range": 0.3,
        },
        image_token_id=processor.image_token_id,
        scale_factor=2,
    )
    torch.manual_seed(0)
    return HFTeacher("tiny smolvlm", Idefics3ForConditionalGeneration(config), processor)


FAMILIES = {"qwen2.5-vl": make_qwen25, "qwen3-vl": make_qwen3, "smolvlm": make_smolvlm}
