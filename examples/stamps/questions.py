"""VQA-style questions about labelled stamps, balanced so that not looking at the picture does not pay."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from labels import SYNONYMS, Label

T = TypeVar("T")

SHARES = {"number": 1, "yes/no": 4, "other": 5}  # of ten questions, as in VQA-v2


@dataclass(frozen=True, slots=True)
class Asked:
    picture: int  # index of the picture in its split
    template: str  # becomes the official question_type
    answer_type: str  # "yes/no" | "number" | "other"
    question: str
    answers: tuple[str, ...]  # ten


def an(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def ten(answer: str, other: str = "", others: int = 3) -> tuple[str, ...]:
    """Ten annotators: unanimous, unless another wording is as true; then `others` of them say that."""
    other = other or SYNONYMS.get(answer, "")
    return (answer,) * (10 - others) + (other,) * others if other and other != answer else (answer,) * 10


# ---- open questions: (template, answer type, question, ten answers) that one label allows ----

Open = tuple[str, str, str, tuple[str, ...]]
_NAMED_BY_KIND = {
    "animal": "What animal is this?",
    "letter": "What letter is this?",
    "hand sign": "What letter does this hand sign show?",
    "planet": "What planet is this?",
    "chess piece": "What chess piece is this?",
    "road sign": "What does this sign mean?",
    "person": "Who is this?",
    "musical instrument": "What instrument is this?",
    "math symbol": "What math symbol is this?",
    "building": "What building is this?",
}
_NAMED_BY_SUBKIND = {
    "fruit": "What fruit is this?",
    "vegetable": "What vegetable is this?",
    "bird": "What bird is this?",
}
_SUBKINDS_ASKED = ("animal", "food", "vehicle", "plant", "clothing", "musical instrument", "building")
_UNITS = ("cents", "yen", "euros", "dollars")
_SEVERAL = (
    "pants",
    "jeans",
    "glasses",
    "scissors",
    "pliers",
    "fireworks",
    "binoculars",
    "cherries",
    "grapes",
    "leaves",
    "flowers",
)


def open_questions(label: Label) -> Iterable[Open]:
    fact = label.facts
    if label.kind:
        yield "what kind of thing", "other", "What kind of thing is this?", ten(label.kind)
    if label.subkind and label.kind in _SUBKINDS_ASKED:
        yield f"what kind of {label.kind}", "other", f"What kind of {label.kind} is this?", ten(label.subkind)
    if label.name:
        answers = ten(label.head, "" if label.name == label.head else label.name)
        asked = _NAMED_BY_SUBKIND.get(label.subkind) or _NAMED_BY_KIND.get(label.kind) or "What is this?"
        yield "what is this", "other", asked, answers
        if asked != "What is this?" and label.kind not in ("hand sign", "road sign", "letter"):
            yield "what is this", "other", "What is this?", answers
    if label.style:
        yield "photo or drawing", "other", "Is this a photo or a drawing?", ten(label.style)
    if "color" in fact:
        thing = label.head or "thing"
        verb = "are" if thing.split()[-1] in _SEVERAL else "is"
        yield "what color is the", "other", f"What color {verb} the {thing}?", ten(fact["color"])
        yield "what color is the", "other", "What color is it?", ten(fact["color"])
    if "lives" in fact:
        yield "where does", "other", "Where does this animal live, on land or in water?", ten(fact["lives"])
    if "case" in fact:
        yield "letter case", "other", "Is the letter uppercase or lowercase?", ten(fact["case"])
    if "fill" in fact:
        yield "letter fill", "other", "Is the letter filled or outlined?", ten(fact["fill"])
    if "legs" in fact:
        yield "how many legs", "number", "How many legs does this animal have?", ten(fact["legs"])
        yield "how many legs", "number", "How many legs does it have?", ten(fact["legs"])
    if "wheels" in fact:
        yield "how many wheels", "number", "How many wheels are there in all?", ten(fact["wheels"])
    if "strings" in fact:
        yield "how many strings", "number", "How many strings does this instrument have?", ten(fact["strings"])
    if "count" in fact:
        number, things = fact["count"].split(" ", 1)
        yield "how many are there", "number", f"How many {things} are there?", ten(number)
    if "digit" in fact:
        yield "what number is", "number", "What number is this?", ten(fact["digit"])
        yield "what number is", "number", "Which digit is shown?", ten(fact["digit"])
    for unit in _UNITS:
        if unit in fact:
            yield "how much is this coin", "number", f"How many {unit} is this coin worth?", ten(fact[unit])


# ---- yes/no questions: the pictures that answer yes and those that answer no (a picture may be neither) ----


@dataclass(frozen=True, slots=True)
class Poll:
    template: str
    question: str
    yes: list[int]
    no: list[int]


_NO_FOOD = (
    "vehicle",
    "tool",
    "coin",
    "building",
    "clothing",
    "electronic device",
    "musical instrument",
    "ball",
    "flag",
)
_NOT_BY_NAME = ("", "letter", "hand sign", "planet", "road sign", "math symbol", "body part")


def polls(labels: Sequence[Label]) -> Iterable[Poll]:
    """Every yes/no question that these labels allow. A false name is tried on pictures of its own kind, not on any."""
    those = list(enumerate(labels))
    for kind in sorted({x.kind for x in labels if x.kind}):
        yes = [i for i, x in those if x.kind == kind]
        yield Poll("is this a (kind)", f"Is this {an(kind)}?", yes, [i for i, x in those if x.kind not in ("", kind)])
    for kind, sub in sorted({(x.kind, x.subkind) for x in labels if x.subkind}):
        yes = [i for i, x in those if x.subkind == sub]
        no = [i for i, x in those if x.kind == kind and x.subkind and sub not in (x.subkind, x.head)]
        yield Poll("is this a (subkind)", f"Is this {an(sub)}?", yes, no)
    for head in sorted({x.head for x in labels if x.kind not in _NOT_BY_NAME and x.head}):
        places = {(x.kind, x.subkind) for x in labels if x.head == head}
        place = next(iter(places))
        if len(places) == 1 and head not in place and not head.endswith("s"):
            yes = [i for i, x in those if x.head == head]
            no = [i for i, x in those if (x.kind, x.subkind) == place and x.head and not _overlap(x, head)]
            yield Poll("is this a (name)", f"Is this {an(head)}?", yes, no)
    for color in sorted({x.facts["color"] for x in labels if "color" in x.facts}):
        yield Poll("is it (color)", f"Is it {color}?", *_split(those, "color", color))
    for style in ("photo", "drawing"):
        yes = [i for i, x in those if x.style == style]
        yield Poll(
            f"is this a {style}", f"Is this a {style}?", yes, [i for i, x in those if x.style not in ("", style)]
        )
    for case in ("uppercase", "lowercase"):
        yield Poll("is the letter (case)", f"Is this {an(case)} letter?", *_split(those, "case", case))
    for question in ("Can it fly?", "Does this fly?"):
        yield Poll("can it fly", question, *_split(those, "flies", "yes"))
    yield Poll("does it live in water", "Does this animal live in water?", *_split(those, "lives", "in water"))
    for question in ("Can you eat this?", "Is this something to eat?"):
        yes = [i for i, x in those if "edible" in x.facts]
        yield Poll("can you eat this", question, yes, [i for i, x in those if x.kind in _NO_FOOD])


def _overlap(label: Label, head: str) -> bool:
    """Whether calling this stamp `head` might be true as well (a race car is a car)."""
    return head in label.name or label.head in head or SYNONYMS.get(label.head) == head


def _split(those: list[tuple[int, Label]], fact: str, value: str) -> tuple[list[int], list[int]]:
    has = [(i, x.facts[fact]) for i, x in those if fact in x.facts]
    return [i for i, said in has if said == value], [i for i, said in has if said != value]


def ask(labels: Sequence[Label], rng: random.Random) -> list[Asked]:
    """Questions about the pictures of one split, near VQA-v2's shares of answer types.

    Each yes/no question has as many pictures that answer yes as no. All number questions are kept (they are few); of
    the others as many as the shares ask for, spread over the templates as evenly as these allow, and no answer makes
    up more than half of an open template.
    """
    found: dict[str, list[Asked]] = defaultdict(list)
    for picture, label in enumerate(labels):
        for template, answer_type, question, answers in open_questions(label):
            found[answer_type].append(Asked(picture, template, answer_type, question, answers))
    pairs: list[tuple[Asked, Asked]] = []
    for poll in polls(labels):
        yes, no = rng.sample(poll.yes, len(poll.yes)), rng.sample(poll.no, len(poll.no))
        for i, j in zip(yes, no, strict=False):
            said = (
                Asked(picture, poll.template, "yes/no", poll.question, ten(answer))
                for picture, answer in ((i, "yes"), (j, "no"))
            )
            pairs.append((next(said), next(said)))
    unit = max(1, len(found["number"]))
    kept = found["number"] + _spread(
        _at_most_half(found["other"], rng), SHARES["other"] * unit, lambda a: a.template, rng
    )
    for both in _spread(pairs, SHARES["yes/no"] * unit // 2, lambda p: p[0].template, rng):
        kept.extend(both)
    return sorted(kept, key=lambda a: (a.picture, a.template, a.question))


def _at_most_half(asked: list[Asked], rng: random.Random) -> list[Asked]:
    """The questions without the surplus of an answer that is more common in its template than all others together."""
    kept = []
    for template in sorted({a.template for a in asked}):
        votes = Counter(a.answers[0] for a in asked if a.template == template)
        top = min(votes, key=lambda answer: (-votes[answer], answer))
        mine = [a for a in asked if a.template == template and a.answers[0] == top]
        kept += [a for a in asked if a.template == template and a.answers[0] != top]
        kept += rng.sample(mine, min(len(mine), votes.total() - votes[top]))
    return kept


def _spread(items: list[T], wanted: int, template: Callable[[T], str], rng: random.Random) -> list[T]:
    """`wanted` of the items (all, if there are fewer): small templates whole, the large ones share what is left."""
    by_template: dict[str, list[T]] = defaultdict(list)
    for item in items:
        by_template[template(item)].append(item)
    chosen: list[T] = []
    for left, (_, group) in zip(
        range(len(by_template), 0, -1), sorted(by_template.items(), key=lambda kv: (len(kv[1]), kv[0])), strict=True
    ):
        share = min(len(group), max(0, wanted - len(chosen)) // left)
        chosen += rng.sample(group, share)
    return chosen
