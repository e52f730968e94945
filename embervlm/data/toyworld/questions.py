"""Questions in the manner of VQA-v2 and OK-VQA: templates over a scene, with the true answer of each.

A template returns *every* question it can ask of a scene; `Interviewer` picks among them so that the answers within
each template stay balanced, which is what keeps a model that does not look at the picture from guessing well.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from embervlm.data.toyworld.scene import COLOURS, PLACES, SHAPES, TEXTURES, Scene, Thing


@dataclass(frozen=True, slots=True)
class Asked:
    """One question about one scene. `template` becomes the official `question_type`."""

    template: str
    answer_type: str
    question: str
    answer: str


Pairs = list[tuple[str, str]]


def _once(scene: Scene, attribute: str) -> list[Thing]:
    """The things that are alone in the scene with their value of `attribute`: they can be named by it."""
    counts = Counter(getattr(thing, attribute) for thing in scene.things)
    return [thing for thing in scene.things if counts[getattr(thing, attribute)] == 1]


def _in_place(place: str) -> str:
    return "in the center" if place == "center" else f"at the {place}"


def _yes_no(truth: bool) -> str:
    return "yes" if truth else "no"


def is_there(scene: Scene) -> Pairs:
    present = {(t.colour, t.shape) for t in scene.things}
    colours, shapes = {t.colour for t in scene.things}, {t.shape for t in scene.things}
    # The wrong ones are hard: the colour and the shape are both in the picture, on different things.
    return [
        (f"Is there a {c} {s}?".replace("a orange", "an orange"), _yes_no((c, s) in present))
        for c in COLOURS if c in colours for s in SHAPES if s in shapes
    ]  # fmt: skip


def is_shape_colour(scene: Scene) -> Pairs:
    colours = {t.colour for t in scene.things}
    return [
        (f"Is the {t.shape} {c}?", _yes_no(t.colour == c))
        for t in _once(scene, "shape")
        for c in COLOURS
        if c in colours
    ]


def is_shape_textured(scene: Scene) -> Pairs:
    return [(f"Is the {t.shape} {x}?", _yes_no(t.texture == x)) for t in _once(scene, "shape") for x in TEXTURES]


def any_textured(scene: Scene) -> Pairs:
    present = {t.texture for t in scene.things}
    return [(f"Are any of the shapes {x}?", _yes_no(x in present)) for x in TEXTURES]


def how_many_shapes(scene: Scene) -> Pairs:
    return [("How many shapes are there?", str(len(scene.things)))]


def how_many_of_colour(scene: Scene) -> Pairs:
    counts = Counter(t.colour for t in scene.things)
    return [(f"How many {c} shapes are there?", str(n)) for c, n in sorted(counts.items())]


def how_many_of_shape(scene: Scene) -> Pairs:
    counts = Counter(t.shape for t in scene.things)
    return [(f"How many {s}s are there?", str(n)) for s, n in sorted(counts.items())]


def colour_of_shape(scene: Scene) -> Pairs:
    return [(f"What color is the {t.shape}?", t.colour) for t in _once(scene, "shape")]


def shape_of_colour(scene: Scene) -> Pairs:
    return [(f"What is the {t.colour} shape?", t.shape) for t in _once(scene, "colour")]


def texture_of_shape(scene: Scene) -> Pairs:
    return [(f"What is the pattern of the {t.shape}?", t.texture) for t in _once(scene, "shape")]


def place_of_shape(scene: Scene) -> Pairs:
    return [(f"Where is the {t.shape}?", t.place) for t in _once(scene, "shape")]


def colour_at_place(scene: Scene) -> Pairs:
    return [(f"What color is the shape {_in_place(t.place)}?", t.colour) for t in scene.things]


def shape_at_place(scene: Scene) -> Pairs:
    return [(f"What shape is {_in_place(t.place)}?", t.shape) for t in scene.things]


def shape_beside(scene: Scene) -> Pairs:
    """Asked only where exactly one thing lies on that side."""
    sides: dict[str, Callable[[Thing, Thing], bool]] = {
        "to the left of": lambda a, b: a.column < b.column,
        "to the right of": lambda a, b: a.column > b.column,
        "above": lambda a, b: a.row < b.row,
        "below": lambda a, b: a.row > b.row,
    }
    found = []
    for named in _once(scene, "shape"):
        for words, lies in sides.items():
            others = [t for t in scene.things if t is not named and lies(t, named)]
            if len(others) == 1:
                found.append((f"What shape is {words} the {named.shape}?", others[0].shape))
    return found


# name -> (answer type, questions). The name is the official file's question_type.
VQA_TEMPLATES: dict[str, tuple[str, Callable[[Scene], Pairs]]] = {
    "is there a": ("yes/no", is_there),
    "is the SHAPE COLOR": ("yes/no", is_shape_colour),
    "is the SHAPE PATTERN": ("yes/no", is_shape_textured),
    "are any of the shapes": ("yes/no", any_textured),
    "how many shapes": ("number", how_many_shapes),
    "how many COLOR": ("number", how_many_of_colour),
    "how many SHAPE": ("number", how_many_of_shape),
    "what color is the SHAPE": ("other", colour_of_shape),
    "what is the COLOR shape": ("other", shape_of_colour),
    "what is the pattern of": ("other", texture_of_shape),
    "where is the SHAPE": ("other", place_of_shape),
    "what color is at PLACE": ("other", colour_at_place),
    "what shape is at PLACE": ("other", shape_at_place),
    "what shape is beside": ("other", shape_beside),
}
VQA_SHARES = {"yes/no": 0.4, "number": 0.1, "other": 0.5}  # VQA-v2's shares, rounded

# The facts that OK-VQA's questions need and no picture shows; the first answer is the usual one.
FRUITS = {
    "red": ("strawberry", "cherry", "apple"),
    "green": ("lime", "kiwi"),
    "blue": ("blueberry",),
    "yellow": ("banana", "lemon"),
    "purple": ("grape", "plum"),
    "orange": ("orange", "tangerine"),
    "chartreuse": ("pear",),
}
ANIMALS = {"striped": ("zebra", "tiger"), "dotted": ("ladybug", "dalmatian", "leopard")}
CORNERS = {"triangle": 3, "square": 4, "trapezoid": 4, "star": 5}
ROLES = {
    "circle": "could roll down a hill",
    "heart": "stands for love",
    "star": "shines in the night sky",
    "triangle": "has three sides",
    "square": "has four equal sides",
}


def fruit_of_colour(scene: Scene) -> Pairs:
    return [
        (f"Which fruit has the same color as the {t.shape}?", FRUITS[t.colour][0])
        for t in _once(scene, "shape") if t.colour in FRUITS
    ]  # fmt: skip


def animal_of_texture(scene: Scene) -> Pairs:
    return [
        (f"Which animal has a coat like the {t.shape}?", ANIMALS[t.texture][0])
        for t in _once(scene, "shape") if t.texture in ANIMALS
    ]  # fmt: skip


def colour_of_role(scene: Scene) -> Pairs:
    return [
        (f"What color is the shape that {ROLES[t.shape]}?", t.colour)
        for t in _once(scene, "shape") if t.shape in ROLES
    ]  # fmt: skip


def corners_together(scene: Scene) -> Pairs:
    """Counting times a fact; the answers reach 20."""
    counts = Counter(t.shape for t in scene.things)
    return [
        (f"How many corners do all the {s}s have together?", str(CORNERS[s] * n))
        for s, n in sorted(counts.items()) if s in CORNERS
    ]  # fmt: skip


OKVQA_TEMPLATES: dict[str, Callable[[Scene], Pairs]] = {
    "five": fruit_of_colour,
    "eight": animal_of_texture,
    "nine": corners_together,
    "other": colour_of_role,
}
OKVQA_TYPE_NAMES = {  # the official codes of the categories these templates belong to
    "five": "Cooking and Food",
    "eight": "Plants and Animals",
    "nine": "Science and Technology",
    "other": "Other",
}


class Interviewer:
    """Chooses questions so that, within each template, every answer is asked about equally often."""

    def __init__(self) -> None:
        self._answers: dict[str, Counter[str]] = {}
        self._types: Counter[str] = Counter()

    def vqa(self, scene: Scene, rng: random.Random, count: int) -> list[Asked]:
        """Up to `count` different questions about a scene in VQA-v2's shares of answer types."""
        asked: list[Asked] = []
        for _ in range(count):
            total = sum(self._types.values()) + 1
            kind = max(VQA_SHARES, key=lambda k: VQA_SHARES[k] * total - self._types[k] + rng.random() * 0.5)
            templates = [(name, ask) for name, (type_, ask) in VQA_TEMPLATES.items() if type_ == kind]
            choice = self._choose(scene, rng, templates, {a.question for a in asked})
            if choice:
                self._types[kind] += 1
                asked.append(Asked(choice[0], kind, *choice[1]))
        return asked

    def okvqa(self, scene: Scene, rng: random.Random) -> Asked | None:
        """One question that needs a fact, or None where the scene allows none."""
        choice = self._choose(scene, rng, list(OKVQA_TEMPLATES.items()), set())
        return Asked(choice[0], "other", *choice[1]) if choice else None

    def _choose(
        self,
        scene: Scene,
        rng: random.Random,
        templates: list[tuple[str, Callable[[Scene], Pairs]]],
        taken: set[str],
    ) -> tuple[str, tuple[str, str]] | None:
        rng.shuffle(templates)
        for name, ask in templates:
            pairs = [pair for pair in ask(scene) if pair[0] not in taken]
            if pairs:
                seen = self._answers.setdefault(name, Counter())
                rng.shuffle(pairs)
                pair = min(pairs, key=lambda pair: seen[pair[1]])
                # A rare answer may still be over-asked where it is the only one on offer: ask another template then.
                if seen[pair[1]] > 1.6 * (sum(seen.values()) / max(1, len(seen))) + 12:
                    continue
                seen[pair[1]] += 1
                return name, pair
        return None


def place_words(place: str) -> str:
    """The place in a sentence: "at the top left", "in the center"."""
    if place not in PLACES:
        raise KeyError(place)
    return _in_place(place)
