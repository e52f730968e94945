"""The conductor: pictures and text in; loss, logits or an answer out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from embervlm.distill.loss import LossOptions, LossParts, chunked_loss
from embervlm.distill.targets import Targets
from embervlm.errors import UserError
from embervlm.model import loading
from embervlm.model.answering import answer
from embervlm.model.configuration import EmberVLMConfig
from embervlm.model.language import build_language_model, carry_over, pretrained_config
from embervlm.model.packed import attend_in_pieces, attention_inputs
from embervlm.model.presets import get_preset
from embervlm.model.processing import EmberVLMProcessor, build_processor
from embervlm.model.projector import Projector
from embervlm.model.vision import VisionTower, load_vision_weights

_log = logging.getLogger(__name__)

IGNORE = -100
CROSS_ENTROPY = LossOptions(alpha=0.0, sft_weight=1.0, temperature=1.0)


@dataclass
class EmberVLMOutput(CausalLMOutputWithPast):
    """What forward gives; `parts` holds the sums behind `loss`."""

    parts: LossParts | None = None


class EmberVLM(PreTrainedModel, GenerationMixin):
    """Vision tower -> projector -> language model. Pictures take the places of the <image> tokens, in order."""

    config_class = EmberVLMConfig
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    processor: EmberVLMProcessor | None = None

    def __init__(self, config: EmberVLMConfig) -> None:
        super().__init__(config)
        self.vision = VisionTower(config.vision, config.unfreeze_vision)
        cells = self.vision.cells(config.image_size)
        if cells != config.num_image_tokens:
            raise UserError(
                f"A picture of {config.image_size} pixels makes {cells} visual tokens in this tower, the configuration "
                f"says num_image_tokens = {config.num_image_tokens}; set it to {cells}."
            )
        self.projector = Projector(self.vision.channels, config.projector_hidden, config.text_config.hidden_size)
        self.language_model = build_language_model(config.text_config)
        attend_in_pieces(self.language_model)
        self.post_init()

    @classmethod
    def from_preset(
        cls,
        name: str = "37m",
        *,
        vision_weights: str | None = None,
        language_model: str | None = None,
        **overrides: Any,
    ) -> EmberVLM:
        """A fresh student with its processor.

        Args:
            vision_weights: what the tower starts from (see `load_vision_weights`); None: what the preset says.
            language_model: hub id or folder that the language model's shape and weights come from.
            overrides: fields of EmberVLMConfig, such as `unfreeze_vision`.
        """
        preset = get_preset(name)
        if language_model is not None:
            overrides["text_config"] = pretrained_config(language_model)
        config = EmberVLMConfig(preset=name, **preset.config_fields(**overrides))
        model = cls(config)
        if source := vision_weights or preset.vision_weights:
            load_vision_weights(model.vision, source)
        elif config.unfreeze_vision >= 0:
            _log.warning(
                "The frozen part of the vision tower has random weights and sees nothing; pass vision_weights."
            )
        model.processor = build_processor(preset, config)
        if language_model is not None:
            carry_over(model.language_model, language_model, model.processor.tokenizer)
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """A saved student, whole or not at all, with its processor in `.processor` when the folder has one.

        Raises:
            UserError: no such folder, not an EmberVLM, or weights that do not fit its configuration or vocabulary.
        """
        return loading.load(cls, super().from_pretrained, pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Weights and configuration, and the processor's files when there is one: the folder answers questions."""
        if self.processor is not None and kwargs.get("is_main_process", True):
            self.processor.save_pretrained(save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)

    def unfreeze_vision(self, blocks: int) -> None:
        """Train the tower's last `blocks` blocks from now on (-1: all, 0: none)."""
        self.vision.freeze_all_but(blocks)
        self.config.unfreeze_vision = blocks

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing to do: timm, torch and the language model initialise their own parts when they are built."""

    def generate(  # type: ignore[override]
        self, *args: Any, image: Any = None, prompt: Any = None, max_length: int | None = None, **kwargs: Any
    ) -> Any:
        """Answer a question about a picture: `generate(image=..., prompt="...", max_length=100) -> str`.

        Args:
            image: PIL image, path or array; None: no picture. A list (may hold None) goes with a list of prompts.
            prompt: str or list of str; one picture or one prompt serves a list of the other.
            max_length: how many *new* tokens at most (100 when left out); cut to what the model's positions allow.
            kwargs: anything of transformers' generate (do_sample, top_p, temperature, num_beams, ...).

        Without `image` and `prompt` this is transformers' own generate(input_ids=..., pixel_values=..., ...).
        """
        ids: Callable[..., Any] = super().generate  # type: ignore[misc]
        if image is not None or prompt is not None:
            return answer(self, ids, image, prompt, max_length, **kwargs)
        if max_length is not None:
            kwargs["max_length"] = max_length
        return ids(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        frozen_features: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        groups: Tensor | None = None,
        segments: Tensor | None = None,
        shift_labels: Tensor | None = None,
        targets: Targets | Sequence[tuple[float, Targets]] | None = None,
        loss_options: LossOptions | None = None,
        num_items_in_batch: Tensor | int | None = None,
        logits_to_keep: int | Tensor = 0,
        use_cache: bool | None = None,
        return_logits: bool = False,
        **kwargs: Any,
    ) -> EmberVLMOutput:
        """Logits, or with `shift_labels` the loss over the labelled positions (then logits only on request).

        Args:
            input_ids: [B, L] with `num_image_tokens` <image> tokens for each picture.
            pixel_values: [n_images, 3, H, W] in the order in which the batch reads its <image> tokens.
            frozen_features: instead of `pixel_values`, what the tower's frozen part made of them,
                [n_images, c, h, w] (`VisionTower.frozen_part`).
            position_ids: [B, L]; None: counted over `attention_mask`, so that padding on the left costs nothing.
            groups, segments: [B, L], of packed rows (`model/packed.py`), which have position_ids and no attention_mask.
            shift_labels: [B, L], the id that each position predicts, already shifted; -100 = none.
            targets: the teacher's, one row a labelled position in row-major order; of several teachers (weight,
                targets) of each; None: cross-entropy only.
            num_items_in_batch: what the sums are divided by; None: labelled positions of this batch.
        """
        if kwargs.pop("labels", None) is not None:
            raise ValueError("EmberVLM takes shift_labels (position t holds the id it predicts), not labels")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None or frozen_features is not None:
            features = self.projector(self._see(pixel_values, frozen_features))
            inputs_embeds = self._place(input_ids, inputs_embeds, features)
        elif self.training and shift_labels is not None:
            inputs_embeds = inputs_embeds + self._nothing()
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        seen: dict[str, Any] = {"attention_mask": attention_mask}
        if groups is not None and segments is not None:
            seen = attention_inputs(self.language_model, groups, segments, inputs_embeds.dtype)
        outputs = self.language_model.base_model(
            inputs_embeds=inputs_embeds,
            **seen,
            position_ids=position_ids,
            cache=cache,
            use_cache=use_cache if shift_labels is None else False,
            **kwargs,
        )
        parts = (
            None
            if shift_labels is None
            else self._loss(outputs.last_hidden_state, shift_labels, targets, loss_options, num_items_in_batch)
        )
        logits = None
        if shift_labels is None or return_logits:
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.get_output_embeddings()(outputs.last_hidden_state[:, keep])
        return EmberVLMOutput(
            loss=None if parts is None else parts.total,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            parts=parts,
        )

    def _loss(
        self,
        hidden: Tensor,
        shift_labels: Tensor,
        targets: Targets | Sequence[tuple[float, Targets]] | None,
        options: LossOptions | None,
        num_items: Any,
    ) -> LossParts:
        head: Any = self.get_output_embeddings()
        labelled = shift_labels != IGNORE
        labels = shift_labels[labelled]
        return chunked_loss(
            hidden[labelled], head.weight, head.bias, labels, targets, options or CROSS_ENTROPY, num_items
        )

    def _see(self, pixel_values: Tensor | None, frozen_features: Tensor | None) -> Tensor:
        if frozen_features is None:
            assert pixel_values is not None
            return self.vision(pixel_values.to(self.dtype))
        if pixel_values is not None:
            raise ValueError("a batch shows its pictures as pixel_values or as frozen_features, not as both")
        return self.vision.from_frozen(frozen_features.to(self.dtype))

    def _place(self, input_ids: Tensor | None, embeds: Tensor, features: Tensor) -> Tensor:
        """Put the features [n_images, n, D] into the <image> places of the batch, in order."""
        if input_ids is None:
            raise ValueError("pixel_values need input_ids, which hold the places of the pictures")
        places = input_ids == self.config.image_token_id
        found, expected = int(places.sum()), features.shape[0] * features.shape[1]
        if found != expected:
            raise UserError(
                f"The rows hold {found} <image> tokens, but {features.shape[0]} pictures of {features.shape[1]} tokens "
                f"need {expected}; build the rows with the model's own processor, and do not cut them inside a picture."
            )
        return embeds.masked_scatter(places.unsqueeze(-1), features.to(embeds.dtype))

    def _nothing(self) -> Tensor:
        """Zero, yet it touches every trained weight before the language model: a text-only batch must leave gradients
        of zero there, not none, or the other processes of a distributed run would wait for them."""
        trained = [p for part in (self.vision, self.projector) for p in part.parameters() if p.requires_grad]
        return 0.0 * torch.stack([p.sum() for p in trained]).sum()
