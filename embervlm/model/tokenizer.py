"""The student's tokenizer: a prefix of GPT-2's byte-level BPE, with digits split singly, and five special tokens."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from embervlm.bpe import VOCABULARY, student_bpe

EOS, PAD, IMAGE, USER, ASSISTANT = "<|endoftext|>", "<|pad|>", "<image>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = (EOS, PAD, IMAGE, USER, ASSISTANT)


def student_tokenizer(size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """The first `size` tokens of GPT-2, then the five special tokens. Padding is on the left, for generation."""
    return with_special_tokens(student_bpe(size))


def with_special_tokens(backend: Tokenizer) -> PreTrainedTokenizerFast:
    """A student's tokenizer of other tokens than GPT-2's: these, which are changed in place, then the special ones."""
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens=[IMAGE, USER, ASSISTANT],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=1_000_000,
    )
