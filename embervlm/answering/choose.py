"""From what the teacher said to the records of the new set: which answers are kept, and in what form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from embervlm.answering.agreement import agreement
from embervlm.answering.said import Key, Said
from embervlm.data.record import Record
from embervlm.errors import UserError


@dataclass(frozen=True)
class Choice:
    """Which answers are kept, and which reference records beside them."""

    teacher: str  # its name, for the metadata
    samples: int
    min_agreement: float
    min_confidence: float
    references: str  # "none", "fill" (where no answer is kept), "all"
    ask: str = "all"  # or "unlabelled": records that somebody has answered stay as they are

    @property
    def several(self) -> bool:
        """A record may become several, whose ids must differ."""
        return self.samples > 1 or self.references == "all"

    def asks(self, record: Record) -> bool:
        """Whether the teacher is asked about it."""
        return self.ask == "all" or not record.labelled


CONFIDENCES = (0.0, 0.5, 0.75, 0.9)


@dataclass
class Tally:
    """Answers of one split: `asked` is the sum of those kept and those left out."""

    asked: int = 0
    kept: int = 0
    empty: int = 0
    cut: int = 0  # the length limit ended them
    duplicates: int = 0
    unsure: int = 0  # the teacher itself gives them too little
    filtered: int = 0  # agree too little with the reference
    references: int = 0  # reference records that are in the new set
    records: int = 0  # of the new set
    agreements: dict[str, list[float]] = field(default_factory=dict)  # source -> of all whole answers with a reference
    sure: list[tuple[float, float | None]] = field(default_factory=list)  # of whole answers: confidence, agreement
    examples: dict[str, list[Example]] = field(default_factory=dict)  # "kept", "unsure", "filtered"

    def to_json(self) -> dict[str, Any]:
        """Counts, the mean agreement of each source, and what each limit on the confidence would keep."""
        row: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        row |= {"agreement": {name: round(sum(all_) / len(all_), 4) for name, all_ in self.agreements.items()}}
        return row | {"confidence": self.by_confidence()} if self.sure else row

    def by_confidence(self) -> dict[str, dict[str, float]]:
        """Limit -> the share of the whole answers that reach it, and the mean agreement of these, where it is known."""
        found = {}
        for limit in CONFIDENCES:
            reach = [agreed for confidence, agreed in self.sure if confidence >= limit]
            known = [agreed for agreed in reach if agreed is not None]
            found[f"{limit:g}"] = {"share": round(len(reach) / len(self.sure), 4)}
            if known:
                found[f"{limit:g}"]["agreement"] = round(sum(known) / len(known), 4)
        return found


@dataclass(frozen=True)
class Example:
    question: str
    reference: str
    said: str
    agreement: float | None
    confidence: float | None


def check_ids(records: Sequence[Record], choice: Choice) -> None:
    """UserError where the id of an answer would be that of another record (of a set that was answered before)."""
    if choice.several:
        ids = {record.id for record in records}
        for record in filter(choice.asks, records):
            for sample in range(choice.samples):
                if (made := _answer_id(record.id, sample)) in ids:
                    raise UserError(
                        f"an answer to record {record.id} would have the id {made!r}, which another record has; "
                        "answer the set with the references instead of one that was answered before"
                    )


def check_confidences(answers: Mapping[Key, Said], choice: Choice) -> None:
    """UserError where `choice` needs a probability that an answer does not have."""
    for key, answer in answers.items():
        if choice.min_confidence and answer.finished and not answer.empty and answer.confidence is None:
            raise UserError(
                f"the answer to record {key.record_id} has no probability beside it: the teacher's server tells none, "
                "or the answers were given before they were kept; leave --min_confidence out, or choose another "
                "--output_dir"
            )


def choose(
    split: str, records: Sequence[Record], said: Mapping[Key, Said], choice: Choice
) -> tuple[list[Record], Tally]:
    """The new split: records that are not asked about, then the answers, both in the order of the old one."""
    made = [record for record in records if not choice.asks(record)]
    tally = Tally(references=len(made))
    for record in filter(choice.asks, records):
        answers = _of_record(split, record, said, choice, tally)
        with_reference = choice.references == "all" or (choice.references == "fill" and not answers)
        if with_reference and record.labelled:
            made.append(record)
            tally.references += 1
        made += answers
    tally.records = len(made)
    if not made:
        raise UserError(
            f"of {tally.asked:,} answers to {split} none is left: {tally.filtered:,} agree less than "
            f"{choice.min_agreement:g} with the reference, of {tally.unsure:,} the teacher is less sure than "
            f"{choice.min_confidence:g}, {tally.empty:,} are empty, {tally.cut:,} are cut off; is it the right teacher "
            "(`embervlm test-teacher`)? --min_agreement, --min_confidence and --max_new_tokens set the limits"
        )
    return made, tally


def _of_record(split: str, record: Record, said: Mapping[Key, Said], choice: Choice, tally: Tally) -> list[Record]:
    made: list[Record] = []
    seen: Counter[tuple[str, ...]] = Counter()
    for sample in range(choice.samples):
        answer = said[Key(split, record.id, sample)]
        tally.asked += 1
        if not answer.finished:
            tally.cut += 1
            continue
        if answer.empty:
            tally.empty += 1
            continue
        agreed = agreement(record, answer.turns)
        if agreed is not None:
            tally.agreements.setdefault(record.source, []).append(agreed)
        seen[answer.turns] += 1
        if seen[answer.turns] > 1:
            tally.duplicates += 1
            continue
        if answer.confidence is not None:
            tally.sure.append((answer.confidence, agreed))
        what = "kept"
        if choice.min_confidence and (answer.confidence or 0.0) < choice.min_confidence:
            what = "unsure"
        elif agreed is not None and agreed < choice.min_agreement:
            what = "filtered"
        setattr(tally, what, getattr(tally, what) + 1)
        shown = Example(record.turns()[-1][0], record.turns()[-1][1], answer.turns[-1], agreed, answer.confidence)
        tally.examples.setdefault(what, []).append(shown)
        if what == "kept":
            made.append(_answered(record, answer, sample, agreed, choice))
    return made


def _answered(record: Record, answer: Said, sample: int, agreed: float | None, choice: Choice) -> Record:
    references = [reference for _, reference in record.turns()]
    metadata = record.metadata | {"answered_by": choice.teacher}
    if record.labelled:
        metadata["reference"] = references if len(references) > 1 else references[0]
    if agreed is not None:
        metadata["agreement"] = round(agreed, 4)
    if answer.confidence is not None:
        metadata["confidence"] = round(answer.confidence, 4)
    turns = tuple((question, said) for (question, _), said in zip(record.turns(), answer.turns, strict=True))
    return replace(
        record,
        id=_answer_id(record.id, sample) if choice.several else record.id,
        response=answer.turns[0],
        conversations=turns if record.conversations else None,
        metadata=metadata,
    )


def _answer_id(record_id: str, sample: int) -> str:
    return f"{record_id}/answer-{sample + 1}"
