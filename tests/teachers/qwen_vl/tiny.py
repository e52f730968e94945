"""Qwen-VL of a few hundred thousand made-up parameters, in the layout of the published checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from embervlm.teachers.qwen_vl.configuration import QwenVLConfig
from embervlm.teachers.qwen_vl.modeling import QwenVLForConditionalGeneration

HERE = Path(__file__).parent / "golden"
VISION = {
    "width": 32,
    "layers": 2,
    "heads": 2,
    "mlp_ratio": 2.0,
    "patch_size": 14,
    "image_size": 112,
    "output_dim": 128,
    "n_queries": 16,
}
# 151,936 rows, as in the real one: the ids of special tokens stand at their places.
SIZES = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "kv_channels": 64,
    "intermediate_size": 128,
    "seq_length": 64,
    "max_position_embeddings": 512,
}


def make_model(
    seed: int = 0, vocabulary: int = 151_936, image_start_id: int = 151_857
) -> QwenVLForConditionalGeneration:
    """Weights from numpy's generator, the same under every torch, and large enough that each part matters."""
    config = QwenVLConfig(**SIZES, vocab_size=vocabulary, visual=VISION | {"image_start_id": image_start_id})
    model = QwenVLForConditionalGeneration(config).eval()
    generator = np.random.default_rng(seed)
    for name, parameter in model.state_dict().items():
        norm = parameter.dim() == 1 and name.endswith("weight")
        scale = 1.5 / parameter.shape[-1] ** 0.5 if parameter.dim() > 1 else 0.2
        values = generator.standard_normal(parameter.shape, dtype=np.float32) * scale
        parameter.copy_(torch.from_numpy(values + norm))
    return model


def save_published(model: QwenVLForConditionalGeneration, folder: Path, chat: bool = True, shards: int = 2) -> Path:
    """As on the hub: pickled shards with an index, config.json with remote code named in it, qwen.tiktoken."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    names = list(state)
    parts = [names[start::shards] for start in range(shards)]
    files = [f"pytorch_model-{number + 1:05}-of-{shards:05}.bin" for number in range(shards)]
    for file, part in zip(files, parts, strict=True):
        torch.save({name: state[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in zip(files, parts, strict=True) for name in part}
    size = sum(value.numel() * value.element_size() for value in state.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    config = json.loads(model.config.to_json_string()) | {
        "architectures": ["QWenLMHeadModel"],
        "auto_map": {"AutoConfig": "configuration_qwen.QWenConfig", "AutoModelForCausalLM": "modeling_qwen.X"},
        "bf16": False, "fp16": False, "fp32": False, "rotary_emb_base": 10000, "use_flash_attn": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    generation = {"chat_format": "chatml" if chat else "raw", "do_sample": True, "top_k": 0, "top_p": 0.3}
    (folder / "generation_config.json").write_text(json.dumps(generation | {"eos_token_id": 151643}))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "QWenTokenizer", "model_max_length": 8192}')
    shutil.copy(HERE / "qwen.tiktoken", folder)
    return folder
