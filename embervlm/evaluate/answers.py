"""The one normaliser of answers: what the official VQA-v2 scorer does to a string, peculiarities included.

Follows `PythonEvaluationTools/vqaEvaluation/vqaEval.py` of GT-Vision-Lab/VQA at a013f004 (2021-03). Nothing is mended:
a number that differs from the official one cannot be compared with anybody's.
"""

from __future__ import annotations

import re
from functools import lru_cache

NUMBER_WORDS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
ARTICLES = frozenset({"a", "an", "the"})

# The official table maps each of these with one apostrophe left out to the word itself ("couldn'tve" and "couldnt've"
# to "couldn't've"). Its capital keys (Id've, Im, Ive) can never match a lower-cased word and are not repeated.
_CONTRACTED = """
'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'd've y'all'll you'd you'd've you'll you're you've
""".split()
CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word for word in _CONTRACTED for at, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}  # backwards in the official table, too

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d", re.ASCII)
# The official pattern is "(?!<=\d)(\.)(?!\d)": the left half is a misspelt look-behind that always holds.
_PERIOD = re.compile(r"\.(?!\d)", re.ASCII)
_MOST_PERIODS = 32  # re.UNICODE, passed where the count belongs


def strip_blanks(answer: str) -> str:
    """Line breaks and tabs to blanks, then the ends stripped: the only step for unanimous answers."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 16)
def normalise(answer: str) -> str:
    """Punctuation, lower case, number words, articles, contractions: in the official order.

    Expects the output of `strip_blanks`; the official scorer applies this only where the humans disagree.
    """
    words = []
    for word in without_punctuation(answer).lower().split():
        word = NUMBER_WORDS.get(word, word)
        if word not in ARTICLES:
            words.append(CONTRACTIONS.get(word, word))
    return " ".join(words)


def without_punctuation(answer: str) -> str:
    """A mark that touches a blank somewhere is deleted, any other becomes a blank; "1,000" deletes all of them."""
    delete_all = _COMMA_IN_NUMBER.search(answer) is not None
    text = answer
    for mark in _PUNCTUATION:
        touches_blank = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if delete_all or touches_blank else " ")
    return _PERIOD.sub("", text, count=_MOST_PERIODS)
