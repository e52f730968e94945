"""Which conversations a teacher reads in one forward pass: those of one picture behind a common beginning, those of
like length together, within bounds on rows, tokens and logits. Numbers only; the model is out of reach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from embervlm.data.record import Record
from embervlm.teachers.locate import Located

TOKENS_AT_ONCE = 2**15
"""Most tokens of one forward pass, padding and visual tokens included."""

LOGITS_AT_ONCE = 2**27
"""Most logits of one forward pass (positions x vocabulary)."""


@dataclass(frozen=True)
class Row:
    """One conversation, ready for the model. `key` is its place in the caller's list."""

    key: int
    record: Record
    rendered: str
    plain_ids: list[int]  # before the processor repeats the picture's placeholder
    located: list[Located]

    @property
    def positions(self) -> int:
        """Logits that are wanted."""
        return sum(len(answer.ids) for answer in self.located)

    @property
    def first_read(self) -> int:
        """Where in `plain_ids` the first answer is predicted from."""
        return len(self.plain_ids) - self.located[0].behind - 1


@dataclass(frozen=True)
class Pass:
    """What one forward pass reads. `groups` of several rows each have one picture and share the tokens up to `prefix`;
    prefix 0: nothing is shared, and each group is one row."""

    groups: tuple[tuple[Row, ...], ...]
    prefix: int

    @property
    def rows(self) -> list[Row]:
        return [row for group in self.groups for row in group]

    def halves(self) -> list[Pass]:
        """Two smaller ones; a group is divided last."""
        if len(self.groups) > 1:
            middle = (len(self.groups) + 1) // 2
            return [Pass(self.groups[:middle], self.prefix), Pass(self.groups[middle:], self.prefix)]
        (group,) = self.groups
        middle = (len(group) + 1) // 2
        return [Pass((part,), self.prefix) for part in (group[:middle], group[middle:])]


@dataclass(frozen=True)
class Bounds:
    """rows: most rows of a pass; vocabulary: logits a position; visual: tokens that a picture's placeholder becomes,
    less one; reach: longest row, all tokens counted, that may share a beginning."""

    rows: int
    vocabulary: int
    visual: int = 0
    reach: float = float("inf")

    @property
    def positions(self) -> int:
        return max(LOGITS_AT_ONCE // max(self.vocabulary, 1), 1)


def plan_passes(rows: Sequence[Row], bounds: Bounds, share: bool) -> Iterator[Pass]:
    """Every row in one pass, pictures and text alone apart.

    Args:
        share: rows of one picture share their beginning where at least two do.
    """
    by_picture: dict[str, list[Row]] = {}
    for row in rows:
        if share and row.record.image is not None and len(row.plain_ids) + bounds.visual <= bounds.reach:
            by_picture.setdefault(row.record.image, []).append(row)
    groups = [group for group in by_picture.values() if len(group) > 1 and common_prefix(group)]
    grouped = {row.key for group in groups for row in group}
    alone = [row for row in rows if row.key not in grouped]
    yield from _alone(sorted(alone, key=lambda row: (row.record.image is None, len(row.plain_ids), row.key)), bounds)
    yield from _shared(sorted(groups, key=_longest_rest), bounds)


def common_prefix(rows: Iterable[Row]) -> int:
    """Tokens of `plain_ids` with which all rows begin, none of which an answer is predicted from."""
    first, *others = rows
    shared = first.first_read
    for row in others:
        shared = min(shared, row.first_read)
        differ = (at for at in range(shared) if row.plain_ids[at] != first.plain_ids[at])
        shared = next(differ, shared)
    return shared


def _alone(rows: Iterable[Row], bounds: Bounds) -> Iterator[Pass]:
    batch: list[Row] = []
    for row in rows:
        seen = row.record.image is not None
        tokens = (len(batch) + 1) * (len(row.plain_ids) + (bounds.visual if seen else 0))
        full = len(batch) >= bounds.rows or tokens > TOKENS_AT_ONCE or _logits([*batch, row]) > bounds.positions
        if batch and (full or seen != (batch[0].record.image is not None)):
            yield Pass(tuple((one,) for one in batch), 0)
            batch = []
        batch.append(row)
    if batch:
        yield Pass(tuple((one,) for one in batch), 0)


def _shared(groups: Iterable[list[Row]], bounds: Bounds) -> Iterator[Pass]:
    batch: list[tuple[Row, ...]] = []
    for group in (part for whole in groups for part in _divide(whole, bounds)):
        if batch and not _fit([*batch, group], bounds):
            yield _pass(batch)
            batch = []
        batch.append(group)
    if batch:
        yield _pass(batch)


def _divide(group: list[Row], bounds: Bounds) -> Iterator[tuple[Row, ...]]:
    """A picture with more questions than one pass can hold is read again."""
    part: tuple[Row, ...] = ()
    for row in group:
        if part and not _fit([(*part, row)], bounds):
            yield part
            part = ()
        part = (*part, row)
    yield part


def _fit(groups: Sequence[tuple[Row, ...]], bounds: Bounds) -> bool:
    rows = [row for group in groups for row in group]
    prefix = min(common_prefix(group) for group in groups)
    rest = max(len(row.plain_ids) for row in rows) - prefix
    tokens = len(groups) * (prefix + bounds.visual) + len(rows) * rest
    return len(rows) <= bounds.rows and tokens <= TOKENS_AT_ONCE and _logits(rows) <= bounds.positions


def _pass(groups: list[tuple[Row, ...]]) -> Pass:
    return Pass(tuple(groups), min(common_prefix(group) for group in groups))


def _longest_rest(group: Sequence[Row]) -> int:
    return max(len(row.plain_ids) for row in group) - common_prefix(group)


def _logits(rows: Iterable[Row]) -> int:
    return sum(row.positions for row in rows)
