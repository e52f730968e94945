"""`qwen.tiktoken`, the vocabulary of Qwen-VL, as a fast tokenizer with offsets."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from embervlm.errors import UserError

VOCABULARY = "qwen.tiktoken"
IMAGE_TOKEN = "<imgpad>"
FIRST_SPECIAL = 151_643
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *(f"<|extra_{number}|>" for number in range(205)),
    *("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", IMAGE_TOKEN),
)
APART = "\ufdd0"
"""A character that no text has. What is written <\ufdd0|im_end|> is read as the ordinary characters <|im_end|>: special
tokens are looked for before this is dropped."""


class _Ranks(TikTokenConverter):
    """Reads the file without the package tiktoken."""

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        lines = Path(tiktoken_url).read_bytes().split(b"\n")
        return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}


def load_tokenizer(folder: Path, max_length: int = 8192) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder that holds qwen.tiktoken. NFC, then Qwen's pattern, then BPE by rank; no prefix.

    Raises:
        UserError: no such file, or one that is not a list of tokens and ranks.
    """
    path = folder / VOCABULARY
    try:
        vocabulary, merges = _Ranks().extract_vocab_merges_from_model(str(path))
    except FileNotFoundError:
        raise UserError(
            f"{folder} has no {VOCABULARY}, the vocabulary of Qwen-VL; download the teacher again"
        ) from None
    except (ValueError, binascii.Error) as error:
        raise UserError(f"{path} is not a list of tokens and ranks ({error}); download the teacher again") from None
    vocabulary |= {token: FIRST_SPECIAL + number for number, token in enumerate(SPECIAL_TOKENS)}
    backend = Tokenizer(models.BPE(vocabulary, merges, fuse_unk=False, ignore_merges=True))
    backend.normalizer = normalizers.Sequence([normalizers.Replace(APART, ""), normalizers.NFC()])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.padding_side = "left"
    return tokenizer
