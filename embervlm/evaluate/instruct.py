"""The guide's instruction following score: 0.4 relevance + 0.3 completeness + 0.3 coherence, each from 0 to 1.

Deterministic, offline, English, and by comparison with one reference, so a relative measure: a right answer in quite
other words scores low. What is compared are *facts*: content words (lower case, number words as digits, plural s off)
and ordered pairs of content words that follow each other in a sentence. Words tell what is spoken of, pairs which
colour belongs to which thing. A fact that the question already names counts a quarter: repeating it is no information.

    relevance     sqrt(w * (w + 7 p) / 8), w and p the weighted F1 of words and of pairs (so one right word earns a
                  little without any pair); times order, see `_order`; halved when one side denies, the other does not
    completeness  the same with weighted recall in place of F1
    coherence     fluency * min(1, relevance / 0.75), so that fluent words about something else earn nothing;
                  fluency is the product of five proxies, see `_fluency`

The reference itself scores exactly 1, an empty answer 0.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from embervlm.evaluate.answers import ARTICLES, NUMBER_WORDS
from embervlm.evaluate.resampling import bootstrap_interval, pictures_of

if TYPE_CHECKING:
    from embervlm.data.record import Record

RELEVANCE, COMPLETENESS, COHERENCE = 0.4, 0.3, 0.3
FREE_STEPS = 0.25  # steps back in the reference, of all steps, that cost nothing: a sentence may be turned around
GIVEN_WEIGHT = 0.25  # of a word that the question already holds
FULL_RELEVANCE = 0.75  # from here on coherence is fluency alone

_AUXILIARIES = frozenset("is are was were be been am do does did has have had can could will would may might".split())
_CONJUNCTIONS = frozenset(("and", "or", "but", "because", "while"))
_PREPOSITIONS = frozenset("in on at of to by for from with into onto over under near between".split())
_PRONOUNS = frozenset("this that these those it its he she they them his her their there here i you we".split())
_OTHER_FUNCTION_WORDS = frozenset("as if so than then also very what which who where when why how being".split())
FUNCTION_WORDS = ARTICLES | _AUXILIARIES | _CONJUNCTIONS | _PREPOSITIONS | _PRONOUNS | _OTHER_FUNCTION_WORDS
_NEGATIONS = frozenset("no not none never nothing nobody neither nor without cannot".split())

_SENTENCE_END = re.compile(r"[.!?\n]+(?=\s|$)")
_WORD = re.compile(r"[^\W_][\w'’]*")


@dataclass(frozen=True)
class InstructionScores:
    score: float
    relevance: float
    completeness: float
    coherence: float


@dataclass(frozen=True)
class InstructResult:
    """Means over a benchmark. `coherence` alone is the guide's fourth target."""

    n: int
    score: float
    relevance: float
    completeness: float
    coherence: float
    interval: tuple[float, float]  # of the score, 95%, percentile bootstrap


@dataclass(frozen=True)
class _Facts:
    sentences: tuple[tuple[str, ...], ...]  # words, in their compared form
    words: Mapping[str, int]  # content words
    pairs: Mapping[tuple[str, str], int]
    denies: bool  # the first sentence holds a negation


def instruction_score(prediction: str, reference: str, question: str = "") -> InstructionScores:
    """Scores of one answer to `question` against its reference; the module's docstring defines them."""
    said, true = _facts(prediction), _facts(reference)
    if not said.sentences or not true.sentences:
        empty = float(not said.sentences and not true.sentences)
        return InstructionScores(empty, empty, empty, empty)
    given = frozenset(word for sentence in _facts(question).sentences for word in sentence)
    word_f1, word_recall = _overlap(said.words, true.words, lambda word: _weight(word, given))
    relevance, completeness = word_f1, word_recall
    if true.pairs:
        pair_f1, pair_recall = _overlap(
            said.pairs, true.pairs, lambda pair: (_weight(pair[0], given) + _weight(pair[1], given)) / 2
        )
        relevance, completeness = _joined(word_f1, pair_f1), _joined(word_recall, pair_recall)
    kept = _order(said, true) * (0.5 if said.denies != true.denies else 1.0)
    relevance, completeness = kept * relevance, kept * completeness
    coherence = _fluency(prediction, reference, question) * min(1.0, relevance / FULL_RELEVANCE)
    score = RELEVANCE * relevance + COMPLETENESS * completeness + COHERENCE * coherence
    return InstructionScores(score, relevance, completeness, coherence)


def score_instruct(records: Sequence[Record], predictions: Sequence[str], seed: int = 0) -> InstructResult:
    """Means over records, the first turn of each."""
    if not records or len(records) != len(predictions):
        raise ValueError(f"{len(predictions)} predictions for {len(records)} records")
    rows = [instruction_score(p, r.response, r.instruction) for p, r in zip(predictions, records, strict=True)]
    scores = np.array([[row.score, row.relevance, row.completeness, row.coherence] for row in rows])
    score, relevance, completeness, coherence = map(float, scores.mean(0))
    interval = bootstrap_interval(scores[:, 0], np.random.default_rng(seed), pictures_of(records))
    return InstructResult(len(rows), score, relevance, completeness, coherence, interval)


