"""Ten annotators who sometimes disagree, as VQA's do."""

from __future__ import annotations

import random

from embervlm.data.toyworld.questions import ANIMALS, FRUITS
from embervlm.data.toyworld.scene import COLOURS, SHAPES, TEXTURES

# answer -> what else people say for it, with the share of people who do.
_OTHER_WORDS: dict[str, tuple[tuple[str, float], ...]] = {
    "turquoise": (("blue", 0.12), ("green", 0.08), ("teal", 0.06)),
    "chartreuse": (("green", 0.14), ("yellow", 0.06), ("lime green", 0.06)),
    "purple": (("violet", 0.06), ("blue", 0.02)),
    "orange": (("red", 0.03),),
    "trapezoid": (("square", 0.05), ("quadrilateral", 0.05)),
    "center": (("middle", 0.2),),
    "top left": (("upper left", 0.12), ("left", 0.04)),
    "top right": (("upper right", 0.12), ("right", 0.04)),
    "bottom left": (("lower left", 0.12), ("left", 0.04)),
    "bottom right": (("lower right", 0.12), ("right", 0.04)),
    "plain": (("solid", 0.15), ("none", 0.05)),
    "dotted": (("polka dot", 0.12), ("dots", 0.08)),
    "striped": (("stripes", 0.15),),
}
_SLIP = 0.06  # share of plainly wrong answers


def answer_of_one(answer: str, rng: random.Random) -> str:
    """What one person says whose true answer would be `answer`."""
    if rng.random() < _SLIP:
        return _slip(answer, rng)
    draw = rng.random()
    for words, share in _OTHER_WORDS.get(answer, ()):
        if draw < share:
            return words
        draw -= share
    return answer


def ten_answers(answer: str, rng: random.Random) -> list[str]:
    """VQA-v2: ten people."""
    return [answer_of_one(answer, rng) for _ in range(10)]


def five_answers_twice(answer: str, rng: random.Random) -> list[str]:
    """OK-VQA: five people, each counted twice; knowledge questions have several right answers."""
    also = next((words for words in (*FRUITS.values(), *ANIMALS.values()) if words[0] == answer), (answer,))
    people = [answer_of_one(also[min(int(rng.expovariate(1.6)), len(also) - 1)], rng) for _ in range(5)]
    return [said for said in people for _ in range(2)]


def _slip(answer: str, rng: random.Random) -> str:
    if answer in ("yes", "no"):
        return "no" if answer == "yes" else "yes"
    if answer.isdigit():
        return str(max(0, int(answer) + rng.choice((-1, 1))))
    for words in (COLOURS, SHAPES, TEXTURES):
        if answer in words:
            return rng.choice([word for word in words if word != answer])
    return answer
