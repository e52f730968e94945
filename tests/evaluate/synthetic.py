"""A report's inputs made up from nothing, with all of its parts."""

import base64
import io
import math
import random

from PIL import Image, ImageDraw

from embervlm.evaluate.divergence import Divergence
from embervlm.evaluate.instruct import InstructResult
from embervlm.evaluate.pages.report_inputs import (
    AlignedText,
    CacheFacts,
    NextToken,
    PictureExample,
    ReportInputs,
    Said,
    SystemRow,
    Token,
    TrainingRun,
)
from embervlm.evaluate.results import EvalResult
from embervlm.evaluate.sight import Sight
from embervlm.evaluate.vqa import Share, VqaScores
from embervlm.teachers.facts import TeacherFacts

TEMPLATES = ["how many COLOR", "is the SHAPE COLOR", "is there a", "what color is the SHAPE", "where is the SHAPE"]


def share(accuracy: float, n: int = 400) -> Share:
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / n)
    return Share(n, accuracy, 0.9 * accuracy, (accuracy - half, accuracy + half))


def result(name: str, level: float, kl: float | None = None, score: float | None = None, seed: int = 0) -> EvalResult:
    rng = random.Random(seed)
    vqa = VqaScores(
        share(level, 2000),
        share(level - 0.04, 1200),
        {"yes/no": share(level + 0.08), "number": share(level - 0.1), "other": share(level)},
        {template: share(min(0.99, max(0.1, level + rng.uniform(-0.2, 0.2)))) for template in TEMPLATES},
        {"lmms-eval": level + 0.01, "pre-2021": level + 0.005},
    )
    divergence = kl and Divergence(kl, 1.1 * kl, 0.8 * kl, 0.9 * kl, 2.0, 0.86, 0.41, 0.31, 0.93, 0.05, 0.02, 9000, 900)
    instruct = score and InstructResult(
        300, score, score, score - 0.03, min(1.0, score + 0.05), (score - 0.02, score + 0.02)
    )
    okvqa = VqaScores(
        share(level - 0.1), share(level - 0.1), {"other": share(level - 0.1)}, {"nine": share(level - 0.1)}, {}
    )
    return EvalResult(name, "val", "0123456789abcdef", {"vqa": vqa, "okvqa": okvqa}, instruct, divergence)


