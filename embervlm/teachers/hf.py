"""Any `AutoModelForImageTextToText` with a chat template as a teacher: scored and asked in its own words."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from embervlm import tokens
from embervlm.data.images import load_image, resolve_image
from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.teachers.digest import digest_parameters
from embervlm.teachers.locate import Located, as_written, find_answers, locate
from embervlm.teachers.memory import Halving, in_halves
from embervlm.teachers.outputs import Answer, Sampling, TeacherOutputs
from embervlm.teachers.passes import Row
from embervlm.teachers.sampling import Choosing
from embervlm.teachers.scoring import Scorer


class HFTeacher:
    """A transformers model and its processor. One forward pass scores every assistant turn of a conversation."""

    weights = ""
    """Digest for the fingerprint (`digest_folder`); empty: taken from the parameters themselves."""
    shares_prefix = True
    """Whether the questions about one picture share its keys and values."""

    revision: str | None = None
    """Commit of the hub that it was loaded at; None: a folder."""

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
        self._halving = Halving(name, model, "answers")
        self._scorer = Scorer(name, model, self.tokenizer, self._read, self.shares_prefix)

    def score(self, records: list[Record], image_root: Path, top_k: int) -> list[list[TeacherOutputs]]:
        """What the teacher says about each assistant turn; sorted by length and batched inside.

        Raises UserError for a missing image, a conversation longer than the teacher can read, an answer that cannot be
        found in the rendered conversation, or logits that are not numbers.
        """
        rows = [self._prepare(key, record) for key, record in enumerate(records)]
        return self._scorer.score(rows, image_root, top_k, self.batch_size)

    def generate(self, records: list[Record], image_root: Path, max_new_tokens: int) -> list[str]:
        """The greedy answer to each record's first instruction."""
        first = [replace(r, instruction=r.turns()[0][0], response="", conversations=None) for r in records]
        return [answer.text for answer in self.answer(first, image_root, max_new_tokens)]

    def answer(
        self, records: list[Record], image_root: Path, max_new_tokens: int, sampling: Sampling | None = None
    ) -> list[Answer]:
        """The answer to each record's last instruction; sorted by length and batched inside.

        Raises UserError for a missing image, a prompt that leaves no room to answer, or logits that are not numbers.
        """
        answers = [Answer("", finished=True)] * len(records)
        prompts = [self._render(record.turns(), record.image is not None, prompt=True) for record in records]

        def ask(part: list[int]) -> list[Answer]:
            drawn = None if sampling is None else sampling.of(part)
            chosen, texts = [records[key] for key in part], [prompts[key] for key in part]
            return self._answer_batch(chosen, texts, image_root, max_new_tokens, drawn)

        for with_image in (True, False):
            keys = [key for key, record in enumerate(records) if (record.image is not None) == with_image]
            keys.sort(key=lambda key: len(prompts[key]))
            for start in range(0, len(keys), self.batch_size):
                part = keys[start : start + self.batch_size]
                asked = self._halving(part, lambda part: [records[key] for key in part], ask, in_halves)
                for key, said in zip(part, asked, strict=True):
                    answers[key] = said
        return answers

    def _answer_batch(
        self, records: list[Record], prompts: list[str], image_root: Path, max_new_tokens: int, drawn: Sampling | None
    ) -> list[Answer]:
        images = [self._image(record, image_root) for record in records] if records[0].image is not None else None
        inputs = self._inputs(records, prompts, images, padding_side="left")
        lengths = inputs["attention_mask"].sum(1)
        room = max_new_tokens if self._scorer.max_positions is None else self._scorer.max_positions - int(lengths.max())
        if room < 1:
            raise UserError(
                f"record {records[int(lengths.argmax())].id}: its prompt is {int(lengths.max())} tokens long for "
                f"teacher {self.name}, which reads {self._scorer.max_positions} with the answer; shorten or "
                "leave out the record"
            )
        stops = sorted({self.end_of_turn_id, *_as_list(self.model.generation_config.eos_token_id)})
        ends = torch.tensor(stops, device=inputs["input_ids"].device)
        choosing = Choosing(self.name, [record.id for record in records], ends, drawn)
        with torch.inference_mode():
            ids = self.model.generate(
                **inputs,
                max_new_tokens=min(max_new_tokens, room),
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                eos_token_id=stops,
                pad_token_id=self.tokenizer.pad_token_id,
                logits_processor=choosing,
            )
        texts = self.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        told = zip(texts, choosing.finished, choosing.logprobs, strict=True)
        return [Answer(text.strip(), finished, logprob) for text, finished, logprob in told]

    def fingerprint(self) -> dict[str, str]:
        """Name, and digests of the weights, the tokenizer and the chat template. Independent of device and precision
        when the teacher was loaded from files."""
        template = hashlib.sha256(str(self.processor.chat_template).encode()).hexdigest()[:16]
        return {
            "name": self.name,
            "weights": self.weights or digest_parameters(self.model),
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

    def _prepare(self, key: int, record: Record) -> Row:
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
        return Row(key, record, rendered, ids, [_shift(at, turn[1]) for at, turn in zip(located, turns, strict=True)])

    def _adds_special_tokens(self, rendered: str) -> bool:
        bos = self.tokenizer.bos_token
        return not (bos and rendered.startswith(bos))  # as the processor's own apply_chat_template decides

    def _read(self, rows: Sequence[Row], image_root: Path) -> Any:
        with_image = rows[0].record.image is not None
        images = [self._image(row.record, image_root) for row in rows] if with_image else None
        return self._inputs([row.record for row in rows], [row.rendered for row in rows], images, padding_side="right")

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


def _shift(located: Located, written: str) -> Located:
    starts, ends = as_written(located.starts, located.ends, written)
    return Located(located.behind, located.ids, starts, ends)


def _as_list(value: Any) -> list[int]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [int(value)]
