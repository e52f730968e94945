"""What an EmberVLM is made of, as it stands in `config.json`."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


class EmberVLMConfig(PreTrainedConfig):
    """A vision tower, a projector and a language model.

    preset: the name it was made from, if any.
    vision: {"name": a timm architecture, "args": its keyword arguments}.
    text_config: the configuration of any causal language model of transformers.
    projector_hidden: width of the projector's middle layer.
    image_size, num_image_tokens: pixels of a side, and the visual tokens that the tower makes of them.
    unfreeze_vision: how many of the tower's last blocks are trained; -1 = the whole tower.
    """

    model_type = "embervlm"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="gpt2")}

    preset: str | None = None
    vision: Any = None
    text_config: Any = None
    projector_hidden: int = 2304
    image_size: int = 224
    num_image_tokens: int = 49
    image_token_id: int = 25_602
    unfreeze_vision: int = 0
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.vision is None:
            self.vision = {"name": "repvit_m1_5", "args": {}}
        super().__post_init__(**kwargs)
        # Tying happens in the language model, by its own configuration; this field tells the rest of transformers.
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
