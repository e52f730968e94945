"""The teacher's next-token distributions, told in the student's tokens (DESIGN 4.2).

Anchored positions: both models have read the same bytes, so P(u) = sum of p_w over the teacher tokens w whose spelling
e(w) begins with u. Interior positions: the student is inside a teacher token; condition on the teacher tokens whose
spelling begins with the student tokens read since that token began, and look one place further in the spelling. Where
too little of what may be compatible is known there is no target.

The realised token's own mass is shared out by what the teacher says next: see `branch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embervlm import tokens
from embervlm.distill.align import INTERIOR, NONE, Alignment, align
from embervlm.distill.branch import LOST, OUT, Branch, Places, Said, resolve
from embervlm.distill.token_map import TokenMap, build_token_map
from embervlm.teachers.outputs import BETAS, NOISE, TEMPERATURE_GRID, TeacherOutputs, stack_entries
from embervlm.tokens import Spans

LEAST_KNOWN = 0.3
"""An interior position has a target where the words that are known to fit what was read have at least so much of the
mass that may fit it: theirs and all that lies outside the head. In `benchmarks/alignment.py` half of the interior
positions have; their total variation from the truth is .017, that of all .150."""

Response = tuple[np.ndarray, Spans, TeacherOutputs]
"""Student ids, student spans and the teacher's outputs of one response: the arguments of `project`."""


@dataclass(frozen=True)
class ResponseTargets:
    """The projected teacher for one response; row j belongs to student token j of the response, the EOS last."""

    kinds: np.ndarray  # int8 [m], NONE / ANCHORED / INTERIOR of embervlm.distill.align
    ids: np.ndarray  # int32 [m, K], student tokens (events), by falling probability, -1 = empty
    logprobs: np.ndarray  # float32 [m, K], natural log at T = 1, not tempered, -inf where empty
    log_tail: np.ndarray  # float32 [m, G], log sum of p_w^(1/T) over what is no event, T in the grid; -inf: nothing
    events: np.ndarray | None = None  # int32 [m, K], where events are sets: see `Targets`

    def first(self, count: int) -> ResponseTargets:
        """Of a response that was cut to so many tokens."""
        if count >= len(self.kinds):
            return self
        events = None if self.events is None else self.events[:count]
        return ResponseTargets(
            self.kinds[:count], self.ids[:count], self.logprobs[:count], self.log_tail[:count], events
        )

    @property
    def nbytes(self) -> int:
        parts = (self.kinds, self.ids, self.logprobs, self.log_tail, self.events)
        return sum(part.nbytes for part in parts if part is not None)


def project(
    student_ids: np.ndarray, student_spans: Spans, outputs: TeacherOutputs, token_map: TokenMap
) -> ResponseTargets:
    """Project one response.

    Args:
        student_ids: int32 [m], the tokens of `student_spans`, or the first of them if cut short, or all and the EOS.
        student_spans: `encode_spans(student tokenizer, response)`.
        outputs: the teacher on the same response, with its top k tokens.
    """
    return project_batch([(student_ids, student_spans, outputs)], token_map)[0]


def student_targets(
    texts: Sequence[str],
    outputs: Sequence[TeacherOutputs],
    teacher_tokenizer: Any,
    student_tokenizer: Any,
    end_of_turn_id: int | None = None,
    token_map: TokenMap | None = None,
) -> list[ResponseTargets]:
    """From what a teacher said about some texts to targets in the student's tokens; needs no trainer of ours.

    Args:
        texts: N responses, without templates or special tokens.
        outputs: the teacher on each of them (`TeacherOutputs`: ids [n], byte spans [n], the k likeliest words [n, k],
            log-normalisers [n, G], log-probability of the realised token [n]).
        teacher_tokenizer, student_tokenizer: any two Hugging Face tokenizers; the student's needs an EOS.
        end_of_turn_id: the teacher token that ends a response, it becomes the student's EOS; None: its EOS.
        token_map: of the two tokenizers, from `build_token_map`, if it is at hand; seconds are saved.

    Returns:
        One `ResponseTargets` a text. Its rows are the m tokens of `student_tokenizer(text, add_special_tokens=False)`
        and the EOS: row j is the target for predicting token j from the text before it, at T = 1. To temper it to T:
        exp(logprobs / T) and exp(log_tail at T), divided by their sum (`collate_targets` does it for a batch).

    Raises:
        UserError: a tokenizer of no known family, or a text that it changes beyond following.
    """
    if token_map is None:
        end = teacher_tokenizer.eos_token_id if end_of_turn_id is None else end_of_turn_id
        token_map = build_token_map(
            tokens.token_bytes(teacher_tokenizer), tokens.fingerprint(teacher_tokenizer), end, student_tokenizer
        )
    return project_batch(respond(texts, outputs, student_tokenizer), token_map)


