"""The conductor: pictures and text in, loss, logits or an answer out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from embervlm.distill.loss import LossOptions, LossParts, chunked_loss
from embervlm.distill.targets import Targets
from embervlm.errors import UserError
from embervlm.model.configuration import EmberVLMConfig
from embervlm.model.presets import get_preset
from embervlm.model.processing import EmberVLMProcessor, build_processor
from embervlm.model.projector import Projector
from embervlm.model.vision import VisionTower

CROSS_ENTROPY = LossOptions(alpha=0.0, sft_weight=1.0, temperature=1.0)


@dataclass
class EmberVLMOutput(CausalLMOutputWithPast):
    """What forward gives; `parts` holds the sums behind `loss`."""

    parts: LossParts | None = None


class EmberVLM(PreTrainedModel, GenerationMixin):
    config_class = EmberVLMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    processor: EmberVLMProcessor | None = None

    def __init__(self, config: EmberVLMConfig) -> None:
        super().__init__(config)
        self.vision = VisionTower(config.vision, config.unfreeze_vision)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.projector = Projector(self.vision.channels, config.projector_hidden, config.text_config.hidden_size)
        self.post_init()

    @classmethod
    def from_preset(cls, name: str = "37m", **overrides: Any) -> EmberVLM:
        """A fresh student with its processor; `overrides` are fields of EmberVLMConfig."""
        preset = get_preset(name)
        overrides.pop("vision_weights", None)
        overrides.pop("language_model", None)
        model = cls(EmberVLMConfig(**{**preset.config_fields(), **overrides}))
        model.processor = build_processor(preset)
        return model

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def _init_weights(self, module: nn.Module) -> None:
        """Only the projector: the tower comes initialised from timm, the language model initialises itself."""
        if isinstance(module, Projector):
            for layer in (module.widen, module.narrow):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        shift_labels: Tensor | None = None,
        targets: Targets | None = None,
        loss_options: LossOptions | None = None,
        num_items_in_batch: Tensor | int | None = None,
        logits_to_keep: int | Tensor = 0,
        use_cache: bool | None = None,
        return_logits: bool = False,
        **kwargs: Any,
    ) -> EmberVLMOutput:
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            inputs_embeds = self._place(input_ids, inputs_embeds, self.projector(self.vision(pixel_values)))
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        outputs = self.language_model.base_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache if shift_labels is None else False,
            **{k: v for k, v in kwargs.items() if k in ("output_hidden_states", "output_attentions")},
        )
        hidden = outputs.last_hidden_state
        head = self.get_output_embeddings()
        parts = logits = None
        if shift_labels is not None:
            labelled = shift_labels != -100
            parts = chunked_loss(
                hidden[labelled],
                head.weight,
                getattr(head, "bias", None),
                shift_labels[labelled],
                targets,
                loss_options or CROSS_ENTROPY,
                num_items_in_batch,
            )
        if shift_labels is None or return_logits:
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = head(hidden[:, keep])
        return EmberVLMOutput(
            loss=None if parts is None else parts.total,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            parts=parts,
        )

    def _place(self, input_ids: Tensor | None, embeds: Tensor, features: Tensor) -> Tensor:
        """Put the features [n_images, n, D] into the <image> places of the batch, in order."""
        if input_ids is None:
            raise ValueError("pixel_values need input_ids, which hold the places of the pictures")
        places = input_ids == self.config.image_token_id
        found, expected = int(places.sum()), features.shape[0] * features.shape[1]
        if found != expected:
            raise UserError(
                f"the rows hold {found} <image> tokens, but {features.shape[0]} pictures of {features.shape[1]} tokens "
                f"need {expected}; build the rows with the model's own processor"
            )
        return embeds.masked_scatter(places.unsqueeze(-1), features.to(embeds.dtype))