def picture(seed: int) -> str:
    rng = random.Random(seed)
    image = Image.new("RGB", (96, 96), (236, 232, 226))
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        x, y, r = rng.randint(16, 80), rng.randint(16, 80), rng.randint(8, 15)
        colour = rng.choice([(205, 60, 50), (60, 120, 200), (70, 160, 90), (230, 180, 60)])
        getattr(draw, rng.choice(["ellipse", "rectangle"]))((x - r, y - r, x + r, y + r), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def curve(key: str, start: float, end: float, steps: int, every: int, noise: float, seed: int) -> list[dict]:
    rng = random.Random(seed)
    return [
        {"step": step, key: end + (start - end) * math.exp(-4 * step / steps) + rng.gauss(0, noise)}
        for step in range(every, steps + 1, every)
    ]


def inputs() -> ReportInputs:
    groups = (
        ((Token("The", "anchored"),), (Token("The"),)),
        ((Token("␣cir", "anchored"), Token("cle", "interior")), (Token("␣circle"),)),
        ((Token("␣is", "anchored"),), (Token("␣is"),)),
        ((Token("␣ch", "anchored"), Token("art", "interior"), Token("reuse", "interior")), (Token("␣chartreuse"),)),
        ((Token("␣turquoise", "anchored"),), (Token("␣tur"), Token("quoise"))),
        ((Token(".", "anchored"),), (Token("."),)),
        ((Token("⏎ end", "anchored"),), (Token("⏎ end"),)),
    )
    words = ["red", "blue", "turquoise", "2", "yes", "top left"]
    rng = random.Random(4)
    pictures = tuple(
        PictureExample(
            picture(at),
            True,
            rng.choice(["What color is the circle?", "How many shapes are there?", "Where is the star?"]),
            words[at % 6],
            (
                Said("Teacher", "teacher", words[at % 6], 1.0),
                Said("Student", "student", words[(at + at // 5) % 6], 1.0 if at < 5 else 0.0),
                Said("Without teacher", "undistilled", words[(at + at % 3) % 6], 0.3 if at % 3 else 1.0),
            ),
        )
        for at in range(11)
    )
    sentence = "The small dotted turquoise circle is at the top left of the picture."
    said = (
        Said("Teacher", "teacher", sentence, 1.0),
        Said("Student", "student", sentence.replace("top", "bottom"), 0.8),
    )
    pictures += (PictureExample(picture(30), True, "Where can I find the circle?", sentence, said),)
    both = {"student": ("with teacher", 0), "undistilled": ("without teacher", 1)}
    runs = [TrainingRun("Stage 1", "other", 1, tuple(curve("stage1/sft_loss", 5, 0.6, 400, 4, 0.1, 3)))]
    for kind, (name, seed) in both.items():
        history = curve("stage2/sft_loss", 2.4, 0.42 + 0.03 * seed, 600, 5, 0.05, seed)
        history += curve("stage2/vqa_accuracy", 0.2, 0.69 - 0.07 * seed, 600, 60, 0.01, seed)
        history += curve("stage2/teacher_kl_div", 1.2, 0.1 + 0.08 * seed, 600, 60, 0.005, seed)
        history += curve("stage2/instruct_score", 0.2, 0.84 - 0.05 * seed, 600, 60, 0.008, seed)
        runs.append(TrainingRun(name, kind, 2, tuple(history)))
    return ReportInputs(
        title="A 1M student learns to see from a 4.7M teacher",
        subtitle="Embedded world, 96 × 96 pixels, official file formats. Teacher toy-llava, with another tokenizer.",
        systems=(
            SystemRow("Teacher", "teacher", result("teacher", 0.88, None, 0.95, 1)),
            SystemRow("Student, distilled", "student", result("student", 0.685, 0.098, 0.842, 2)),
            SystemRow("Student, no teacher", "undistilled", result("undistilled", 0.612, 0.171, 0.79, 3)),
            SystemRow("Majority per question", "baseline", result("majority per question", 0.47, None, 0.24, 4)),
            SystemRow("Majority per template", "baseline", result("majority per template", 0.44, None, 0.21, 5)),
            SystemRow("Student, blind", "blind", result("blind", 0.455, None, 0.3, 6)),
        ),
        runs=tuple(runs),
        pictures=pictures,
        aligned=AlignedText(("<|user|>", "<image> × 36", "What", " color", " is", " it", "?", "<|assistant|>"), groups),
        next_token=NextToken(
            "What color is the circle?",
            "The circle is ",
            "␣tur",
            (("␣tur", 0.52), ("␣blue", 0.21), ("␣green", 0.14), ("␣chart", 0.05), ("␣purple", 0.02)),
            (("␣turquoise", 0.66), ("␣blue", 0.16), ("␣green", 0.1), ("␣teal", 0.05), ("␣purple", 0.01)),
            picture(40),
        ),
        cache=CacheFacts(21.4, 303872, 180000, TeacherFacts(180000, 2.31, 1.74, 0.21, 0.97, 2.0)),
        phases=(
            ("Draw the world", 7.2),
            ("Stage 1", 88.0),
            ("Teacher's words", 41.0),
            ("Stage 2", 214.0),
            ("Evaluation", 61.3),
        ),
        environment={"processor": "Some CPU @ 2.1 GHz", "cores": "2", "torch": "2.14.1", "transformers": "5.23.0"},
        settings={"alpha": 0.3, "sft_weight": 0.7, "temperature": 2.0, "learning_rate": 2e-4, "batch_size": 64},
        sights=(Sight(2000, 0.685, 0.455, "without it", (0.208, 0.252)),),
        notes=("Student and undistilled student saw the same records in the same order for 600 steps.",),
    )
