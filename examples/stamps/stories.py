"""Captions and conversations about a labelled stamp, in the words of LLaVA's files."""

from __future__ import annotations

import random
from collections.abc import Iterable

from labels import Label
from questions import an

CAPTION_PROMPTS = (
    "Describe the image concisely.",
    "Provide a brief description of the given image.",
    "Give a short and clear explanation of the image.",
    "Write a terse but informative summary of the picture.",
    "Summarize the visual content of the image.",
)
_UNCOUNTED = set(
    "bread cheese coffee corn broccoli garlic lettuce ginger fire hair confetti lavender knitting clothing food".split()
)
_PROPER = set("mercury venus mars jupiter saturn uranus neptune pluto".split())
_THE = ("earth", "sun", "moon", "full moon", "eiffel tower")
# Kinds whose names are no nouns: "b" is said "the letter b".
_SAID: dict[str, str] = {
    "letter": "the letter {}",
    "hand sign": "the sign for the letter {}",
    "road sign": 'a road sign that says "{}"',
    "math symbol": 'the math symbol "{}"',
}


def named(words: str) -> str:
    """The words with the article they take: "an owl", "scissors", "bread", "the moon"."""
    last = words.split()[-1]
    if words in _THE:
        return f"the {words}"
    if words in _PROPER:
        return words.capitalize()
    uncounted = last in _UNCOUNTED and " of " not in words
    return words if uncounted or _plural(words) else an(words)


def _plural(words: str) -> bool:
    last = words.split()[-1]
    return words.startswith("two ") or (last.endswith("s") and not last.endswith(("ss", "us", "is", "crossroads")))


def thing(label: Label) -> str:
    """What the label names, with its article; "" when it names nothing."""
    if label.name and label.kind in _SAID:
        return _SAID[label.kind].format(label.name)
    return named(label.name or label.subkind or label.kind) if label.name or label.kind else ""


def told(label: Label, description: str) -> str:
    """One sentence from the label: what it is, of which kind, photo or drawing; else the stamp's own description."""
    if not thing(label):
        return description
    start = f"A {label.style} of" if label.style else "The picture shows"
    sort = label.subkind or label.kind
    more = f", {named(sort)}" if label.name and sort and sort not in label.name and label.kind not in _SAID else ""
    return f"{start} {thing(label)}{more}."


def turns(label: Label, description: str, rng: random.Random) -> list[tuple[str, str]]:
    """(question, answer) turns of a conversation: what is it, what kind of thing, two facts, a description."""
    facts = list(_facts(label))
    rng.shuffle(facts)
    opening = []
    if label.name:
        asked = rng.choice(("What is this?", "What do you see in the picture?", "Can you tell me what this is?"))
        opening.append((asked, f"{'These are' if _plural(label.name) else 'This is'} {thing(label)}."))
    if label.kind:
        asked = rng.choice(("What kind of thing is it?", "What sort of thing is in the picture?"))
        more = f", more exactly {named(label.subkind)}" if label.subkind else ""
        opening.append((asked, f"It is {named(label.kind)}{more}."))
    asked = rng.choice(
        ("Describe the picture.", "Please describe the picture in a sentence.", "What does the picture show?")
    )
    return opening + facts[:2] + [(asked, told(label, description))]


def _facts(label: Label) -> Iterable[tuple[str, str]]:
    fact = label.facts
    if "color" in fact:
        yield "What color is it?", f"It is {fact['color']}."
    if label.style:
        yield "Is it a photo or a drawing?", f"It is a {label.style}."
    if "edible" in fact:
        yield "Can you eat it?", "Yes, it is food."
    if "flies" in fact:
        yield "Can it fly?", "Yes, it can fly." if fact["flies"] == "yes" else "No, it cannot fly."
    if "legs" in fact:
        yield "How many legs does it have?", f"It has {'no' if fact['legs'] == '0' else fact['legs']} legs."
    if "lives" in fact:
        yield "Where does it live?", f"It lives {fact['lives']}."
    if "case" in fact:
        yield "Is the letter uppercase or lowercase?", f"It is {an(fact['case'])} letter."
    if "fill" in fact:
        yield "Is the letter filled or outlined?", f"The letter is {fact['fill']}."
    if "wheels" in fact:
        yield "How many wheels are there?", f"There {'is' if fact['wheels'] == '1' else 'are'} {fact['wheels']}."
