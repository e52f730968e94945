"""Captions, descriptions and conversations about a scene, as in LLaVA's pretraining and instruction files."""

from __future__ import annotations

import random
from collections import Counter

from embervlm.data.toyworld.questions import place_words
from embervlm.data.toyworld.scene import Scene, Thing

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTION_PROMPTS = (
    "Describe the image concisely.",
    "Provide a brief description of the given image.",
    "What is this?",
    "Give a short and clear explanation of the image.",
)
_DETAIL_PROMPTS = (
    "Describe this image in detail.",
    "What do you see happening in this image?",
    "Can you describe the picture, naming each shape?",
)


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _full(thing: Thing) -> str:
    return f"{thing.size} {thing.texture} {thing.colour} {thing.shape}"


def caption(scene: Scene) -> str:
    """Names every thing and where it is: it warms the vision encoder, not only the projector."""
    return _join([f"{_a(_full(t))} {place_words(t.place)}" for t in scene.things])


def description(scene: Scene) -> str:
    """Sentences, one for each thing, in reading order."""
    count = NUMBER_WORDS[len(scene.things)]
    sentences = [f"The picture shows {count} shapes on a light background."]
    for thing in scene.things:
        sentences.append(f"{_a(_full(thing)).capitalize()} is {place_words(thing.place)}.")
    return " ".join(sentences)


def _summary(scene: Scene) -> str:
    named = _join([_a(f"{t.colour} {t.shape}") for t in scene.things])
    return f"There are {NUMBER_WORDS[len(scene.things)]} shapes: {named}."


def _turns(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """Everything one could ask in a conversation, each answered in a sentence."""
    shapes = Counter(t.shape for t in scene.things)
    turns = []
    for thing in scene.things:
        if shapes[thing.shape] == 1:
            name = f"{thing.colour} {thing.shape}"
            turns += [
                (
                    f"What does the {thing.shape} look like?",
                    f"The {thing.shape} is {thing.size}, {thing.texture} and {thing.colour}.",
                ),
                (f"Where can I find the {thing.shape}?", f"The {name} is {place_words(thing.place)} of the picture."),
            ]
    big = [t for t in scene.things if t.size == "large"]
    if big:
        turns.append(
            ("Which shapes are large?", f"The large shapes are {_join([_a(f'{t.colour} {t.shape}') for t in big])}.")
        )
    else:
        turns.append(("Which shapes are large?", "None of the shapes is large."))
    textured = [t for t in scene.things if t.texture != "plain"]
    if textured:
        named = _join([_a(f"{t.texture} {t.shape}") for t in textured])
        turns.append(("Do any of the shapes have a pattern?", f"Yes, there is {named}."))
    else:
        turns.append(("Do any of the shapes have a pattern?", "No, all of the shapes are plain."))
    rng.shuffle(turns)
    return turns


def conversation(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """One LLaVA row: a detailed description, one question, or a conversation of several turns."""
    kind = rng.random()
    if kind < 0.25:
        return [(rng.choice(_DETAIL_PROMPTS), description(scene))]
    turns = _turns(scene, rng)
    if kind < 0.55:
        return turns[:1]
    opening = [("What shapes are in the picture?", _summary(scene))]
    return opening + turns[: rng.randint(1, 3)]
