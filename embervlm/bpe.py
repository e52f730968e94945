"""The student's byte-level BPE as `tokenizers` has it: a prefix of GPT-2's, digits split singly. No transformers."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from embervlm.errors import UserError
from embervlm.tokens import BYTE_ALPHABET

VOCABULARY = 25_600

# GPT-2's pattern with one change: a digit stands alone and takes no blank, as in the teachers' tokenizers.
# " 2019" becomes " ", "2", "0", "1", "9".
SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@lru_cache(maxsize=1)
def _merges() -> tuple[tuple[str, str], ...]:
    """GPT-2's merges in order; merge i makes token 256 + i."""
    text = (files("embervlm") / "model" / "assets" / "gpt2_merges.txt").read_text(encoding="utf-8")
    return tuple((left, right) for left, right in (line.split(" ") for line in text.splitlines()))


def student_bpe(size: int = VOCABULARY) -> Tokenizer:
    """The first `size` tokens of GPT-2 (256 bytes, then one token a merge) and no special ones.

    BPE ids are in merge order, so any prefix is a complete tokenizer, and ids agree with GPT-2's.
    """
    if not 256 <= size <= VOCABULARY:
        raise UserError(f"a vocabulary of {size} tokens was asked for; choose a size between 256 and {VOCABULARY}")
    merges = _merges()[: size - 256]
    words = [*BYTE_ALPHABET.values(), *(left + right for left, right in merges)]
    # GPT-2 numbers the printable bytes first, the shifted ones after them: the order of their characters.
    words[:256] = sorted(words[:256])
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend
