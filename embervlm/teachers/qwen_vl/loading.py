"""Qwen-VL-Chat and Qwen-VL from the files that their authors published, shards and names as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers.utils import cached_file

from embervlm.errors import UserError
from embervlm.teachers.families import complete
from embervlm.teachers.hf import HFTeacher
from embervlm.teachers.qwen_vl.configuration import QwenVLConfig
from embervlm.teachers.qwen_vl.modeling import QwenVLForConditionalGeneration
from embervlm.teachers.qwen_vl.processing import CHATML, PLAIN, QwenVLProcessor, make_image_processor
from embervlm.teachers.qwen_vl.tokenizer import SPECIAL_TOKENS, VOCABULARY, load_tokenizer

_CHAT_ENDS, _PLAIN_ENDS = ("<|im_end|>", "<|im_start|>", "<|endoftext|>"), ("<|endoftext|>",)


def load(name: str, source: str, files: dict[str, Any], weights: dict[str, Any]) -> HFTeacher:
    """With ChatML, or as a base model where generation_config.json says so. No code of the repository is run."""
    files = {key: value for key, value in files.items() if key != "trust_remote_code"}
    raw, _ = QwenVLConfig.get_config_dict(source, **files)
    if "visual" not in raw:
        raise UserError(f"teacher {name}: {source} is the Qwen of text alone, it sees no pictures; use qwen-vl-chat")
    config = QwenVLConfig.from_dict(raw)
    tokenizer = load_tokenizer(_vocabulary_folder(name, source, files), config.max_position_embeddings)
    model = complete(name, QwenVLForConditionalGeneration, source, config=config, **files, **weights)
    generation = GenerationConfig.from_pretrained(source, **files)
    chat = getattr(generation, "chat_format", "chatml") == "chatml"
    # The first of these tokens ends an answer; what the published file says about sampling is for chatting.
    ends = tokenizer.convert_tokens_to_ids(list(_CHAT_ENDS if chat else _PLAIN_ENDS))
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    processor = QwenVLProcessor(
        make_image_processor(config.visual["image_size"]), tokenizer, CHATML if chat else PLAIN, slots=config.n_queries
    )
    expected = tokenizer.convert_tokens_to_ids("<img>")
    if config.image_start_id != expected or config.vocab_size < expected + 3:
        raise UserError(
            f"teacher {name}: config.json says that <img> is token {config.image_start_id} of {config.vocab_size}, and "
            f"{VOCABULARY} and Qwen's {len(SPECIAL_TOKENS)} special tokens make it {expected}; these files do not "
            "belong together"
        )
    return HFTeacher(name, model, processor)


def _vocabulary_folder(name: str, source: str, files: dict[str, Any]) -> Path:
    found = cached_file(source, VOCABULARY, _raise_exceptions_for_missing_entries=False, **files)
    if found is None:
        raise UserError(f"teacher {name}: {source} has no {VOCABULARY}; download the teacher again")
    return Path(found).parent