def respond(texts: Sequence[str], outputs: Sequence[TeacherOutputs], student_tokenizer: Any) -> list[Response]:
    """The student's tokens of whole responses, the EOS last, beside what the teacher said about each."""
    end = np.int32(student_tokenizer.eos_token_id)
    laid = tokens.encode_spans_of(student_tokenizer, texts)
    return [(np.append(spans.ids, end), spans, said) for spans, said in zip(laid, outputs, strict=True)]


def project_batch(responses: Sequence[Response], token_map: TokenMap) -> list[ResponseTargets]:
    """Project many responses in one pass: for short answers far faster than one by one."""
    if not responses:
        return []
    student, teacher, sizes = join(responses)
    outputs = [output for _, _, output in responses]
    top_ids, top_logprobs = stack_entries(outputs)
    normalisers, realised = (
        np.concatenate([getattr(output, name) for output in outputs])
        for name in ("log_normalisers", "realised_logprobs")
    )
    alignment = align(student, teacher)
    without_blank, group, kinds = usable(alignment, teacher, token_map)
    rows = np.flatnonzero(kinds != NONE)
    places = Places(
        rows, alignment.first[rows], alignment.last[rows], alignment.boundary[rows], without_blank[rows], student.ids
    )
    said = Said(teacher.ids, realised.astype(np.float64), top_ids, top_logprobs.astype(np.float64), group)
    interior = kinds[rows] == INTERIOR

    # The realised token, apart from the others.
    real = teacher.ids[places.first]
    real_mass = np.exp(said.logp[places.first])
    branch = resolve(token_map.branches, said, places, _next(token_map, places, real[:, None])[0][:, 0])
    real_lost, real_out = (
        np.bincount(branch.row, np.where(branch.ids == fate, branch.mass, 0.0), len(rows)) for fate in (LOST, OUT)
    )

    head, logp = top_ids[places.first], said.head_logp[places.first]
    head_next, compatible = _next(token_map, places, head)
    is_real = head == real[:, None]
    counted = compatible & ~is_real
    mass = np.where(counted, np.exp(logp), 0.0)
    lost = counted & (head_next < 0)  # no spelling, or it ends here and what follows is unknown: part of the rest

    # Anchored: the rest is everything outside the head, exactly, at each T.
    tempered = np.exp(logp[:, :, None] * BETAS)
    whole = np.exp(normalisers[places.first].astype(np.float64))
    tail = whole - (tempered * ~lost[:, :, None]).sum(1)
    tail -= np.where(is_real.any(1)[:, None], 0.0, real_mass[:, None] ** BETAS)
    tail = np.where(tail > NOISE * whole, tail, 0.0) + real_lost[:, None] ** BETAS
    # Interior: renormalised over what is compatible; how much of the teacher's tail is compatible nobody knows.
    total = np.where(interior, np.maximum(mass.sum(1) + real_mass - real_out, np.finfo(float).tiny), 1.0)[:, None]
    unknown = ((mass * lost).sum(1) + real_lost)[:, None] / total
    tail = np.where(interior[:, None], unknown**BETAS, tail)

    ids = np.concatenate([np.where(counted, head_next, -1), student.ids[rows][:, None]], axis=1)
    masses = np.concatenate([mass, branch.kept[:, None]], axis=1)
    event_ids, event_mass = merge(*_beside(ids, masses, branch))
    outside = np.clip(1 - np.exp(logp).sum(1) - np.where(is_real.any(1), 0.0, real_mass), 0.0, None)
    told = branch.alike & (~interior | (total[:, 0] >= LEAST_KNOWN * (total[:, 0] + outside)))
    kinds[rows[~told]] = NONE
    with np.errstate(divide="ignore"):
        logprobs, log_tail = np.log(event_mass / total), np.log(tail)
    return split(sizes, kinds, rows[told], event_ids[told], logprobs[told], log_tail[told])


