"""What student and teacher expect at every position of the references, one row each, and what to read off them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from embervlm.batch.dataset import Sample
from embervlm.batch.encode import Response
from embervlm.batch.pack import pack
from embervlm.distill.divergences import forward_kl, reverse_kl
from embervlm.tokens import token_bytes

if TYPE_CHECKING:
    from embervlm.data.record import Record
    from embervlm.distill.targets import Targets

ROWS_AT_ONCE = 1024
CALIBRATION_BINS = 15
PLACES = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, None))
"""First and last place in the answer of each line of the table by place."""


@dataclass(frozen=True)
class Positions:
    """Arrays [N] over labelled positions. KLs are in nats, 0 where there is no target."""

    record: np.ndarray  # int32, index of the record
    turn: np.ndarray  # int32, which answer of it
    place: np.ndarray  # int32, which token of the answer, from 0
    label: np.ndarray  # int32, the reference's token
    has_target: np.ndarray  # bool
    student_teacher: np.ndarray  # KL(student || teacher) at T = 1
    teacher_student: np.ndarray
    student_teacher_at_t: np.ndarray
    teacher_student_at_t: np.ndarray
    cross_entropy: np.ndarray  # nats
    best: np.ndarray  # int32, the student's likeliest token
    best_probability: np.ndarray
    teacher_best: np.ndarray  # int32, first token of the teacher's likeliest event; -1: no target
    teacher_probability: np.ndarray  # of that event

    def __len__(self) -> int:
        return len(self.record)


def join(parts: Sequence[Positions]) -> Positions:
    return Positions(*(np.concatenate([getattr(p, item.name) for p in parts]) for item in fields(Positions)))


@torch.inference_mode()
def compare(
    hidden: Tensor,
    head: torch.nn.Linear,
    labels: Tensor,
    targets: Targets,
    tempered: Targets | None,
    temperature: float,
) -> dict[str, np.ndarray]:
    """The columns of `Positions` from `label` on, for hidden states [N, D] and the targets of the same N positions.

    tempered: the same targets at `temperature`; None: it is 1. [N, V] is held for `ROWS_AT_ONCE` positions at most.
    """
    found: list[dict[str, Tensor]] = []
    for start in range(0, len(hidden), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        logits = head(hidden[part]).float()
        log_q = logits.log_softmax(-1)
        reverse, forward = _both_kls(log_q, targets, part)
        best = log_q.max(-1)
        event = targets.probs[part].max(1)
        row = {
            "label": labels[part],
            "has_target": targets.has_target[part],
            "student_teacher": reverse,
            "teacher_student": forward,
            "student_teacher_at_t": reverse,
            "teacher_student_at_t": forward,
            "cross_entropy": -log_q.gather(1, labels[part, None])[:, 0],
            "best": best.indices,
            "best_probability": best.values.exp(),
            "teacher_best": _token_of(targets, part, event.indices),
            "teacher_probability": event.values,
        }
        if tempered is not None:
            log_q_at_t = logits.div_(temperature).log_softmax(-1)
            row["student_teacher_at_t"], row["teacher_student_at_t"] = _both_kls(log_q_at_t, tempered, part)
        found.append(row)
    columns = {item.name: item for item in fields(Positions)}
    return {
        name: torch.cat([row[name] for row in found]).cpu().numpy() if found else np.zeros(0)
        for name in list(columns)[3:]
    }


def _both_kls(log_q: Tensor, targets: Targets, part: slice) -> tuple[Tensor, Tensor]:
    """KL(student || teacher) and KL(teacher || student) [C], over the teacher's events and one bucket for the rest."""
    ids, probs, rest = targets.ids[part], targets.probs[part], targets.rest[part]
    listed = ids >= 0
    # One column more, for the ids that are none.
    padded = torch.cat([log_q, log_q.new_full((len(log_q), 1), -torch.inf)], 1)
    index = ids.masked_fill(~listed, log_q.shape[1])
    log_event = padded.gather(1, index)
    if targets.events is not None:
        q = torch.zeros_like(log_event).scatter_add_(1, targets.events[part], log_event.exp())
        log_event = q.log()
    log_rest = padded.scatter_(1, index, -torch.inf).logsumexp(1, keepdim=True)
    log_all = torch.cat([log_event, log_rest], 1)
    q = log_all.exp()
    log_all = log_all.masked_fill(q == 0, 0.0)
    p = torch.cat([probs.to(q.dtype), rest.to(q.dtype)[:, None]], 1)
    silent = ~targets.has_target[part]
    reverse, forward = (kl(p, q, log_all, 0.0)[0].masked_fill(silent, 0.0) for kl in (reverse_kl, forward_kl))
    return reverse, forward


