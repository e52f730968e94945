"""What the teacher expects at each position of an answer, in words and numbers: for the terminal and for pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from embervlm.distill.targets import ResponseTargets, collate_targets
from embervlm.inspection.gather import Seen
from embervlm.inspection.marks import Names
from embervlm.inspection.view import KIND_NAMES

NO_TOKEN = -2
"""No event's id, and a label for `collate_targets`."""

LISTED = 8
"""Most probable events that are listed; the others are added up."""


@dataclass(frozen=True)
class Share:
    """A probability at T = 1, and at the temperature of the training."""

    plain: float
    tempered: float


@dataclass(frozen=True)
class Event:
    """A student token that the teacher expects."""

    text: str
    share: Share
    is_label: bool


@dataclass(frozen=True)
class Expectation:
    """One teacher at one position. Events, the others and the rest sum to 1; of kind none there is nothing."""

    kind: str  # anchored / interior / none
    events: tuple[Event, ...] = ()  # the most probable ones first, at most LISTED
    others: int = 0  # events that are not listed
    others_share: Share = Share(0.0, 0.0)
    rest: Share = Share(0.0, 0.0)  # of everything that is no event
    label: Share = Share(0.0, 0.0)  # of the token that is asked for; 0: it is no event, and part of the rest


@dataclass(frozen=True)
class Position:
    """One label: what is read there, what is asked for, and what each teacher expects."""

    at: int  # in the sample's row
    reads: str
    label: str
    label_id: int
    said: tuple[Expectation, ...]


def positions_of(seen: Seen, names: Names, temperature: float, trained: str) -> list[tuple[Position, ...]]:
    """The labels of each response of a sample.

    Args:
        trained: how the targets were made; those of "uld" are about ranks, not about tokens.
    """
    ranks = trained == "uld"
    found = []
    for index, response in enumerate(seen.sample.encoded.responses):
        kept = response.ids[: response.kept(len(seen.sample.encoded.input_ids))]
        asked = np.full_like(kept, NO_TOKEN) if ranks else kept
        said = [expectations(answers[index], asked, _rank if ranks else names, temperature) for answers in seen.said]
        reads = seen.sample.encoded.input_ids[response.first : response.first + len(kept)]
        found.append(
            tuple(
                Position(response.first + j, names(int(read)), names(int(label)), int(label), tuple(of_each))
                for j, (read, label, *of_each) in enumerate(zip(reads, kept, *said, strict=True))
            )
        )
    return found


def _rank(place: int) -> str:
    return f"rank {place + 1}"


def expectations(
    targets: ResponseTargets, label_ids: np.ndarray, name: Callable[[int], str], temperature: float
) -> tuple[Expectation, ...]:
    """For each position of `targets`, as the loss is given it.

    Args:
        label_ids: int [m], the tokens that are asked for, at least as many as `targets` has positions.
        name: of an event's id.
    """
    count = len(targets.kinds)
    if not count:
        return ()
    labels = np.asarray(label_ids)[None, :count]
    plain, tempered = (collate_targets([(0, 0, targets)], labels, T) for T in (1.0, temperature))
    ids, p, p_t = plain.ids.numpy(), plain.probs.double().numpy(), tempered.probs.double().numpy()
    found = []
    for row, (kind, label) in enumerate(zip(targets.kinds, labels[0], strict=True)):
        if not plain.has_target[row]:
            found.append(Expectation(KIND_NAMES[int(kind)]))
            continue
        order = [at for at in np.argsort(-p[row], kind="stable") if ids[row, at] >= 0]
        listed, others = order[:LISTED], order[LISTED:]
        mine = ids[row] == label
        found.append(
            Expectation(
                KIND_NAMES[int(kind)],
                tuple(
                    Event(name(int(ids[row, at])), Share(p[row, at], p_t[row, at]), bool(ids[row, at] == label))
                    for at in listed
                ),
                len(others),
                Share(float(p[row, others].sum()), float(p_t[row, others].sum())),
                Share(float(plain.rest[row]), float(tempered.rest[row])),
                Share(float(p[row, mine].sum()), float(p_t[row, mine].sum())),
            )
        )
    return tuple(found)


def percent(share: float) -> str:
    """A probability: two digits where it is large, more where it is small."""
    if share >= 0.0995 or share == 0:
        return f"{share:.0%}"
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"
