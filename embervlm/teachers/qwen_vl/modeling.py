"""Qwen-VL and Qwen-VL-Chat (2023) as a transformers model, without the remote code, under the checkpoint's own names.

Bai et al., Qwen-VL, 2023 (arXiv:2308.12966).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from embervlm.errors import UserError
from embervlm.teachers.qwen_vl.configuration import QwenVLConfig
from embervlm.teachers.qwen_vl.language import QwenVLBlock, RMSNorm, causal_mask, log_n, ntk_alpha, rotary_tables
from embervlm.teachers.qwen_vl.vision import QwenVLVision


class QwenVLTransformer(nn.Module):
    """Word embeddings with the pictures spliced in, blocks, last norm."""

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.h = nn.ModuleList(QwenVLBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.ln_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.visual = QwenVLVision(config.visual)

    def embed(self, input_ids: Tensor, pixel_values: Tensor | None) -> Tensor:
        """[B, L, D]; the n-th picture lies between the n-th <img> and its </img>, counted row by row.

        Raises:
            UserError: a picture without its place, a place without a picture, or one of another width.
        """
        words = self.wte(input_ids)
        starts = (input_ids == self.config.image_start_id).nonzero()
        pictures = 0 if pixel_values is None else len(pixel_values)
        if len(starts) != pictures:
            raise UserError(f"Qwen-VL was given {pictures} pictures and a text with places for {len(starts)}.")
        if pixel_values is None:
            return words
        ends = starts + torch.tensor([0, self.config.n_queries + 1], device=starts.device)
        inside = bool((ends[:, 1] < input_ids.shape[1]).all())
        if not inside or bool((input_ids[ends[:, 0], ends[:, 1]] != self.config.image_start_id + 1).any()):
            raise UserError(f"Each <img> of a text for Qwen-VL wants {self.config.n_queries} slots and </img> behind.")
        seen = self.visual(pixel_values).type_as(words)
        slots = starts[:, 1:] + 1 + torch.arange(self.config.n_queries, device=starts.device)
        return words.index_put((starts[:, :1].expand_as(slots), slots), seen)

    def forward(self, embedded: Tensor, attention_mask: Tensor | None, cache: Any) -> Tensor:
        """Positions count what a row reads, so a row is the same in any batch; the reference counts its padding, too,
        which shows beyond seq_length only."""
        config, (rows, length) = self.config, embedded.shape[:2]
        past = 0 if cache is None else cache.get_seq_length()
        if attention_mask is None:
            attention_mask = torch.ones(rows, past + length, dtype=torch.long, device=embedded.device)
        positions = (attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, past:]
        ntk = config.use_dynamic_ntk and not self.training
        alpha = ntk_alpha(attention_mask.sum(1) if ntk else torch.ones(rows), config.seq_length)
        # Decided by the first pass and kept while its cache is continued, also over a border.
        if past:
            alpha = getattr(cache, "ntk_alpha", alpha)
        elif cache is not None:
            cache.ntk_alpha = alpha
        rotary = rotary_tables(positions, config.kv_channels, config.rotary_emb_base, alpha)
        scale = log_n(positions, config.seq_length) if config.use_logn_attn and not self.training else None
        mask = causal_mask(attention_mask, length, past, embedded.dtype)
        x = embedded
        for block in self.h:
            x = block(x, rotary, scale, mask, cache)
        return self.ln_f(x)


class QwenVLForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Loads the published shards of Qwen/Qwen-VL-Chat and Qwen/Qwen-VL as they are. Keep it in eval(): NTK and log-n
    are off while training, as in the reference."""

    config_class = QwenVLConfig
    base_model_prefix = "transformer"
    main_input_name = "input_ids"
    _no_split_modules = ["QwenVLBlock", "VisionBlock", "Resampler"]
    _supports_sdpa = True

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__(config)
        self.transformer = QwenVLTransformer(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # Bare parameters, of which the base class knows nothing.
        for parameter in module.parameters(recurse=False) if type(module).__module__.startswith(__package__) else ():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=self.config.initializer_range)

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.wte

    def set_input_embeddings(self, value: Any) -> None:
        self.transformer.wte = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        cache: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """input_ids [B, L]; attention_mask [B, past + L], 1 = read; pixel_values [N, 3, S, S], only with an empty
        cache; logits [B, L, V], or of the last `logits_to_keep` positions. Position ids are the places in the row, as
        in the reference: rows are padded on either side."""
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        hidden = self.transformer(self.transformer.embed(input_ids, pixel_values), attention_mask, cache)
        logits = self.lm_head(hidden[:, -logits_to_keep:] if logits_to_keep else hidden)
        return CausalLMOutputWithPast(logits=logits, cache=cache)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        cache = inputs.get("cache")
        if cache is not None and cache.get_seq_length():
            inputs["pixel_values"] = None  # the first pass has seen it
        return inputs
