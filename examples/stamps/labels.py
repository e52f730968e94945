"""What each stamp shows: labels.tsv, made from folders and descriptions by rule and corrected by eye."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("labels.tsv")

# Truly the same to a person who answers: what some of the ten annotators write instead.
SYNONYMS: dict[str, str] = {
    "airplane": "plane",
    "bicycle": "bike",
    "chimpanzee": "chimp",
    "eggplant": "aubergine",
    "garbage can": "trash can",
    "gravestone": "tombstone",
    "gray": "grey",
    "hippopotamus": "hippo",
    "in water": "water",
    "kitchen item": "kitchenware",
    "kiwifruit": "kiwi",
    "lightbulb": "light bulb",
    "mailbox": "post box",
    "math symbol": "math sign",
    "musical instrument": "instrument",
    "on land": "land",
    "photo": "photograph",
    "rhino": "rhinoceros",
    "road sign": "traffic sign",
    "rooster": "cock",
    "telephone": "phone",
    "t-shirt": "tee shirt",
}


@dataclass(frozen=True, slots=True)
class Label:
    name: str  # in full: "electric guitar"; "" = nothing that a person would be asked to name
    head: str  # what most people would answer: "guitar"
    kind: str  # "animal", "vehicle", ...; "" = not asked
    subkind: str  # "bird", "truck", ...; "" = not asked
    style: str  # "photo" | "drawing" | "" = hard to say
    facts: dict[str, str]  # color, legs, flies, lives, wheels, strings, count, digit, cents, case, fill, family, ...


def read_labels(table: Path = TABLE) -> dict[str, Label]:
    """Label of each stamp by its path (see `pictures.Stamp.path`)."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {
        row["path"]: Label(
            name=row["name"],
            head=row["head"],
            kind=row["kind"],
            subkind=row["subkind"],
            style=row["style"],
            facts=dict(fact.split("=", 1) for fact in row["facts"].split(";") if fact),
        )
        for row in rows
    }
