"""What the embedded teacher is taught: endless scenes of the embedded world, many questions about each in one row.

A row is one picture and several dialogues about it. Each dialogue sees the picture and itself only, and its positions
start right after the picture, so that a row costs little more than one dialogue and teaches all of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from transformers import LlavaProcessor

from embervlm.data.toyworld.draw import draw
from embervlm.data.toyworld.people import answer_of_one
from embervlm.data.toyworld.questions import Interviewer
from embervlm.data.toyworld.scene import COLOURS, SHAPES, SIZES, TEXTURES, Difficulty, Scene, sample_scene
from embervlm.data.toyworld.stories import CAPTION_PROMPTS, caption, conversation
from embervlm.model.packed import visible


@dataclass(frozen=True)
class Row:
    """One packed row. `segment` is 0 for the shared start (with the picture) and 1, 2, ... for the dialogues."""

    ids: list[int]
    labels: list[int]
    positions: list[int]
    segments: list[int]
    picture: np.ndarray


class Lessons:
    """Draws scenes and writes packed rows; the seed decides everything."""

    def __init__(self, processor: LlavaProcessor, seed: int, difficulty: Difficulty, told: bool = False) -> None:
        self.processor = processor
        self.rng = random.Random(seed)
        self.difficulty = difficulty
        self.told = told  # only descriptions, no questions
        self.length = 224
        self.interviewer = Interviewer()

    def scene(self) -> Scene:
        return sample_scene(self.rng, "free", self.difficulty)

    def dialogues(self, scene: Scene) -> list[list[tuple[str, str]]]:
        """More than a row holds; the longest first, so that the short questions fill what is left."""
        found: list[list[tuple[str, str]]] = []
        if self.told:
            return [[(self.rng.choice(CAPTION_PROMPTS), caption(scene))]] + [
                conversation(scene, self.rng) for _ in range(4)
            ]
        kind = self.rng.random()
        if kind < 0.15:  # long texts have most of the tokens; more of them and the short answers are hardly heard
            found.append(conversation(scene, self.rng))
        elif kind < 0.2:
            found.append([(self.rng.choice(CAPTION_PROMPTS), caption(scene))])
        known = self.interviewer.okvqa(scene, self.rng)
        asked = self.interviewer.vqa(scene, self.rng, 12)
        # Sometimes one annotator of ten: the teacher's probabilities then say how much people disagree.
        pairs = [
            (a.question, answer_of_one(a.answer, self.rng) if self.rng.random() < 0.5 else a.answer)
            for a in ([known] if known else []) + asked
        ]
        return found + [[pair] for pair in pairs]

    def row(self) -> Row:
        scene = self.scene()
        tokenizer = self.processor.tokenizer
        start = [tokenizer.bos_token_id, *_ids(tokenizer, "USER: ")]
        start += [self.processor.image_token_id] * 36 + _ids(tokenizer, "\n")
        ids, labels = list(start), [-100] * len(start)
        positions, segments = list(range(len(start))), [0] * len(start)
        for number, turns in enumerate(self.dialogues(scene), start=1):
            here, marks = [], []
            for index, (question, answer) in enumerate(turns):
                asked = _ids(tokenizer, ("" if index == 0 else "USER: ") + f"{question}\nASSISTANT:\n")
                said = [*_ids(tokenizer, answer), tokenizer.eos_token_id]
                here += asked + said
                marks += [-100] * len(asked) + said
            if len(ids) + len(here) > self.length:
                continue
            ids += here
            labels += marks
            positions += range(len(start), len(start) + len(here))
            segments += [number] * len(here)
        return Row(ids, labels, positions, segments, np.asarray(draw(scene)))

    def batch(self, rows: int) -> dict[str, torch.Tensor]:
        """Shifted labels; an additive mask [B, 1, L, L]: a token sees the shared start and its own dialogue so far."""
        made = [self.row() for _ in range(rows)]
        length = self.length
        pad = self.processor.tokenizer.pad_token_id
        ids = torch.full((rows, length), pad)
        labels = torch.full((rows, length), -100)
        positions = torch.zeros(rows, length, dtype=torch.long)
        segments = torch.full((rows, length), -1)
        for i, row in enumerate(made):
            n = len(row.ids)
            ids[i, :n], positions[i, :n] = torch.tensor(row.ids), torch.tensor(row.positions)
            segments[i, :n] = torch.tensor(row.segments)
            labels[i, : n - 1] = torch.tensor(row.labels[1:])
        seen = visible(segments.clamp(max=0), segments)  # one group a row
        # The last token of a dialogue must not be asked for the first of the next.
        labels[:, :-1][segments[:, :-1] != segments[:, 1:]] = -100
        mask = torch.zeros(rows, 1, length, length).masked_fill(~seen, torch.finfo(torch.float32).min)
        pixels = pixel_values(np.stack([r.picture for r in made]))
        return {"input_ids": ids, "labels": labels, "position_ids": positions, "mask": mask, "pixel_values": pixels}

    def grids(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures and what each cell holds: [count, 9, 4] ids of shape, colour, texture, size; 0 = nothing."""
        scenes = [self.scene() for _ in range(count)]
        cells = torch.zeros(count, 9, 4, dtype=torch.long)
        for i, scene in enumerate(scenes):
            for t in scene.things:
                words = (SHAPES, t.shape), (COLOURS, t.colour), (TEXTURES, t.texture), (SIZES, t.size)
                cells[i, t.cell] = torch.tensor([known.index(word) + 1 for known, word in words])
        return pixel_values(np.stack([np.asarray(draw(scene)) for scene in scenes])), cells


def pixel_values(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [-1, 1], as the teacher's image processor makes them."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def _ids(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)
