"""`config.json` of Qwen-VL and Qwen-VL-Chat (2023), read as published."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig


class QwenVLConfig(PreTrainedConfig):
    """The language model's sizes, and those of the picture's encoder in `visual`.

    intermediate_size: of both branches of an MLP together; each has half of it.
    seq_length: length of the pre-training, from which NTK and log-n count. Not `max_position_embeddings`.
    visual: {"width", "layers", "heads", "mlp_ratio", "patch_size", "image_size", "output_dim", "image_start_id",
        "n_queries" = 256}; output_dim equals hidden_size and is a multiple of 128.
    """

    model_type = "qwen"

    vocab_size: int = 151_936
    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    kv_channels: int = 128
    intermediate_size: int = 22_016
    seq_length: int = 2048
    max_position_embeddings: int = 8192
    layer_norm_epsilon: float = 1e-6
    rotary_emb_base: float = 10_000.0
    use_dynamic_ntk: bool = True
    use_logn_attn: bool = True
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    visual: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        real = {
            "width": 1664,
            "layers": 48,
            "heads": 16,
            "mlp_ratio": 4.9231,
            "patch_size": 14,
            "image_size": 448,
            "output_dim": 4096,
            "image_start_id": 151_857,
            "n_queries": 256,
        }
        self.visual = real | (self.visual or {})
        self.rotary_emb_base = float(self.rotary_emb_base)  # an integer in the published file
        super().__post_init__(**kwargs)

    @property
    def image_start_id(self) -> int:
        """Id of <img>; </img> is the next one, <imgpad> the one after."""
        return int(self.visual["image_start_id"])

    @property
    def n_queries(self) -> int:
        """Visual tokens of a picture."""
        return int(self.visual["n_queries"])
