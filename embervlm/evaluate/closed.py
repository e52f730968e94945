"""Answers out of a closed set, the likeliest one of it exactly, as OFA (arXiv 2202.03052) decodes VQA.

The set is a trie of token ids. A first descent takes the likeliest child at every node; what it finds is a bound: the
probability of a prefix only falls as it grows, so the search afterwards opens no prefix that is less likely already.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from embervlm.errors import UserError
from embervlm.evaluate.answerers import StudentAnswerer, load_pictures

if TYPE_CHECKING:
    from embervlm.data.record import Record

ROWS_AT_ONCE = 256


@dataclass
class Node:
    """A prefix that some answers share."""

    children: dict[int, Node] = field(default_factory=dict)
    answer: str | None = None  # the answer that ends here


@dataclass(frozen=True)
class _Open:
    """A prefix of one question's answer that may still win."""

    question: int
    node: Node
    ids: tuple[int, ...]
    score: float  # log-probability so far


def build_trie(tokenizer: Any, answers: Sequence[str]) -> Node:
    """Of the answers as the student is trained to write them, the EOS last.

    Raises:
        UserError: no answer.
    """
    root = Node()
    for answer in answers:
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        node = root
        for token in [*ids, tokenizer.eos_token_id]:
            node = node.children.setdefault(token, Node())
        node.answer = answer
    if not root.children:
        raise UserError("The closed set of answers is empty: the train split has no answers of this benchmark.")
    return root


def common_answers(records: Sequence[Record], most: int) -> list[str]:
    """The most frequent responses of some records."""
    return [answer for answer, _ in Counter(record.response.strip() for record in records).most_common(most) if answer]


class ClosedAnswerer:
    """An `Answerer` that only says what is in the trie; to a question longer than the model reads, nothing."""

    def __init__(self, model: Any, trie: Node) -> None:
        self.model, self.trie = model, trie

    def answers(self, records: Sequence[Record], image_root: Path, max_new_tokens: int) -> list[str]:
        """`max_new_tokens` does not matter: every answer of the set may win."""
        unread = set(self.unread(records))
        asked = [record for record in records if record.id not in unread]
        said = self.choose(load_pictures(asked, image_root), [r.instruction for r in asked]) if asked else []
        answers = dict(zip((record.id for record in asked), said, strict=True))
        return [answers.get(record.id, "") for record in records]

    def unread(self, records: Sequence[Record]) -> list[str]:
        return StudentAnswerer(self.model).unread(records)

    def choose(self, images: list[Any], prompts: list[str]) -> list[str]:
        """The likeliest answer of the set to each question."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                return self._choose(images, prompts)
        finally:
            self.model.train(was_training)

    def _choose(self, images: list[Any], prompts: list[str]) -> list[str]:
        batch = {
            name: value.to(self.model.device) for name, value in self.model.processor.prompts(images, prompts).items()
        }
        read = self.model(**batch, use_cache=True, logits_to_keep=1)
        mask, first = batch["attention_mask"], read.logits[:, -1].float().log_softmax(-1)
        best = [(-float("inf"), "")] * len(prompts)
        roots = [_Open(question, self.trie, (), 0.0) for question in range(len(prompts))]
        for greedy in (True, False):
            opened = roots
            while opened:
                depth = len(opened[0].ids)
                rows = first if depth == 0 else self._read(read.cache, mask, opened)
                longer: list[_Open] = []
                for prefix, row in zip(opened, rows, strict=True):
                    grown = self._grow(prefix, row)
                    if greedy:
                        grown = [max(grown, key=lambda child: child.score)]
                    for child in grown:
                        bound = best[prefix.question][0]
                        if child.node.answer is not None and child.score > bound:
                            best[prefix.question] = child.score, child.node.answer
                        if child.node.children and child.score > bound:
                            longer.append(child)
                opened = [child for child in longer if greedy or child.score > best[child.question][0]]
        return [answer for _, answer in best]

    @staticmethod
    def _grow(prefix: _Open, row: Tensor) -> list[_Open]:
        tokens = list(prefix.node.children)
        scores = row[torch.tensor(tokens, device=row.device)].tolist()
        return [
            _Open(prefix.question, prefix.node.children[token], (*prefix.ids, token), prefix.score + score)
            for token, score in zip(tokens, scores, strict=True)
        ]

    def _read(self, cache: Any, mask: Tensor, opened: Sequence[_Open]) -> Tensor:
        """Log-probabilities [len(opened), V] of what follows each prefix; all are of one length."""
        found = []
        for start in range(0, len(opened), ROWS_AT_ONCE):
            part = opened[start : start + ROWS_AT_ONCE]
            questions = torch.tensor([prefix.question for prefix in part], device=mask.device)
            ids = torch.tensor([prefix.ids for prefix in part], device=mask.device)
            own = copy.deepcopy(cache)
            own.batch_select_indices(questions)
            seen = torch.cat([mask[questions], mask.new_ones(ids.shape)], 1)
            logits = self.model(input_ids=ids, attention_mask=seen, cache=own, use_cache=True, logits_to_keep=1).logits
            found.append(logits[:, -1].float().log_softmax(-1))
        return torch.cat(found)