def _next(token_map: TokenMap, places: Places, teacher_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For teacher tokens [R, k]: the student token that comes next in each spelling (-1: none), and whether the
    spelling begins with what has been read. A token that does not has no next one."""
    spelled = token_map.rows(teacher_ids, places.without_blank[:, None])
    depth = places.rows - places.boundary
    compatible = np.ones(spelled.shape, dtype=bool)
    for place in range(int(depth.max(initial=0))):
        deeper = np.flatnonzero(depth > place)
        was_read = places.student_ids[places.boundary[deeper] + place]
        compatible[deeper] &= token_map.token(spelled[deeper], place) == was_read[:, None]
    return np.where(compatible, token_map.token(spelled, depth[:, None]), -1), compatible


def _beside(ids: np.ndarray, masses: np.ndarray, branch: Branch) -> tuple[np.ndarray, np.ndarray]:
    """The branch's events in columns of their own beside those of the head."""
    events = np.flatnonzero(branch.ids >= 0)
    order = events[np.argsort(branch.row[events], kind="stable")]
    row = branch.row[order]
    column = np.arange(len(row)) - np.searchsorted(row, row)
    more_ids = np.full((len(ids), int(column.max(initial=-1)) + 1), -1, dtype=np.int64)
    more_masses = np.zeros(more_ids.shape)
    more_ids[row, column], more_masses[row, column] = branch.ids[order], branch.mass[order]
    return np.concatenate([ids, more_ids], axis=1), np.concatenate([masses, more_masses], axis=1)


def join(responses: Sequence[Response]) -> tuple[Spans, Spans, list[int]]:
    """All responses as one text, each after the other with a gap of one byte, so that one alignment serves all."""
    sides: tuple[list[Spans], list[Spans]] = ([], [])
    sizes, base = [], 0
    for student_ids, spans, outputs in responses:
        text_size = int(spans.ends[-1]) if len(spans.ids) else 0
        starts, ends = spans.starts, spans.ends
        if len(student_ids) == len(spans.ids) + 1:
            starts, ends = np.append(starts, text_size), np.append(ends, text_size)
        count = len(student_ids)
        both = min(count, len(spans.ids))
        if count > len(starts) or not np.array_equal(student_ids[:both], spans.ids[:both]):
            raise ValueError(f"record {outputs.record_id}: the student's ids and spans are not of the same text")
        student = Spans(np.asarray(student_ids), starts[:count], ends[:count])
        teacher = Spans(outputs.token_ids, outputs.starts, outputs.ends)
        for side, part in zip(sides, (student, teacher), strict=True):
            known = part.starts >= 0
            side.append(Spans(part.ids, np.where(known, part.starts + base, -1), np.where(known, part.ends + base, -1)))
        sizes.append(count)
        base += max(text_size, int(outputs.ends.max(initial=0))) + 1
    joined = [
        Spans(*(np.concatenate([getattr(part, name) for part in side]) for name in ("ids", "starts", "ends")))
        for side in sides
    ]
    return joined[0], joined[1], sizes


def usable(alignment: Alignment, teacher: Spans, token_map: TokenMap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the teacher's token lost its leading blank to the template; numbers that are equal where teacher tokens
    follow each other without a gap; and the kinds without the rows that cannot be told: a token that reaches out of
    the answer otherwise, or a gap in the chain of teacher tokens."""
    first, last = np.maximum(alignment.first, 0), np.maximum(alignment.last, 1)
    real = teacher.ids[first]
    inside = real < len(token_map.sizes)
    real = np.where(inside, real, 0)
    excess = np.where(inside, token_map.sizes[real], 0) - (teacher.ends - teacher.starts)[first]
    without_blank = (excess == 1) & token_map.blank[real]
    gaps = np.concatenate([[0], np.cumsum(teacher.ends[:-1] != teacher.starts[1:])])
    whole = gaps[last - 1] == gaps[first]
    return without_blank, gaps, np.where(((excess == 0) | without_blank) & whole, alignment.kinds, np.int8(NONE))


def merge(ids: np.ndarray, masses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Adds up the mass of equal ids within each row [R, E]; by falling mass, empty places (-1, 0) last."""
    ids = np.where(masses > 0, ids, -1)
    order = np.argsort(ids, axis=1)
    ids = np.take_along_axis(ids, order, 1)
    masses = np.take_along_axis(masses, order, 1)
    group = np.zeros(ids.shape, dtype=np.int64)
    np.cumsum(ids[:, 1:] != ids[:, :-1], axis=1, out=group[:, 1:])
    group += np.arange(len(ids))[:, None] * ids.shape[1]
    summed = np.bincount(group.ravel(), np.where(ids >= 0, masses, 0.0).ravel(), ids.size).reshape(ids.shape)
    named = np.full(ids.shape, -1, dtype=np.int32)
    named.ravel()[group] = ids
    order = np.argsort(-summed, axis=1, kind="stable")
    named, summed = np.take_along_axis(named, order, 1), np.take_along_axis(summed, order, 1)
    width = max(int((named >= 0).sum(1).max(initial=0)), 1)
    return named[:, :width], summed[:, :width]


def split(
    sizes: list[int], kinds: np.ndarray, rows: np.ndarray, ids: np.ndarray, logprobs: np.ndarray, log_tail: np.ndarray
) -> list[ResponseTargets]:
    """One ResponseTargets per response, with empty rows where there is no target."""
    count, width = len(kinds), ids.shape[1]
    all_ids = np.full((count, width), -1, dtype=np.int32)
    all_logprobs = np.full((count, width), -np.inf, dtype=np.float32)
    all_tails = np.full((count, len(TEMPERATURE_GRID)), -np.inf, dtype=np.float32)
    all_ids[rows], all_logprobs[rows], all_tails[rows] = ids, logprobs, log_tail
    cuts = np.cumsum(sizes)[:-1]
    parts = (np.split(column, cuts) for column in (kinds.astype(np.int8), all_ids, all_logprobs, all_tails))
    return [ResponseTargets(*columns) for columns in zip(*parts, strict=True)]
