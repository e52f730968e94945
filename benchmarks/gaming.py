"""Whether the instruction score can be gamed: answers that people know to be bad or good, and what they get.

    python -m benchmarks.gaming                            # seconds
    python -m benchmarks.gaming --write docs/evaluation.md # puts the tables between the marks of that file

Written by hand: six questions with answers of every kind. Shuffled references are means over `SHUFFLES` orders.
Embedded world: the first question of each conversation of val as `embervlm toy` writes it, seed 0, 500 pictures.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import mean

from embervlm.data.toyworld import write_toy
from embervlm.evaluate.instruct import FUNCTION_WORDS, InstructionScores, instruction_score

SHUFFLES = 60
BEGIN, END = "<!-- python -m benchmarks.gaming -->", "<!-- end of python -m benchmarks.gaming -->"


@dataclass(frozen=True)
class Example:
    """A question with its reference, and answers whose worth nobody doubts."""

    question: str
    reference: str
    one_word: str
    other_picture: str
    short: str
    paraphrase: str
    other_words: str


EXAMPLES = (
    Example(
        "What is the dog doing?",
        "The brown dog is catching a red frisbee on the beach while two children watch.",
        "frisbee",
        "A man in a blue shirt is riding a bicycle down a busy city street.",
        "It is catching a red frisbee on the beach.",
        "On the beach, a brown dog is catching a red frisbee as two children watch it.",
        "A chocolate-coloured puppy leaps for a crimson flying disc by the sea, and a pair of kids looks on.",
    ),
    Example(
        "What are the people at the table doing?",
        "Three people are sitting at a round wooden table and eating pizza with mushrooms.",
        "pizza",
        "A white boat with a tall mast is sailing past a small green island.",
        "They are eating pizza with mushrooms.",
        "At a round wooden table three people are sitting, eating pizza with mushrooms.",
        "A trio shares a mushroom pie around a circular desk made of timber.",
    ),
    Example(
        "What color is the bus, and where is it parked?",
        "The bus is bright yellow, and it is parked in front of a brick school.",
        "yellow",
        "The two giraffes are standing behind a wooden fence and eating leaves.",
        "The bus is yellow.",
        "It is a bright yellow bus that is parked in front of a brick school.",
        "A lemon-coloured coach waits outside an educational building.",
    ),
    Example(
        "What does the star look like?",
        "The star is small, plain and red.",
        "red",
        "A plane is landing on a wet runway at night.",
        "It is red.",
        "It is a small, plain, red star.",
        "Tiny, without any pattern, scarlet.",
    ),
    Example(
        "Where is the lamp?",
        "The tall lamp is on the left side of the small wooden desk.",
        "desk",
        "Several cows are grazing in a field under a cloudy sky.",
        "On the left side of the desk.",
        "It is on the left side of the small wooden desk, a tall lamp.",
        "To your left at the edge of the little bureau.",
    ),
    Example(
        "What is the man holding?",
        "The man is holding a black umbrella and a brown leather bag.",
        "umbrella",
        "Fresh vegetables are piled high on a market stall.",
        "An umbrella and a bag.",
        "A black umbrella and a brown leather bag are held by the man.",
        "He carries something against the rain, and luggage.",
    ),
)

KINDS: dict[str, Callable[[Example], Sequence[str]]] = {
    "nothing": lambda e: [""],
    '"yes yes yes"': lambda e: ["yes yes yes"],
    "the question repeated": lambda e: [e.question],
    "a fluent answer about another picture": lambda e: [e.other_picture],
    "one word of the reference": lambda e: [e.one_word],
    "the reference shuffled": lambda e: [shuffled(e.reference, seed) for seed in range(SHUFFLES)],
    "right but short": lambda e: [e.short],
    "a paraphrase": lambda e: [e.paraphrase],
    "the reference": lambda e: [e.reference],
    "the same in quite other words": lambda e: [e.other_words],
}
"""In the order that a person would give, but the last: what the score does not see."""

ORDER = (
    ("nothing", '"yes yes yes"', "the question repeated", "a fluent answer about another picture"),
    ("one word of the reference", "the reference shuffled"),
    ("right but short",),
    ("a paraphrase",),
    ("the reference",),
)
"""Worthless, nearly so, partly right, right, perfect."""

CONSTANTS = (
    "yes",
    "red",
    "None of the shapes is large.",
    "The image shows a red circle.",
    "The red circle is at the top left of the picture.",
    "There are two shapes: a red circle and a blue square.",
    "The picture shows two shapes on a light background.",
    "The picture shows three shapes on a light background. A small plain red circle is at the top left. A large "
    "striped blue square is in the center. A small dotted green star is at the bottom right.",
)


def shuffled(text: str, seed: int) -> str:
    words = text.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)


@cache
def by_kind() -> dict[str, list[InstructionScores]]:
    """For each kind the scores of each example, means over shuffles."""
    return {kind: [_mean_of(make(e), e.reference, e.question) for e in EXAMPLES] for kind, make in KINDS.items()}


@cache
def world() -> tuple[tuple[str, str], ...]:
    """(question, reference) of the embedded world's val."""
    with tempfile.TemporaryDirectory() as folder:
        write_toy(Path(folder), train_images=1, val_images=500, seed=0)
        rows = json.loads((Path(folder) / "llava_instruct_val.json").read_text(encoding="utf-8"))
    first = [(row["conversations"][0]["value"], row["conversations"][1]["value"]) for row in rows]
    return tuple((question.replace("<image>", "").strip(), answer) for question, answer in first)


