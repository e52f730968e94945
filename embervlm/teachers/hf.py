"""Any `AutoModelForImageTextToText` with a chat template as a teacher: scored and asked in its own words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from embervlm import tokens
from embervlm.console import console
from embervlm.data.images import load_image, resolve_image
from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.teachers.locate import Located, find_answers, locate
from embervlm.teachers.outputs import TEMPERATURE_GRID, TeacherOutputs

LOGITS_AT_ONCE = 2**27
"""Most logits of one forward pass (positions x vocabulary); rows beyond it wait for the next pass."""

POSITIONS_AT_ONCE = 256
"""Positions whose logits are turned into fp32 log-probabilities together."""


@dataclass(frozen=True)
class _Row:
    """One conversation, ready for the model. `key` is its place in the caller's list."""

    key: int
    record: Record
    rendered: str
    plain_ids: list[int]  # before the processor repeats the image's placeholder
    located: list[Located]

    @property
    def positions(self) -> int:
        return sum(len(answer.ids) for answer in self.located)


class HFTeacher:
    """A transformers model and its processor. One forward pass scores every assistant turn of a conversation."""

    weights = ""
    """Digest for the fingerprint (`digest_folder`); empty: taken from the parameters themselves."""

    def __init__(self, name: str, model: Any, processor: Any, batch_size: int = 32) -> None:
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.batch_size = batch_size
        if not getattr(self.tokenizer, "is_fast", False):
            raise UserError(
                f"teacher {name}: its tokenizer tells no offsets (it is not a fast one); use another teacher"
            )
        if getattr(processor, "chat_template", None) is None:
            if getattr(self.tokenizer, "chat_template", None) is None:
                raise UserError(f"teacher {name} has no chat template: a chat model is needed, base models are not")
            processor.chat_template = self.tokenizer.chat_template
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._alphabet = tokens.token_bytes(self.tokenizer)
        self._image_token = str(getattr(processor, "image_token", None) or "")
        self.end_of_turn_id = self._find_end_of_turn()
        config = model.config.get_text_config()
        self._max_positions = getattr(config, "max_position_embeddings", None)

    def score(self, records: list[Record], image_root: Path, top_k: int) -> list[list[TeacherOutputs]]:
        """What the teacher says about each assistant turn; sorted by length and batched inside.

        Raises UserError for a missing image, a conversation longer than the teacher can read, an answer that cannot be
        found in the rendered conversation, or logits that are not numbers.
        """
        rows = [self._prepare(key, record) for key, record in enumerate(records)]
        results: list[list[TeacherOutputs]] = [[] for _ in records]
        for batch in self._batches(rows):
            for row, outputs in zip(batch, self._score_or_halve(batch, image_root, top_k), strict=True):
                results[row.key] = outputs
        return results

    def generate(self, records: list[Record], image_root: Path, max_new_tokens: int) -> list[str]:
        """The greedy answer to each record's first instruction."""
        answers = [""] * len(records)
        stops = {self.end_of_turn_id, *_as_list(self.model.generation_config.eos_token_id)}
        prompts = [self._render(record.turns()[:1], record.image is not None, prompt=True) for record in records]
        for with_image in (True, False):
            keys = [key for key, record in enumerate(records) if (record.image is not None) == with_image]
            keys.sort(key=lambda key: len(prompts[key]))
            for start in range(0, len(keys), self.batch_size):
                part = keys[start : start + self.batch_size]
                images = [self._image(records[key], image_root) for key in part] if with_image else None
                inputs = self._inputs(
                    [records[key] for key in part], [prompts[key] for key in part], images, padding_side="left"
                )
                with torch.inference_mode():
                    ids = self.model.generate(
                        **inputs,
                        max_new_tokens=max_new_tokens,
                        do_sample=False,
                        num_beams=1,
                        temperature=None,
                        top_p=None,
                        top_k=None,
                        eos_token_id=sorted(stops),
                        pad_token_id=self.tokenizer.pad_token_id,
                    )
                said = ids[:, inputs["input_ids"].shape[1] :]
                texts = self.tokenizer.batch_decode(said, skip_special_tokens=True)
                for key, text in zip(part, texts, strict=True):
                    answers[key] = text.strip()
        return answers

    def fingerprint(self) -> dict[str, str]:
        """Name, and digests of the weights, the tokenizer and the chat template. Independent of device and precision
        when the teacher was loaded from files."""
        template = hashlib.sha256(str(self.processor.chat_template).encode()).hexdigest()[:16]
        return {
            "name": self.name,
            "weights": self.weights or _digest_parameters(self.model),
            "tokenizer": tokens.fingerprint(self.tokenizer),
            "template": template,
        }

    def _find_end_of_turn(self) -> int:
        """The special token that the template puts right behind an answer, else the tokenizer's end of sequence."""
        answer = "yes"
        rendered = self._render((("?", answer),), image=False)
        place = rendered.rfind(answer)
        if place < 0:
            raise UserError(f"teacher {self.name}: its chat template does not write the assistant's words")
        behind = self.tokenizer(rendered[place + len(answer) :], add_special_tokens=False)["input_ids"]
        if behind and self._alphabet[behind[0]] is None:
            return int(behind[0])
        if self.tokenizer.eos_token_id is None:
            raise UserError(f"teacher {self.name}: neither its chat template nor its tokenizer says how an answer ends")
        return int(self.tokenizer.eos_token_id)

    def _render(self, turns: Sequence[tuple[str, str]], image: bool, prompt: bool = False) -> str:
        """The conversation in the teacher's template; `prompt`: without the last answer, ready to be continued."""
        messages: list[dict[str, Any]] = []
        for number, (human, assistant) in enumerate(turns):
            if self._image_token:
                human = human.replace(self._image_token, "")
            content = [{"type": "image"}] if image and number == 0 else []
            messages.append({"role": "user", "content": [*content, {"type": "text", "text": human}]})
            messages.append({"role": "assistant", "content": [{"type": "text", "text": assistant.strip()}]})
        return self.processor.apply_chat_template(
            messages[:-1] if prompt else messages, add_generation_prompt=prompt, tokenize=False
        )

    def _prepare(self, key: int, record: Record) -> _Row:
        turns, image = record.turns(), record.image is not None
        rendered = self._render(turns, image)
        answers = [assistant.strip() for _, assistant in turns]
        prompts = [self._render(turns[: number + 1], image, prompt=True) for number in range(len(turns))]
        try:
            places = find_answers(rendered, prompts, answers)
            special = self._adds_special_tokens(rendered)
            ids, located = locate(
                self.tokenizer, self._alphabet, rendered, places, answers, self.end_of_turn_id, special
            )
        except UserError as error:
            raise UserError(f"record {record.id}, teacher {self.name}: {error}") from None
        return _Row(key, record, rendered, ids, [_shift(at, turn[1]) for at, turn in zip(located, turns, strict=True)])

    def _adds_special_tokens(self, rendered: str) -> bool:
        bos = self.tokenizer.bos_token
        return not (bos and rendered.startswith(bos))  # as the processor's own apply_chat_template decides

    def _batches(self, rows: list[_Row]) -> Iterator[list[_Row]]:
        """Rows of like length, with pictures or without, within the bounds on rows and logits."""
        most = max(LOGITS_AT_ONCE // max(len(self._alphabet), 1), 1)
        batch: list[_Row] = []
        for row in sorted(rows, key=lambda row: (row.record.image is None, len(row.plain_ids), row.key)):
            full = len(batch) >= self.batch_size or sum(r.positions for r in batch) + row.positions > most
            if batch and (full or (row.record.image is None) != (batch[0].record.image is None)):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _score_or_halve(self, batch: list[_Row], image_root: Path, top_k: int) -> list[list[TeacherOutputs]]:
        """A batch that does not fit into memory is read in halves, and later ones begin with that size."""
        try:
            return self._score_batch(batch, image_root, top_k)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                raise UserError(
                    f"record {batch[0].record.id} does not fit into the memory of {self.model.device} beside teacher "
                    f"{self.name} ({str(error).partition('.')[0]}); use another --device"
                ) from None
        # Not inside of the handler, where the traceback would still hold the tensors of the failed pass.
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        half = (len(batch) + 1) // 2
        if half < self.batch_size:
            self.batch_size = half
            console.print(
                f"[yellow]note[/] out of memory: {self.name} now reads {half} records at once", soft_wrap=True
            )
        parts = batch[:half], batch[half:]
        return [outputs for part in parts for outputs in self._score_or_halve(part, image_root, top_k)]

    def _score_batch(self, batch: list[_Row], image_root: Path, top_k: int) -> list[list[TeacherOutputs]]:
        with_image = batch[0].record.image is not None
        images = [self._image(row.record, image_root) for row in batch] if with_image else None
        inputs = self._inputs(
            [row.record for row in batch], [row.rendered for row in batch], images, padding_side="right"
        )
        lengths = inputs["attention_mask"].sum(1).tolist()
        places: list[tuple[int, int]] = []
        for number, (row, length) in enumerate(zip(batch, lengths, strict=True)):
            self._check(row, inputs["input_ids"][number, :length].tolist())
            for answer in row.located:
                begin = length - answer.behind - 1  # the position that predicts the answer's first token
                places += [(number, begin + step) for step in range(len(answer.ids))]
        realised = np.concatenate([answer.ids for row in batch for answer in row.located])
        columns = self._read_out(inputs, places, realised, top_k)
        owners = np.array([number for number, _ in places])
        broken = np.isnan(columns["top_logprobs"]).any(1) | ~np.isfinite(columns["realised_logprobs"])
        if broken.any():
            record = batch[owners[broken.argmax()]].record
            raise UserError(
                f"record {record.id}: teacher {self.name} gave probabilities that are not numbers; "
                "load it in bf16 or fp32 instead of fp16, or check its weights"
            )
        results, at = [], 0
        for row in batch:
            turns = []
            for turn, answer in enumerate(row.located):
                part = {key: column[at : at + len(answer.ids)] for key, column in columns.items()}
                turns.append(TeacherOutputs(row.record.id, turn, answer.ids, answer.starts, answer.ends, **part))
                at += len(answer.ids)
            results.append(turns)
        return results

    def _read_out(
        self, inputs: Any, places: list[tuple[int, int]], realised: np.ndarray, top_k: int
    ) -> dict[str, np.ndarray]:
        """One forward pass; the head sees the answers' positions only."""
        rows, positions = (torch.tensor(side, device=self.model.device) for side in zip(*places, strict=True))
        with torch.inference_mode(), _head_at(self.model, rows, positions, tuple(inputs["input_ids"].shape)):
            logits = self.model(**inputs, use_cache=False).logits[0]
            target = torch.from_numpy(realised).long().to(logits.device)[:, None]
            parts: dict[str, list[Tensor]] = {
                key: [] for key in ("top_ids", "top_logprobs", "log_normalisers", "realised_logprobs")
            }
            for start in range(0, len(logits), POSITIONS_AT_ONCE):
                logp = logits[start : start + POSITIONS_AT_ONCE].float().log_softmax(-1)
                top = logp.topk(min(top_k, logp.shape[-1]), dim=-1)
                parts["top_ids"].append(top.indices.int())
                parts["top_logprobs"].append(top.values)
                parts["realised_logprobs"].append(logp.gather(1, target[start : start + POSITIONS_AT_ONCE])[:, 0])
                grid = [(logp / temperature).logsumexp(-1) for temperature in TEMPERATURE_GRID]
                parts["log_normalisers"].append(torch.stack(grid, 1))
        return {key: torch.cat(value).cpu().numpy() for key, value in parts.items()}

    def _inputs(
        self, records: list[Record], texts: list[str], images: list[Image.Image] | None, padding_side: str
    ) -> Any:
        """The processor's batch; `texts` are the records' conversations, or their prompts, as rendered."""
        inputs = self.processor(
            text=texts,
            images=None if images is None else [[image] for image in images],
            padding=True,
            padding_side=padding_side,
            return_tensors="pt",
            add_special_tokens=self._adds_special_tokens(texts[0]),
        )
        return inputs.to(self.model.device, dtype=self.model.dtype)

    def _image(self, record: Record, image_root: Path) -> Image.Image:
        assert record.image is not None
        return load_image(resolve_image(image_root, record.image))

    def _check(self, row: _Row, ids: list[int]) -> None:
        behind = row.located[0].behind
        if ids[len(ids) - behind :] != row.plain_ids[len(row.plain_ids) - behind :]:
            raise UserError(
                f"record {row.record.id}: teacher {self.name}'s processor tokenises the answer otherwise than its "
                "tokenizer does; its answers cannot be located, so it cannot be used as a teacher"
            )
        if self._max_positions is not None and len(ids) > self._max_positions:
            raise UserError(
                f"record {row.record.id} is {len(ids)} tokens long for teacher {self.name}, which reads "
                f"{self._max_positions}; shorten or leave out the record"
            )


@contextmanager
def _head_at(model: Any, rows: Tensor, positions: Tensor, shape: tuple[int, ...]) -> Iterator[None]:
    """Within it the output head computes logits [1, N, V] of these N places only, not [B, L, V]. A hook and not
    `logits_to_keep`, which keeps the same positions in every row; what a model does to its logits still happens."""
    head = model.get_output_embeddings()
    if head is None:
        raise UserError(f"teacher class {type(model).__name__} does not say which module makes its logits")

    def pick(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        if tuple(hidden.shape[:2]) != shape:
            raise UserError(
                f"teacher class {type(model).__name__} has {tuple(hidden.shape[:2])} hidden states for {shape} tokens: "
                "its positions cannot be told"
            )
        return (hidden[rows.to(hidden.device), positions.to(hidden.device)][None], *args[1:])

    handle = head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def _shift(located: Located, written: str) -> Located:
    """Spans in the answer as it is written: templates drop white space around it."""
    front = len(written.encode()) - len(written.lstrip().encode())
    if written == written.strip():
        return located
    known = located.starts >= 0
    starts, ends = np.where(known, located.starts + front, -1), np.where(known, located.ends + front, -1)
    if written != written.rstrip():
        starts[-1] = ends[-1] = -1  # the blanks before the end were never read
    return Located(located.behind, located.ids, starts, ends)


def _as_list(value: Any) -> list[int]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [int(value)]


def _digest_parameters(model: Any) -> str:
    """16 hex digits over names, shapes and the first values of all parameters."""
    digest = hashlib.sha256()
    for name, parameter in model.state_dict().items():
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(parameter.flatten()[:4096].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def digest_folder(folder: Path, only: str = "") -> str:
    """16 hex digits over config.json and, of every weight file or of the `only` one, name, size and first 4 MiB."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name == only if only else path.name == "config.json" or path.suffix in (".safetensors", ".bin"):
            with path.open("rb") as file:
                digest.update(f"{path.name} {path.stat().st_size}".encode() + file.read(2**22))
    return digest.hexdigest()[:16]
