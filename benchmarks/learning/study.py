"""Every cell behind `docs/does-it-pay.md`, by question. `python -m benchmarks.learning` runs what is missing of it.

It is not the product of all arms, regimes and seeds: labels alone, the recipe and its rivals have every regime and
three seeds or five, a single decision has the one regime where it shows.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.learning.arms import OTHER_SEEDS
from benchmarks.learning.plan import RATES, Grid, Part
from benchmarks.learning.world import FULL

TWO, THREE, FOUR, FIVE = (tuple(range(count)) for count in (2, 3, 4, 5))
LABELS = ("all", "one", "wrong20", "wrong40")
FEW = ("few25", "few5", "few1")
LONG, LONGEST = replace(FULL, steps=2400), replace(FULL, steps=4800)
AT_EQUAL_TIME = replace(FULL, steps=1360)
ENCODER, LONG_ENCODER = replace(FULL, unfreeze_vision=-1), replace(LONG, unfreeze_vision=-1)

RIVALS = ("sft", "soft", "truncated", "uld", "answers")
VARIANTS = ("alm", "xtoken", "escd", "bpm", "strict", "anchored", "chain", "top4")
WEIGHTS = ("guide", "half", "pure", "fading", "reverse", "jsd", "online")


def from_four(*arms: str, taught: bool = False) -> tuple[str, ...]:
    """These arms, from each seed of Stage 1, with or without a teacher there."""
    seeds = ("", *(f"seed{seed}-" for seed in OTHER_SEEDS))
    return tuple(f"{'taught-' * taught}{seed}{arm}" for seed in seeds for arm in arms)


STUDY = (
    Part(
        "labels",
        "The teacher's sure answers, by the labels that there are",
        (
            Grid(FULL, ("all", "one"), ("sft", "sure"), FIVE),
            Grid(FULL, ("wrong20", "wrong40"), ("sft", "sure"), THREE),
            Grid(FULL, ("few25-sure", "few5-sure", "few1-sure"), ("sft", "filled"), THREE),
        ),
    ),
    Part(
        "rivals",
        "Distributions and plain answers, in every regime",
        (Grid(FULL, (*LABELS, *FEW), RIVALS, THREE),),
    ),
    Part(
        "stage1",
        "A teacher in Stage 1, too, by the labels that there are",
        (
            Grid(FULL, LABELS, ("sft", "taught-sft", "sure", "taught-sure"), THREE),
            Grid(
                FULL, ("few25-sure", "few5-sure", "few1-sure"), ("sft", "taught-sft", "filled", "taught-filled"), THREE
            ),
        ),
    ),
    Part(
        "further",
        "All labels, and 4,500 further pictures without any",
        (
            Grid(LONGEST, ("sure", "pictures"), ("sft", "filled"), THREE, (1e-3,)),
            Grid(LONGEST, ("pictures",), ("sft", "filled"), (3,), (1e-3,)),
        ),
    ),
    Part(
        "variants",
        "Other targets and other weights, with 40% wrong labels",
        (Grid(FULL, ("wrong40",), ("sft", "soft", *WEIGHTS, *VARIANTS, "truncated", "uld"), (0,)),),
    ),
    Part(
        "uld",
        "ULD at another weight",
        (Grid(FULL, ("all", "few5", "wrong40"), ("sft", "uld", "uld-light"), (0,)),),
    ),
    Part(
        "readings",
        "Distributions on labelled questions alone, and on the teacher's own answers",
        (
            Grid(FULL, ("few5",), ("sft", "soft", "soft-labels"), (0,)),
            Grid(FULL, ("all",), ("sft", "answers", "answers-soft"), (0,)),
        ),
    ),
    Part(
        "tokenizers",
        "A student with the teacher's own tokenizer, with 40% wrong labels",
        (
            Grid(FULL, ("wrong40",), ("sft", "soft", "shared-sft", "shared-soft"), THREE),
            Grid(FULL, ("wrong40",), ("shared",), (0,)),
        ),
    ),
    Part(
        "sure",
        "On the sure answers: as labels or with their distribution, and how sure",
        (
            Grid(FULL, ("few5-sure",), ("sft", "filled", "soft"), THREE),
            Grid(FULL, ("few5-sure",), ("taught-soft",), TWO),
            Grid(FULL, ("few5-sure",), ("half",), THREE, (1e-3,)),
            Grid(FULL, ("few5-0.9",), ("filled",), (0,)),
        ),
    ),
    Part(
        "agreed",
        "Sure answers that no label contradicts, and a student without pictures",
        (Grid(FULL, ("all",), ("sft", "agreed"), THREE), Grid(FULL, ("all",), ("blind",), (0,))),
    ),
    Part(
        "stage1-seeds",
        "Four seeds of Stage 1",
        (
            Grid(FULL, ("all", "one", "wrong40"), from_four("sft", "sure"), TWO),
            Grid(FULL, ("all",), from_four("sft", taught=True), TWO),
            Grid(FULL, ("few5-sure",), from_four("sft", "filled"), TWO),
            Grid(FULL, ("few5-sure",), from_four("filled", taught=True), TWO),
        ),
    ),
    Part(
        "stage1-other",
        "Other Stages 1: at a third of the rate, and longer",
        (Grid(FULL, ("all",), ("sft", "taught-sft", "slow-sft", "taught-slow-sft", "longer-sft"), THREE),),
    ),
    Part("temperature", "T = 2 at a weight of 0.9", (Grid(FULL, ("all",), ("sft", "soft2"), THREE, (1e-3,)),)),
    Part(
        "rates",
        "Learning rates",
        (
            *(Grid(FULL, ("all",), (arm,), (0,), (rate,)) for arm in RIVALS for rate in RATES),
            *(Grid(FULL, ("all",), ("sure",), (0,), (rate,)) for rate in RATES[:3]),
        ),
    ),
    Part(
        "time",
        "Labels alone, for the time that teacher and student take together",
        (
            Grid(AT_EQUAL_TIME, ("all",), ("sft",), THREE, (1e-3,)),
            Grid(AT_EQUAL_TIME, ("few5", "wrong40"), ("sft",), TWO, (1e-3,)),
            Grid(AT_EQUAL_TIME, ("one",), ("sft",), (0,), (1e-3,)),
        ),
    ),
    Part(
        "longer",
        "Three times the steps",
        (
            Grid(LONG, ("all",), ("sft", "sure"), TWO, (1e-3,)),
            Grid(LONG, ("all",), ("half",), (0,), (1e-3,)),
            Grid(LONG, ("sure",), ("sft", "filled"), TWO, (1e-3,)),
            Grid(LONG, ("sure",), ("half",), (0,), (1e-3,)),
            Grid(LONG, ("more",), ("sft", "answers", "soft"), (0,), (1e-3,)),
            Grid(LONG, ("few5-sure",), ("sft", "filled"), (0,), (1e-3,)),
            Grid(LONG, ("wrong40",), ("sft", "sure"), (0,), (1e-3,)),
        ),
    ),
    Part(
        "stage1-longer",
        "A teacher in Stage 1, too, three times the steps of Stage 2",
        (Grid(LONG, ("all",), ("sft", "taught-sft", "sure", "taught-sure"), TWO, (1e-3,)),),
    ),
    Part(
        "components",
        "The projector at another learning rate than the language model's 1e-3",
        (Grid(FULL, ("all",), ("sft", "projector-slow", "projector-fast"), (0,), (1e-3,)),),
    ),
    Part(
        "longer-rates",
        "Learning rates, three times the steps",
        (
            *(Grid(LONG, ("all",), ("sft",), (0,), (rate,)) for rate in RATES[:3]),
            *(Grid(LONG, ("more",), ("soft",), (0,), (rate,)) for rate in RATES[1:3]),
        ),
    ),
    Part(
        "longest",
        "Six times the steps, all labels, with the distribution",
        (
            Grid(LONGEST, ("all",), ("sft",), FOUR, (1e-3,)),
            Grid(LONGEST, ("all",), ("half", "soft2"), (0,), (1e-3,)),
        ),
    ),
    Part(
        "short",
        "Further pictures, and 800 steps only",
        (Grid(FULL, ("sure",), ("sft", "filled"), TWO, (1e-3,)),),
    ),
    Part(
        "encoder",
        "The encoder is trained, too",
        (
            Grid(ENCODER, ("all",), ("sft", "soft", "answers"), (0,), (2e-3,)),
            Grid(ENCODER, ("all",), ("soft",), (0,), (4e-3,)),
        ),
    ),
    Part(
        "encoder-longer",
        "The encoder is trained, too, three times the steps",
        (Grid(LONG_ENCODER, ("all",), ("sft", "soft"), (0,), (2e-3,)),),
    ),
)
"""In the order of the page. Each question has one scale."""