@cache
def on_the_world() -> dict[str, float]:
    """Mean scores over the embedded world: of constant answers, and of what can be made from question and reference."""
    asked = world()
    answers: dict[str, list[str]] = {
        "the question repeated": [question for question, _ in asked],
        "one word of the reference": [_longest_word(reference) for _, reference in asked],
        "the reference shuffled": [shuffled(reference, at) for at, (_, reference) in enumerate(asked)],
        "the answer to the same question about another picture": [_other(at) for at in range(len(asked))],
        "the reference": [reference for _, reference in asked],
    }
    found = {kind: _over_world(said) for kind, said in answers.items()}
    return found | {f'always "{constant}"': _over_world([constant] * len(asked)) for constant in CONSTANTS}


def render() -> str:
    """Both tables as Markdown."""
    lines = ["| answer | example | relevance | completeness | coherence | score | mean of six questions |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for kind, scores in by_kind().items():
        said = KINDS[kind](EXAMPLES[0])[0]
        first = scores[0]
        parts = " | ".join(f"{value:.2f}" for value in (first.relevance, first.completeness, first.coherence))
        lines.append(f"| {kind} | {said} | {parts} | {first.score:.2f} | {mean(s.score for s in scores):.2f} |")
    lines += ["", f"| answer to each of the {len(world())} questions of the embedded world | mean score |", "|---|---|"]
    lines += [f"| {kind} | {score:.2f} |" for kind, score in on_the_world().items()]
    return "\n".join(lines)


def between_marks(text: str) -> str:
    """What stands between the marks of a document."""
    return text.split(BEGIN, 1)[1].split(END, 1)[0].strip()


def _mean_of(answers: Sequence[str], reference: str, question: str) -> InstructionScores:
    rows = [asdict(instruction_score(answer, reference, question)) for answer in answers]
    return InstructionScores(**{part: mean(row[part] for row in rows) for part in rows[0]})


def _over_world(answers: Sequence[str]) -> float:
    pairs = zip(answers, world(), strict=True)
    return mean(instruction_score(answer, reference, question).score for answer, (question, reference) in pairs)


def _longest_word(reference: str) -> str:
    words = [word.strip(".,:").lower() for word in reference.split()]
    return max((word for word in words if word not in FUNCTION_WORDS), key=len)


def _other(at: int) -> str:
    question, reference = world()[at]
    later = [*world()[at + 1 :], *world()[:at]]
    return next((other for asked, other in later if asked == question and other != reference), later[0][1])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", type=Path, help="document whose tables are to be replaced")
    parser.add_argument("--quick", action="store_true", help="nothing is slow here")
    settings = parser.parse_args()
    tables = render()
    print(tables)
    if settings.write is not None:
        text = settings.write.read_text(encoding="utf-8")
        before, after = text.split(BEGIN, 1)[0], text.split(END, 1)[1]
        settings.write.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}", encoding="utf-8")
    means = {kind: round(mean(score.score for score in scores), 4) for kind, scores in by_kind().items()}
    print(json.dumps({"benchmark": "gaming", "six_questions": means, "embedded_world": on_the_world()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
