"""Rows through a transformers model: in passes that fit, pictures and prompts once where they are shared, and what is
kept of the answers' positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embervlm import tokens
from embervlm.console import console
from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.teachers.memory import Halving
from embervlm.teachers.outputs import TeacherOutputs
from embervlm.teachers.passes import Bounds, Pass, Row, plan_passes
from embervlm.teachers.prefix import CannotShare, prefix_reach, read_prefix
from embervlm.teachers.read_out import read_out

AGREE = {torch.float32: 1e-3}
"""Mean difference in nats up to which a shared beginning counts as the same as none; 0.1 for narrower numbers."""

Scored = list[tuple[Row, list[TeacherOutputs]]]


class Scorer:
    """Scores the conversations of one model.

    Args:
        read: rows, all with pictures or all without, and the image root -> the processor's batch on the model's
            device, padded on the right.
        shares_prefix: let the questions about one picture share what stands before them.
    """

    def __init__(
        self, name: str, model: Any, tokenizer: Any, read: Callable[[Sequence[Row], Path], Any], shares_prefix: bool
    ) -> None:
        self.name, self.model, self.shares_prefix = name, model, shares_prefix
        self._read_batch = read
        self._pad_id = tokenizer.pad_token_id
        self._vocabulary = len(tokens.token_bytes(tokenizer))
        self.max_positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._reach = prefix_reach(model.config)
        self._halving = Halving(name, model, "reads")
        self._visual = 0  # most tokens that a picture's placeholder became so far, less one
        self._checked = False

    def score(self, rows: Sequence[Row], image_root: Path, top_k: int, batch_size: int) -> list[list[TeacherOutputs]]:
        """For each row its turns; rows are sorted and batched inside, at most `batch_size` together.

        Raises:
            UserError: a row that is too long, does not fit into memory, or makes the model give no numbers.
        """
        results: list[list[TeacherOutputs]] = [[] for _ in rows]
        bounds = Bounds(int(min(batch_size, self._halving.most)), self._vocabulary, self._visual, self._reach)
        for part in plan_passes(rows, bounds, self.shares_prefix):
            for row, outputs in self._halving(
                part, _records, lambda part: self._score_pass(part, image_root, top_k), Pass.halves
            ):
                results[row.key] = outputs
        return results

    def _score_pass(self, part: Pass, image_root: Path, top_k: int) -> Scored:
        if part.prefix and self.shares_prefix:
            try:
                shared = self._score_shared(part, image_root, top_k)
                if self._agrees_with_alone(shared, image_root):
                    return shared
                why = "which gives other probabilities"
            except CannotShare as problem:
                why = str(problem)
            self.shares_prefix = False
            console.print(
                f"[yellow]note[/] {self.name} reads a picture again for each question about it ({why})", soft_wrap=True
            )
        return self._score_alone(part.rows, image_root, top_k)

    def _agrees_with_alone(self, shared: Scored, image_root: Path) -> bool:
        """Asked once, of two rows: no list of models that share rightly could ever be complete."""
        if self._checked:
            return True
        alone = self._score_alone([row for row, _ in shared[:2]], image_root, 1)
        self._checked = True
        differences = [
            np.abs(one.realised_logprobs - other.realised_logprobs)
            for (_, first), (_, second) in zip(shared, alone, strict=False)
            for one, other in zip(first, second, strict=True)
        ]
        return float(np.concatenate(differences).mean()) <= AGREE.get(self.model.dtype, 0.1)

    def _score_alone(self, rows: Sequence[Row], image_root: Path, top_k: int) -> Scored:
        """Each row with all that it reads, padded on the right."""
        inputs, lengths = self._read(rows, image_root)
        places = []
        for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            self._check_length(row, length)
            places += [(number, at) for at in _read_from(row, length)]
        return self._collect(rows, {**inputs, "use_cache": False}, places, top_k)

    def _score_shared(self, part: Pass, image_root: Path, top_k: int) -> Scored:
        """The beginnings once, one a group; then what follows them in every row.

        Raises:
            CannotShare: that is not possible with this model or template.
        """
        inputs, lengths = self._read([group[0] for group in part.groups], image_root)
        growth = [length - len(group[0].plain_ids) for length, group in zip(lengths, part.groups, strict=True)]
        if len(set(growth)) > 1:  # pictures of other sizes make other numbers of visual tokens
            alike: dict[int, list[tuple[Row, ...]]] = {}
            for group, grown in zip(part.groups, growth, strict=True):
                alike.setdefault(grown, []).append(group)
            smaller = [Pass(tuple(groups), part.prefix) for groups in alike.values()]
            return [told for one in smaller for told in self._score_shared(one, image_root, top_k)]
        shape, prefix = inputs["input_ids"].shape, part.prefix + growth[0]
        for group, ids, length in zip(part.groups, inputs["input_ids"].tolist(), lengths, strict=True):
            if ids[prefix:length] != group[0].plain_ids[part.prefix :]:
                raise CannotShare("the picture comes behind the question")
        beginnings = {
            key: value[:, :prefix] if isinstance(value, Tensor) and value.shape[:2] == shape else value
            for key, value in inputs.items()
        }
        rows = part.rows
        owners = [number for number, group in enumerate(part.groups) for _ in group]
        read = read_prefix(self.model, beginnings, owners)
        rests = [torch.tensor(row.plain_ids[part.prefix :]) for row in rows]
        places = []
        for number, row in enumerate(rows):
            self._check_length(row, len(row.plain_ids) + growth[0])
            places += [(number, at) for at in _read_from(row, len(rests[number]))]
        padding = self._pad_id
        ids = torch.nn.utils.rnn.pad_sequence(rests, batch_first=True, padding_value=padding)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(rest) for rest in rests], batch_first=True)
        device = self.model.device
        return self._collect(rows, read.follow(ids.to(device), mask.to(device)), places, top_k)

    def _read(self, rows: Sequence[Row], image_root: Path) -> tuple[Any, list[int]]:
        """The processor's batch, padded on the right, and the length of each row; the answers stand where they were
        located."""
        inputs = self._read_batch(rows, image_root)
        lengths = inputs["attention_mask"].sum(1).tolist()
        for row, ids, length in zip(rows, inputs["input_ids"].tolist(), lengths, strict=True):
            behind = row.located[0].behind
            if ids[length - behind : length] != row.plain_ids[len(row.plain_ids) - behind :]:
                raise UserError(
                    f"record {row.record.id}: teacher {self.name}'s processor tokenises the answer otherwise than its "
                    "tokenizer does; its answers cannot be located, so it cannot be used as a teacher"
                )
            if row.record.image is not None:
                self._visual = max(self._visual, length - len(row.plain_ids))
        return inputs, lengths

    def _collect(
        self, rows: Sequence[Row], inputs: dict[str, Any], places: list[tuple[int, int]], top_k: int
    ) -> Scored:
        """The forward pass, its results told apart by row and turn."""
        realised = np.concatenate([answer.ids for row in rows for answer in row.located])
        columns = read_out(self.model, inputs, places, realised, top_k)
        broken = np.isnan(columns["top_logprobs"]).any(1) | ~np.isfinite(columns["realised_logprobs"])
        if broken.any():
            record = rows[places[broken.argmax()][0]].record
            raise UserError(
                f"record {record.id}: teacher {self.name} gave probabilities that are not numbers; "
                "load it in bf16 or fp32 instead of fp16, or check its weights"
            )
        results, at = [], 0
        for row in rows:
            turns = []
            for turn, answer in enumerate(row.located):
                part = {key: column[at : at + len(answer.ids)] for key, column in columns.items()}
                turns.append(TeacherOutputs(row.record.id, turn, answer.ids, answer.starts, answer.ends, **part))
                at += len(answer.ids)
            results.append((row, turns))
        return results

    def _check_length(self, row: Row, length: int) -> None:
        if self.max_positions is not None and length > self.max_positions:
            raise UserError(
                f"record {row.record.id} is {length} tokens long for teacher {self.name}, which reads "
                f"{self.max_positions}; shorten or leave out the record"
            )


def _read_from(row: Row, length: int) -> list[int]:
    """Positions that predict the answers' tokens in a row of `length` tokens, all answers at its end."""
    begins = [length - answer.behind - 1 for answer in row.located]
    return [begin + step for begin, answer in zip(begins, row.located, strict=True) for step in range(len(answer.ids))]


def _records(part: Pass) -> list[Record]:
    return [row.record for row in part.rows]
