"""Language models that the person brings: any causal one, and pretrained rows that find their tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from embervlm import EmberVLM, EmberVLMConfig
from embervlm.errors import UserError
from embervlm.model.language import build_language_model, matching_rows
from embervlm.model.tokenizer import student_tokenizer

LLAMA = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def save_gpt2(folder: Path, size: int = 3000) -> GPT2LMHeadModel:
    """A random model in GPT-2's shape with a longer GPT-2 vocabulary, as tinyllm/30M-0.4 is to the default preset."""
    torch.manual_seed(1)
    tokenizer = student_tokenizer(size)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=size + 5, n_embd=32, n_layer=2, n_head=2, n_positions=200))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def test_pretrained_rows_carry_over_to_the_vocabulary_prefix(
    tmp_path: Path, fresh_tiny: Callable[..., EmberVLM]
) -> None:
    old = save_gpt2(tmp_path)
    new = fresh_tiny(language_model=str(tmp_path)).language_model
    rows, before = new.transformer.wte.weight, old.transformer.wte.weight
    assert torch.equal(rows[:2048], before[:2048])
    assert torch.equal(rows[2048], before[3000]), "<|endoftext|> keeps its row under its new id"
    assert new.lm_head.weight is rows
    assert torch.equal(new.transformer.wpe.weight, old.transformer.wpe.weight)
    assert torch.equal(new.transformer.h[1].mlp.c_fc.weight, old.transformer.h[1].mlp.c_fc.weight)


def test_rows_match_by_bytes_not_by_place(tmp_path: Path) -> None:
    """The same id is another word in another tokenizer; unmatched rows start at the mean, not at random."""
    other = student_tokenizer(300)
    other.add_tokens(["xyzzy"])
    student = student_tokenizer(310)
    rows = matching_rows(student, other, 315)
    assert rows[:300].tolist() == list(range(300))
    assert (rows[300:310] == -1).all(), "words that the other tokenizer has not"
    assert rows[310:].tolist() == list(range(300, 305)), "special tokens match by name"


def test_unmatched_rows_start_at_the_mean(tmp_path: Path, fresh_tiny: Callable[..., EmberVLM]) -> None:
    old = save_gpt2(tmp_path, size=1000)
    new = fresh_tiny(language_model=str(tmp_path)).language_model.transformer.wte.weight
    assert torch.allclose(new[1500], old.transformer.wte.weight.mean(0), atol=1e-6)


def test_an_untied_head_carries_over_too(tmp_path: Path, fresh_tiny: Callable[..., EmberVLM]) -> None:
    tokenizer = student_tokenizer(2500)
    torch.manual_seed(2)
    old = LlamaForCausalLM(LlamaConfig(**LLAMA, vocab_size=len(tokenizer), tie_word_embeddings=False))
    old.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = fresh_tiny(language_model=str(tmp_path))
    assert torch.equal(model.language_model.lm_head.weight[:2048], old.lm_head.weight[:2048])
    assert torch.equal(model.get_input_embeddings().weight[:2048], old.model.embed_tokens.weight[:2048])
    assert not model.config.tie_word_embeddings


def test_any_causal_language_model_takes_gpt2s_place(
    tmp_path: Path, fresh_tiny: Callable[..., EmberVLM], picture: Callable
) -> None:
    model = fresh_tiny(text_config=LLAMA)
    assert isinstance(model.language_model, LlamaForCausalLM)
    assert model.config.text_config.vocab_size == 2053
    batch = model.processor.prompts([picture(0)], ["What is it?"])
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, -2:] = 7
    loss = model(**batch, shift_labels=labels).loss
    loss.backward()
    assert torch.isfinite(loss) and model.projector.narrow.weight.grad.abs().sum() > 0
    model.save_pretrained(tmp_path)
    again = EmberVLM.from_pretrained(tmp_path)
    ask = {"image": picture(0), "prompt": ["a", "b c d"], "max_length": 4}
    assert again.generate(**ask) == model.generate(**ask)


def test_a_folder_without_weights_or_tokenizer_is_refused(tmp_path: Path, fresh_tiny: Callable[..., EmberVLM]) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        fresh_tiny(language_model=str(tmp_path / "nothing"))
    model = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_layer=1, n_head=2))
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"cannot be read|knows \d+ of"):
        fresh_tiny(language_model=str(tmp_path))


def test_incomplete_weights_are_refused(tmp_path: Path, fresh_tiny: Callable[..., EmberVLM]) -> None:
    save_gpt2(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_layer": 3}))
    with pytest.raises(UserError, match="incomplete"):
        fresh_tiny(language_model=str(tmp_path))


def test_logits_that_are_changed_after_the_head_are_refused() -> None:
    """The fused loss multiplies by the head itself and would train another model than the one that answers."""
    config = EmberVLMConfig(text_config={"model_type": "gemma2", "final_logit_softcapping": 30.0}).text_config
    with pytest.raises(UserError, match="final_logit_softcapping"):
        build_language_model(config)
