"""Named students: a literal table."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from embervlm.errors import UserError
from embervlm.model.tokenizer import EOS, IMAGE, PAD, SPECIAL_TOKENS, VOCABULARY

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PACKAGED = "packaged"
"""`vision_weights` of a preset whose tower ships inside the package."""


@dataclass(frozen=True)
class Preset:
    """One student: fields of EmberVLMConfig, the size of its vocabulary, how its pictures are normalised."""

    config: dict[str, Any]
    vocabulary: int  # tokens without the special ones
    image_mean: tuple[float, float, float] = IMAGENET_MEAN
    image_std: tuple[float, float, float] = IMAGENET_STD
    vision_weights: str | None = None

    def special_ids(self) -> dict[str, int]:
        """What the vocabulary settles in the configuration of a language model."""
        ids = {token: self.vocabulary + i for i, token in enumerate(SPECIAL_TOKENS)}
        size = self.vocabulary + len(ids)
        return {"vocab_size": size, "bos_token_id": ids[EOS], "eos_token_id": ids[EOS], "pad_token_id": ids[PAD]}

    def config_fields(self, **overrides: Any) -> dict[str, Any]:
        """Arguments of EmberVLMConfig; the vocabulary's size and special ids hold for any `text_config`."""
        fields = deepcopy({**self.config, **overrides})
        text = fields["text_config"]
        fields["text_config"] = {**(text if isinstance(text, dict) else text.to_dict()), **self.special_ids()}
        fields["image_token_id"] = self.vocabulary + SPECIAL_TOKENS.index(IMAGE)
        return fields


_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}

PRESETS: dict[str, Preset] = {
    # 13.6M RepViT-M1.5 (frozen), 2.1M projector, 20.9M language model in the shape of tinyllm/30M-0.4.
    "37m": Preset(
        config={
            "vision": {"name": "repvit_m1_5", "args": {}},
            "text_config": {
                "model_type": "gpt2",
                "n_layer": 6,
                "n_embd": 384,
                "n_head": 6,
                "n_positions": 1024,
                **_NO_DROPOUT,
            },
            "projector_hidden": 2304,
            "image_size": 224,
            "num_image_tokens": 49,
            "unfreeze_vision": 0,
        },
        vocabulary=VOCABULARY,
    ),
    # 1.1M, for the embedded world and the tests: 96 x 96 pixels, stride 16.
    "tiny": Preset(
        config={
            "vision": {"name": "repvit_m0_9", "args": {"embed_dim": [24, 48, 96], "depth": [1, 1, 2]}},
            "text_config": {
                "model_type": "gpt2",
                "n_layer": 4,
                "n_embd": 112,
                "n_head": 4,
                "n_positions": 256,
                **_NO_DROPOUT,
            },
            "projector_hidden": 256,
            "image_size": 96,
            "num_image_tokens": 36,
            "unfreeze_vision": -1,
        },
        vocabulary=2048,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        vision_weights=PACKAGED,
    ),
}


def get_preset(name: str) -> Preset:
    """The preset of that exact name; UserError with the known names otherwise."""
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise UserError(f"There is no preset '{name}'; choose one of {', '.join(PRESETS)}{hint}.")
    return PRESETS[name]
