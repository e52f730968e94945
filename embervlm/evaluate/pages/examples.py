"""Things to look at in a report: pictures with everybody's answers, one aligned text, one next word."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from embervlm.batch.collate import Collator
from embervlm.batch.dataset import RecordDataset, Sample
from embervlm.data.images import Place, load_image, resolve_image
from embervlm.data.record import Record
from embervlm.distill.targets import ANCHORED, INTERIOR, NONE, ResponseTargets
from embervlm.evaluate.instruct import instruction_score
from embervlm.evaluate.pages.report_inputs import AlignedText, Kind, NextToken, PictureExample, Said, Token
from embervlm.evaluate.teacher_view import TeacherView
from embervlm.evaluate.vqa import question_type, record_accuracy
from embervlm.teachers.outputs import TeacherOutputs
from embervlm.tokens import encode_spans, token_bytes

SMALL = 128
"""Pictures up to so many pixels a side are shown enlarged without smoothing."""

LARGEST = 360
END = "⏎"
KIND_NAMES = {ANCHORED: "anchored", INTERIOR: "interior", NONE: "none"}
Answers = tuple[str, Kind, Mapping[str, str]]
"""A system's name, its place in the story, and record id -> what it said."""

MOST_TOKENS = 26
"""Student tokens of a text that is shown cut up."""


def picture_examples(
    records: Sequence[Record],
    image_root: Path,
    systems: Sequence[Answers],
    count: int = 12,
    seed: int = 0,
) -> tuple[PictureExample, ...]:
    """Records chosen by chance, from each kind of question in turn, each picture once: nobody picked the good ones.

    Records that nobody answered are left out.
    """
    answered = [r for r in records if r.image is not None and any(r.id in answers for _, _, answers in systems)]
    order = np.random.default_rng(seed).permutation(len(answered))
    by_kind: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for at in order:
        record = answered[at]
        by_kind[record.source, question_type(record)].append(record)
    kinds = sorted(by_kind)
    turn = [kinds[at] for at in np.random.default_rng(seed).permutation(len(kinds))]
    chosen: list[Record] = []
    seen: set[str | None] = set()
    while len(chosen) < count and any(by_kind.values()):
        for kind in turn:
            while by_kind[kind]:
                record = by_kind[kind].pop()
                if record.image not in seen:
                    seen.add(record.image)
                    chosen.append(record)
                    break
    return tuple(_picture(record, image_root, systems) for record in chosen[:count])


def picture_data_uri(path: Place, largest: int = LARGEST) -> tuple[str, bool]:
    """The picture inside the page, and whether it is small: those stay as they are, others shrink to `largest`."""
    image = load_image(path)
    small = max(image.size) <= SMALL
    if not small:
        image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    kind, data = "jpeg", _encoded(image, "JPEG", quality=92 if small else 85)
    if small and len(png := _encoded(image, "PNG", optimize=True)) <= len(data):
        kind, data = "png", png  # of a drawing; a photograph is several times as large
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}", small


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def aligned_example(dataset: RecordDataset, teacher: TeacherView, looked: int = 200) -> AlignedText | None:
    """The text among the first `looked` where the two tokenizers differ most, and not too long to look at."""
    samples = [dataset[at] for at in range(min(looked, len(dataset)))]
    best, best_score = None, -1.0
    for sample, targets in zip(samples, _projected(samples, teacher), strict=True):
        if not sample.encoded.responses or len(sample.encoded.responses[0].ids) > MOST_TOKENS:
            continue
        said = teacher.outputs([sample.record])[0]
        text = _align(dataset.processor, sample, said[0], targets[0], teacher.name)
        score = sum(len(mine) != 1 or len(theirs) != 1 for mine, theirs in text.groups) + len(text.groups) / 100
        if score > best_score:
            best, best_score = text, score
    return best


def next_token_example(model: Any, dataset: RecordDataset, teacher: TeacherView, looked: int = 64) -> NextToken | None:
    """The anchored position where the teacher hesitates most while its favourite still has a third (a teacher that is
    never so sure: where it is surest). None where there is no anchored position."""
    best: tuple[Sample, int, int, TeacherOutputs] | None = None
    most = -1.0
    samples = [dataset[at] for at in range(min(looked, len(dataset)))]
    for sample, targets in zip(samples, _projected(samples, teacher), strict=True):
        if not targets or len(targets[0].kinds) < 3:
            continue
        said = teacher.outputs([sample.record])[0][0]
        starts = _student_starts(dataset.processor.tokenizer, sample)
        for j in np.flatnonzero(targets[0].kinds[:-1] == ANCHORED):
            at = np.flatnonzero(said.starts == starts[j])
            if len(at) != 1:
                continue
            p = np.exp(said.top_logprobs[at[0]].astype(np.float64))
            doubt = float(-(p * np.log(np.maximum(p, 1e-12))).sum())
            interest = doubt if p[0] > 1 / 3 else p[0] - 1
            if interest > most:
                best, most = (sample, int(j), int(at[0]), said), interest
    if best is None:
        return None
    sample, place, row, said = best
    tokenizer = dataset.processor.tokenizer
    words, response = token_bytes(tokenizer), sample.encoded.responses[0]
    before = response.text.encode("utf-8")[: int(_student_starts(tokenizer, sample)[place])]
    image, small = None, True
    if sample.record.image is not None:
        image, small = picture_data_uri(resolve_image(dataset.image_root, sample.record.image))
    return NextToken(
        question=sample.record.instruction,
        so_far=before.decode("utf-8", "replace"),
        actual=_word(words, int(response.ids[place]), tokenizer.eos_token_id),
        student=_student_top(model, sample, response.first + place, words, tokenizer),
        teacher=tuple(
            (_word(teacher.token_bytes, int(token), teacher.end_of_turn_id), float(np.exp(logprob)))
            for token, logprob in zip(said.top_ids[row][:5], said.top_logprobs[row][:5], strict=True)
        ),
        image=image,
        small=small,
    )