@lru_cache(maxsize=1 << 14)
def _facts(text: str) -> _Facts:
    sentences = tuple(words for part in _SENTENCE_END.split(text) if (words := _words(part)))
    content_words: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for sentence in sentences:
        content = [word for word in sentence if word not in FUNCTION_WORDS]
        content_words.update(content)
        pairs.update(zip(content, content[1:], strict=False))
    denies = bool(sentences) and any(word in _NEGATIONS or word.endswith("n't") for word in sentences[0])
    return _Facts(sentences, content_words, pairs, denies)


def _words(text: str) -> tuple[str, ...]:
    return tuple(_form(word) for word in _WORD.findall(text.casefold().replace("’", "'")))


def _form(word: str) -> str:
    word = word.rstrip("'").removesuffix("'s")
    if word in _NEGATIONS:
        return word
    word = NUMBER_WORDS.get(word, word)
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _order(said: _Facts, true: _Facts) -> float:
    """1 where the shared content words come in the reference's order, or in its pieces; 1/2 where they are shuffled.

    Walks through the answer's words that the reference holds, to the next place of each in the reference; a step back
    is one to a word that has no place further on. A shuffle makes half of the steps go back.
    """
    places: dict[str, list[int]] = {}
    for at, word in enumerate(_content(true.sentences)):
        places.setdefault(word, []).append(at)
    left = {word: len(found) for word, found in places.items()}
    at, steps, back = -1, -1, 0
    for word in _content(said.sentences):
        if left.get(word, 0) == 0:
            continue
        left[word] -= 1
        steps += 1
        further = [place for place in places[word] if place > at]
        back += not further
        at = further[0] if further else places[word][0]
    if steps < 2:
        return 1.0
    return 1 - 0.5 * min(1.0, max(0.0, back / steps - FREE_STEPS) / (0.5 - FREE_STEPS))


def _content(sentences: Sequence[Sequence[str]]) -> list[str]:
    return [word for sentence in sentences for word in sentence if word not in FUNCTION_WORDS]


def _joined(words: float, pairs: float) -> float:
    return math.sqrt(words * (words + 7 * pairs) / 8)


def _weight(word: str, given: frozenset[str]) -> float:
    return GIVEN_WEIGHT if word in given else 1.0


def _overlap(said: Mapping, true: Mapping, weight) -> tuple[float, float]:
    """Weighted F1 and recall of two multisets."""
    common = sum(min(count, said[fact]) * weight(fact) for fact, count in true.items() if fact in said)
    said_sum = sum(count * weight(fact) for fact, count in said.items())
    true_sum = sum(count * weight(fact) for fact, count in true.items())
    recall = common / true_sum if true_sum else 1.0
    both = said_sum + true_sum
    return (2 * common / both if both else 1.0), recall


def _fluency(prediction: str, reference: str, question: str) -> float:
    """Product of five proxies, each measured against the reference, which therefore has fluency 1.

    variety: share of distinct word pairs among all of them (loops lower it); grammar: share of articles followed by a
    content word and of prepositions followed by neither a verb form, a conjunction nor the end; ending: one half
    for a missing full stop where the reference has one; length: 1 within a factor of two, then falling as 2 / factor;
    parroting: 1 - the share of the question repeated in one piece, beyond what the reference repeats.
    """
    said, true = _facts(prediction).sentences, _facts(reference).sentences
    variety = min(1.0, _variety(said) / _variety(true))
    grammar = 1 - max(0.0, _grammar(true) - _grammar(said))
    ending = 0.5 if _ends(reference) and not _ends(prediction) else 1.0
    ratio = sum(map(len, said)) / sum(map(len, true))
    length = min(1.0, 2 * min(ratio, 1 / ratio))
    asked = _words(question)
    parroted = max(0.0, _repeated(said, asked) - _repeated(true, asked))
    return variety * grammar * ending * length * (1 - parroted)


def _variety(sentences: Sequence[Sequence[str]]) -> float:
    words = [word for sentence in sentences for word in sentence]
    pairs = list(zip(words, words[1:], strict=False))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def _grammar(sentences: Sequence[Sequence[str]]) -> float:
    fits = []
    for sentence in sentences:
        for word, following in zip(sentence, [*sentence[1:], ""], strict=True):
            if word in ARTICLES:
                fits.append(following not in FUNCTION_WORDS and following != "")
            elif word in _PREPOSITIONS:
                fits.append(following not in _AUXILIARIES | _CONJUNCTIONS and following != "")
    return sum(fits) / len(fits) if fits else 1.0


def _ends(text: str) -> bool:
    return text.rstrip().rstrip("\"')”’").endswith((".", "!", "?"))


def _repeated(sentences: Sequence[Sequence[str]], asked: Sequence[str]) -> float:
    """Longest run of the question's words in a sentence, as a share of the question; one or two words are no run."""
    longest = 0
    for sentence in sentences:
        previous = [0] * (len(asked) + 1)
        for word in sentence:
            current = [0] * (len(asked) + 1)
            for at, other in enumerate(asked):
                if word == other:
                    current[at + 1] = previous[at] + 1
            longest = max(longest, max(current))
            previous = current
    return longest / len(asked) if longest > 2 else 0.0
