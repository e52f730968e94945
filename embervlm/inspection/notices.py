"""What looks wrong in some batches, how often, and what to do about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from embervlm.inspection.gather import Batch, Seen
from embervlm.inspection.marks import legible

MOST_WITHOUT_TARGET = 0.3  # share of positions; byte alignment leaves a tenth or less with every pair that we tried
LEAST_FILLED = 0.9  # of the slots of packed rows; batches of 64 samples fill 97% and more
LEAST_FILLED_UNPACKED = 0.5
NAMED = 3
"""So many records or pictures are named."""


@dataclass(frozen=True)
class Setting:
    """What the batches were made with."""

    length: int  # tokens of a sample
    most: int  # that the student can read
    packed: bool
    batch_size: int
    teachers: int = 0
    without_labels: tuple[str, ...] = ()  # records that are left out
    records: int = 0  # of the split, these included


@dataclass(frozen=True)
class Notice:
    """Something that a person should look at."""

    tag: str  # in two words, at each sample that it is about
    said: str
    advice: str
    records: frozenset[str] = frozenset()


def look(batches: Sequence[Batch], setting: Setting) -> list[Notice]:
    """All that looks wrong, the worst first."""
    found = (check(batches, setting) for check in CHECKS)
    return [notice for notice in found if notice is not None]


def _unreadable(batches: Sequence[Batch], setting: Setting) -> Notice | None:
    broken = {seen.picture: seen for seen in _all(batches) if seen.problem}
    if not broken:
        return None
    first = next(iter(broken.values()))
    return Notice(
        "no picture",
        f"{_count(len(broken), 'picture')} cannot be read. {legible(first.problem)}",
        "Training stops there. Mend --image_root, or find all such pictures with `embervlm prepare --check_images`.",
        frozenset(seen.id for seen in _all(batches) if seen.problem),
    )


def _without_labels(batches: Sequence[Batch], setting: Setting) -> Notice | None:
    if not setting.without_labels:
        return None
    return Notice(
        "no label",
        f"{len(setting.without_labels):,} of {_count(setting.records, 'record')} keep no label within "
        f"{setting.length} tokens and are left out: {_names(setting.without_labels)}.",
        _longer(setting),
    )


def _cut(batches: Sequence[Batch], setting: Setting) -> Notice | None:
    every = _all(batches)
    cut = [seen for seen in every if seen.sample.encoded.truncated]
    if not cut:
        return None
    tokens, lost = (sum(of_one) for of_one in zip(*(seen.cut for seen in cut), strict=True))
    labels = sum(seen.labels for seen in every) + lost
    return Notice(
        "cut",
        f"{len(cut)} of {_count(len(every), 'sample')} ({len(cut) / len(every):.0%}) are cut at {setting.length} "
        f"tokens: {_count(tokens, 'token')} lost, and {lost:,} of {labels:,} labels are not trained.",
        _longer(setting),
        frozenset(seen.id for seen in cut),
    )


def _without_target(batches: Sequence[Batch], setting: Setting) -> Notice | None:
    asked = [seen for seen in _all(batches) if seen.said]
    labels = sum(seen.labels for seen in asked)
    silent = labels - sum(seen.targets for seen in asked)
    if not setting.teachers or silent <= MOST_WITHOUT_TARGET * labels:
        return None
    who = "the teacher" if setting.teachers == 1 else "any teacher"
    return Notice(
        "no target",
        f"{silent:,} of {labels:,} labels ({silent / labels:.0%}) have no target of {who}: there the student learns "
        "from the label alone.",
        "`embervlm verify` judges the set-up. A teacher that is unsure inside its own words needs a cache with a "
        "larger --top_k; a wrong chat template or tokenizer shows in what the teacher reads, below.",
        frozenset(seen.id for seen in asked if seen.targets <= (1 - MOST_WITHOUT_TARGET) * seen.labels),
    )


def _empty_slots(batches: Sequence[Batch], setting: Setting) -> Notice | None:
    used, slots = sum(batch.used for batch in batches), sum(batch.slots for batch in batches)
    if used >= (LEAST_FILLED if setting.packed else LEAST_FILLED_UNPACKED) * slots:
        return None
    return Notice(
        "padding",
        f"{'Packed rows' if setting.packed else 'Rows'} are {used / slots:.0%} full: {slots - used:,} of {slots:,} "
        "slots are padding.",
        f"Packing fills rows when it can choose: raise --batch_size, here {setting.batch_size}; 64 fills 97%."
        if setting.packed
        else "--pack lays several samples into a row.",
    )


def _again(batches: Sequence[Batch], setting: Setting) -> Notice | None:
    # No sample is marked: nothing is wrong with it.
    again, names = 0, dict[str | None, str]()
    for batch in batches:
        twice = {picture for picture in batch.shown if batch.shown.count(picture) > 1}
        again += sum(batch.shown.count(picture) - 1 for picture in twice)
        names |= {seen.picture: str(seen.sample.record.image) for seen in batch.seen if seen.picture in twice}
    if not again:
        return None
    return Notice(
        "picture again",
        f"{_count(again, 'time')} a picture is encoded again within a batch: {_names([*names.values()])}.",
        "Its samples do not fit into one row: raise --max_length, or leave it; it costs time, not accuracy."
        if setting.packed
        else "--pack shows a picture once to all its samples.",
    )


def _nothing_said(batches: Sequence[Batch], setting: Setting) -> Notice | None:
    empty = [seen for seen in _all(batches) if any(len(reply.ids) == 1 for reply in seen.whole.responses)]
    if not empty:
        return None
    count = sum(len(reply.ids) == 1 for seen in empty for reply in seen.whole.responses)
    return Notice(
        "empty answer",
        f"{_count(count, 'response')} {'holds' if count == 1 else 'hold'} nothing but the end of text: "
        f"{_names([seen.id for seen in empty])}.",
        "They teach to say nothing. Leave these records out, or let a teacher answer them: `embervlm answer`.",
        frozenset(seen.id for seen in empty),
    )


def _asked_twice(batches: Sequence[Batch], setting: Setting) -> Notice | None:
    asked: defaultdict[tuple[str | None, str], dict[tuple[str, int], str]] = defaultdict(dict)
    for seen in _all(batches):
        for turn, (question, answer) in enumerate(seen.sample.record.turns()):
            asked[seen.picture, " ".join(question.split()).casefold()][seen.id, turn] = answer.strip().casefold()
    twice = [places for places in asked.values() if len(places) > 1]
    if not twice:
        return None
    differ = sum(len(set(places.values())) > 1 for places in twice)
    return Notice(
        "asked twice",
        f"{_count(len(twice), 'question')} {'is' if len(twice) == 1 else 'are'} asked more than once about the same "
        f"picture{f', {differ} with different answers' if differ else ''}.",
        "Equal answers count double, different ones pull against each other. data_report.json counts duplicates; two "
        "sources that hold the same set are one too many.",
        frozenset(record for places in twice for record, _ in places),
    )


CHECKS: tuple[Callable[[Sequence[Batch], Setting], Notice | None], ...] = (
    _unreadable, _without_labels, _cut, _without_target, _nothing_said, _asked_twice, _again, _empty_slots,
)  # fmt: skip


def _all(batches: Sequence[Batch]) -> list[Seen]:
    return [seen for batch in batches for seen in batch.seen]


def _longer(setting: Setting) -> str:
    if setting.length >= setting.most:
        return f"The student reads {setting.most} tokens at most: shorten the texts, or split conversations."
    return f"Raise --max_length; the student reads up to {setting.most} tokens."


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _names(names: Sequence[str]) -> str:
    every = list(dict.fromkeys(map(legible, names)))
    return ", ".join(every[:NAMED]) + (f" and {len(every) - NAMED:,} more" if len(every) > NAMED else "")