def _picture(record: Record, image_root: Path, systems: Sequence[Answers]) -> PictureExample:
    assert record.image is not None
    image, small = picture_data_uri(resolve_image(image_root, record.image))
    said = tuple(
        Said(name, kind, answers[record.id], _score(record, answers[record.id]))
        for name, kind, answers in systems
        if record.id in answers
    )
    return PictureExample(image, small, record.instruction, record.response, said)


def _score(record: Record, answer: str) -> float:
    if record.answers:
        return record_accuracy(answer, record)
    return instruction_score(answer, record.response, record.instruction).score


def _projected(samples: Sequence[Sample], teacher: TeacherView) -> list[list[ResponseTargets]]:
    return teacher.targets([sample.record for sample in samples], [sample.encoded for sample in samples])


def _student_starts(tokenizer: Any, sample: Sample) -> np.ndarray:
    """First byte of each student token of the first answer, the end of turn last."""
    text = sample.encoded.responses[0].text
    return np.append(encode_spans(tokenizer, text).starts, len(text.encode("utf-8")))


def _align(processor: Any, sample: Sample, said: TeacherOutputs, targets: ResponseTargets, teacher: str) -> AlignedText:
    """Both sides cut at every byte where both begin a token."""
    encoded, tokenizer = sample.encoded, processor.tokenizer
    response = encoded.responses[0]
    raw = response.text.encode("utf-8")
    mine = _student_starts(tokenizer, sample)
    cuts = sorted({0, len(raw)} | (set(mine.tolist()) & set(said.starts.tolist())))

    def piece(start: int, end: int) -> str:
        return END if start >= len(raw) else _visible(raw[max(start, 0) : end])

    student: list[list[Token]] = [[] for _ in cuts]
    theirs: list[list[Token]] = [[] for _ in cuts]
    for j, start in enumerate(mine[: len(targets.kinds)]):
        end = int(mine[j + 1]) if j + 1 < len(mine) else len(raw)
        group = int(np.searchsorted(cuts, start, side="right")) - 1
        student[group].append(Token(piece(int(start), end), KIND_NAMES[int(targets.kinds[j])]))
    for start, end in zip(said.starts.tolist(), said.ends.tolist(), strict=True):
        group = int(np.searchsorted(cuts, max(start, 0), side="right")) - 1
        theirs[group].append(Token(piece(start, end)))
    groups = tuple((tuple(a), tuple(b)) for a, b in zip(student, theirs, strict=True) if a or b)
    prompt = _folded([tokenizer.decode([token]) for token in encoded.input_ids[: response.first + 1].tolist()])
    return AlignedText(prompt, groups, "student", teacher)


def _folded(tokens: Sequence[str]) -> tuple[str, ...]:
    """Runs of one token as "token × n"."""
    runs: list[list[Any]] = []
    for token in tokens:
        if runs and runs[-1][0] == token:
            runs[-1][1] += 1
        else:
            runs.append([token, 1])
    return tuple(token if count == 1 else f"{token} × {count}" for token, count in runs)


def _student_top(
    model: Any, sample: Sample, position: int, words: Sequence[bytes | None], tokenizer: Any
) -> tuple[tuple[str, float], ...]:
    batch = Collator(model.processor)([sample])
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        names = ("input_ids", "attention_mask", "pixel_values")
        inputs = {name: batch[name].to(model.device) for name in names if batch[name] is not None}
        logits = model(**inputs, use_cache=False).logits[0, position]
    model.train(was_training)
    top = logits.float().softmax(-1).topk(5)
    return tuple(
        (_word(words, token, tokenizer.eos_token_id), probability)
        for token, probability in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    )


def _word(words: Sequence[bytes | None], token: int, end: int) -> str:
    if token == end:
        return END
    word = words[token] if token < len(words) else None
    return "(special)" if word is None else _visible(word)


def _visible(word: bytes) -> str:
    """Blanks and line breaks as marks; parts of characters in hexadecimal."""
    try:
        text = word.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in word)
    return text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