def _token_of(targets: Targets, part: slice, event: Tensor) -> Tensor:
    """The first listed token of an event of each row; -1 where there is no target."""
    ids = targets.ids[part]
    place = event[:, None]
    if targets.events is not None:
        place = ((targets.events[part] == event[:, None]) & (ids >= 0)).to(torch.uint8).argmax(1, keepdim=True)
    return ids.gather(1, place)[:, 0].masked_fill(~targets.has_target[part], -1)


def labelled(samples: Sequence[Sample], shared: int, pack_length: int) -> Iterator[tuple[str, Response, int]]:
    """(record id, response, how many of its tokens are labels), in the order of a packed batch's labelled positions."""
    for row in pack([sample.encoded for sample in samples], shared, pack_length):
        for placed in sorted(row.placed, key=lambda placed: placed.first):
            yield placed.record_id, placed.response, min(len(placed.response.ids), len(row.input_ids) - placed.first)


def calibration_error(probability: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error (Guo et al., arXiv 1706.04599): sum over bins of n_b / N |accuracy - confidence|.

    probability: [N], of the likeliest token; right: bool [N], whether it is the reference's; 15 bins of equal width.
    """
    bins = np.minimum((probability * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=right.astype(np.float64) - probability, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / max(len(bins), 1))


def by_place(positions: Positions) -> list[dict[str, Any]]:
    """Means over the positions with a target at each place in the answer: {"place", "n", both KLs, "agreement"}."""
    lines = []
    for first, last in PLACES:
        place = positions.place + 1
        here = positions.has_target & (place >= first) & (place <= (last or np.inf))
        if not here.any():
            continue
        lines.append(
            {
                "place": f"{first}" if first == last else f"{first} to {last}" if last else f"{first} on",
                "n": int(here.sum()),
                "student_teacher": float(positions.student_teacher[here].mean()),
                "teacher_student": float(positions.teacher_student[here].mean()),
                "agreement": float((positions.best == positions.teacher_best)[here].mean()),
            }
        )
    return lines


def most_different(positions: Positions, records: Sequence[Record], tokenizer: Any, count: int = 20) -> list[dict]:
    """The positions where KL(student || teacher) is largest, in words, one of each record and the worst first."""
    words = token_bytes(tokenizer)
    order = np.argsort(-positions.student_teacher, kind="stable")
    seen: set[int] = set()
    rows: list[dict] = []
    for at in order:
        record = int(positions.record[at])
        if len(rows) == count or not positions.has_target[at]:
            break
        if record in seen:
            continue
        seen.add(record)
        question, answer = records[record].turns()[int(positions.turn[at])]
        ids = tokenizer(answer, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        rows.append(
            {
                "record": records[record].id,
                "question": question,
                "so_far": tokenizer.decode(ids[: int(positions.place[at])]),
                "reference": _word(words, positions.label[at]),
                "student": _word(words, positions.best[at]),
                "student_probability": round(float(positions.best_probability[at]), 4),
                "teacher": _word(words, positions.teacher_best[at]),
                "teacher_probability": round(float(positions.teacher_probability[at]), 4),
                "student_teacher": round(float(positions.student_teacher[at]), 4),
            }
        )
    return rows


def _word(words: Sequence[bytes | None], token: Any) -> str:
    said = words[int(token)]
    return "<end>" if said is None else said.decode("utf-8", "replace")
