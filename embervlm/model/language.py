"""The language model: any causal one of transformers, fresh or with the rows of a pretrained one carried over."""

from __future__ import annotations

from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from embervlm.errors import UserError
from embervlm.tokens import token_bytes

# What some models do to the logits after the head; our loss works on the head's own product.
RESCALED = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0, "lm_head_multiplier": 1.0}


def build_language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A fresh causal language model of that configuration."""
    for name, harmless in RESCALED.items():
        if getattr(config, name, harmless) not in (None, harmless):
            raise UserError(
                f"A language model of type '{config.model_type}' changes its logits after the head ({name}); the fused "
                "loss does not know that. Choose another type, such as gpt2, llama or qwen2."
            )
    return AutoModelForCausalLM.from_config(config)


def pretrained_config(source: str) -> dict[str, Any]:
    """The configuration of a hub id or folder as `text_config`."""
    try:
        return AutoConfig.from_pretrained(source).to_dict()
    except (OSError, ValueError) as error:
        raise UserError(f"The language model '{source}' cannot be read: {_first_line(error)}") from error


@torch.no_grad()
def carry_over(model: PreTrainedModel, source: str, tokenizer: Any) -> int:
    """Fill `model` with the weights of the language model at `source`; returns how many rows of tokens matched.

    A row of the embedding (and of an untied head) is that of the source's token with the same bytes, a special
    token's that of the same name; every other row starts at the mean of the source's rows.

    Args:
        model: of the source's architecture, with the student's vocabulary.
        source: hub id or folder; must hold its tokenizer.
        tokenizer: the student's.
    """
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
        rows = matching_rows(tokenizer, AutoTokenizer.from_pretrained(source), model.config.vocab_size)
    except (OSError, ValueError, RuntimeError, UnpicklingError) as error:
        raise UserError(f"The language model '{source}' cannot be read: {_first_line(error)}") from error
    old, info = loaded
    if info["missing_keys"] or info["mismatched_keys"]:
        lost = sorted([*info["missing_keys"], *info["mismatched_keys"]])
        raise UserError(f"The weights of '{source}' are incomplete: {len(lost)} tensors, the first is {lost[0]}.")
    known = int((rows >= 0).sum())
    if known < len(rows) // 10:
        raise UserError(
            f"The tokenizer of '{source}' knows {known} of the student's {len(rows)} tokens; is it the one that the "
            "model was trained with? (A folder without tokenizer files looks like this.)"
        )
    weights = old.state_dict()
    for part in (old.get_input_embeddings(), old.get_output_embeddings()):
        for name, value in _named(old, part).items():
            weights[name] = _choose_rows(value, rows)
    model.load_state_dict(weights)
    return known


def matching_rows(student: Any, other: Any, size: int) -> Tensor:
    """int64 [size]: for each id of the student the other tokenizer's id, -1 = none."""
    by_bytes = {word: token_id for token_id, word in enumerate(token_bytes(other)) if word is not None}
    vocabulary = other.get_vocab()
    rows = torch.full((size,), -1)
    for token_id, word in enumerate(token_bytes(student)):
        found = by_bytes.get(word) if word is not None else vocabulary.get(student.convert_ids_to_tokens(token_id))
        if found is not None:
            rows[token_id] = found
    return rows


def _choose_rows(table: Tensor, rows: Tensor) -> Tensor:
    """Rows [V, ...] of a table [W, ...]; where there is none, the table's mean row."""
    known = (rows >= 0) & (rows < len(table))
    chosen = table[torch.where(known, rows, 0)]
    chosen[~known] = table.mean(0)
    return chosen


def _named(model: nn.Module, part: nn.Module) -> dict[str, Tensor]:
    """The part's tensors by their names in the model's state."""
    prefix = next(name for name, module in model.named_modules() if module is part)
    return {f"{prefix}.{name}": value for name, value in part.state_dict().items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
