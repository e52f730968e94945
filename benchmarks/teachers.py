"""What it brings that a teacher reads each picture once, and what memory it takes to load one.

    python -m benchmarks.teachers            # 40 pictures, checkpoints of 0.8 GB
    python -m benchmarks.teachers --quick    # 8 pictures, 0.1 GB; about a minute

Scoring: a LLaVA of LLaVA-1.5's shape (336 px, 576 visual tokens, 32,064 words) but few and narrow layers, random
weights, on questions in VQA-v2's distribution: 5.4 a picture (443,757 of 82,783 pictures), of 6.2 words, with answers
of 1.1. The same records are scored with pictures shared and without, in turns; the ratio is that of each turn, the
median of all is shown. With OMP_NUM_THREADS=1 the seconds are the process's own, whatever else the machine does.
Loading: `load_teacher` in a process of its own, on a Qwen-VL of made-up weights in the published layout (pickled shards
with an index) and on a LLaVA in safetensors; the peak is that of the memory which is the process's own and of all that
is resident, files mapped into memory included, less what it held before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from rich.table import Table
from transformers import (
    AutoProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from embervlm.console import console
from embervlm.data.record import Record
from embervlm.teachers.hf import HFTeacher
from embervlm.teachers.qwen_vl.configuration import QwenVLConfig
from embervlm.teachers.qwen_vl.modeling import QwenVLForConditionalGeneration
from embervlm.teachers.registry import TEACHERS, load_teacher
from tests.teachers.qwen_vl.tiny import VISION, save_published

LEAST_GAIN, MOST_MEMORY = 2.0, 1.2
BATCH = 32
WORDS = "what color is the small circle how many squares are there left of a star red blue two".split()


def make_llava(
    width: int,
    layers: int,
    vocabulary: int = 32_064,
    heads: int = 8,
    intermediate: int | None = None,
    tower: tuple[int, int, int] | None = None,
    tokenizer: Any = None,
) -> tuple[Any, Any]:
    """Model and processor of LLaVA-1.5's shape; tokenizer and template are those of the embedded teacher.

    Args:
        tower: width, layers and heads of the vision tower; None: a quarter of `width`, `layers`, 4.
    """
    tokenizer = tokenizer or AutoProcessor.from_pretrained(TEACHERS["toy-llava"].source).tokenizer
    tower_width, tower_layers, tower_heads = tower or (width // 4, layers, 4)
    template = (
        "{% for message in messages %}{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' }}"
        "{% for item in message['content'] %}{{ '<image>\n' if item['type'] == 'image' else item['text'] }}"
        "{% endfor %}{{ eos_token if message['role'] == 'assistant' else ' ' }}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
        tokenizer,
        patch_size=14,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=template,
    )
    vision = CLIPVisionConfig(
        hidden_size=tower_width, intermediate_size=4 * tower_width, num_hidden_layers=tower_layers,
        num_attention_heads=tower_heads, image_size=336, patch_size=14,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=intermediate or int(2.7 * width),
        num_hidden_layers=layers, num_attention_heads=heads, max_position_embeddings=4096,
    )  # fmt: skip
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=processor.image_token_id, image_seq_length=576
    )
    return LlavaForConditionalGeneration(config), processor


def make_questions(root: Path, pictures: int) -> list[Record]:
    """In VQA-v2's distribution, about noise of 640 x 480."""
    generator = np.random.default_rng(0)
    records = []
    for picture in range(pictures):
        name = f"{picture}.jpg"
        Image.fromarray(generator.integers(0, 256, (480, 640, 3), dtype=np.uint8)).save(root / name)
        for question in range(3 + generator.poisson(2.36)):
            asked = " ".join(generator.choice(WORDS, max(3, round(generator.normal(6.2, 2))))) + "?"
            said = " ".join(generator.choice(WORDS, 1 + generator.binomial(1, 0.1)))
            records.append(Record(f"{picture}-{question}", name, asked, said))
    return records


def measure_scoring(pictures: int, width: int, layers: int, folder: Path) -> dict[str, float]:
    """Samples a second of either way, and the median of the turns' ratios."""
    model, processor = make_llava(width, layers)
    ways = {name: HFTeacher("llava-shaped", model, processor, BATCH) for name in ("shared", "alone")}
    ways["alone"]._scorer.shares_prefix = False
    records = make_questions(folder, pictures)
    for teacher in ways.values():
        teacher.score(records[:12], folder, 16)  # warm, and the first time it asks itself whether it may share
    names = list(dict.fromkeys(record.image for record in records))
    size = 8
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    differences = []
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for start in track(range(0, len(names), size), "scoring", console=console):
        part = [record for record in records if record.image in names[start : start + size]]
        scored = {}
        for name, teacher in ways.items():
            begin = clock()
            scored[name] = teacher.score(part, folder, 16)
            seconds[name].append(clock() - begin)
        for (one,), (other,) in zip(*scored.values(), strict=True):
            differences.append(float(np.abs(one.realised_logprobs - other.realised_logprobs).max()))
    ratios = [alone / shared for alone, shared in zip(seconds["alone"], seconds["shared"], strict=True)]
    return {
        "questions_a_picture": len(records) / pictures,
        "alone": len(records) / sum(seconds["alone"]),
        "shared": len(records) / sum(seconds["shared"]),
        "gain": statistics.median(ratios),
        "largest_difference": max(differences),
    }


def write_checkpoints(folder: Path, width: int, layers: int) -> dict[str, Path]:
    """bf16, as large teachers are published."""
    config = QwenVLConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 128, intermediate_size=5 * width,
        visual=VISION | {"output_dim": width, "layers": 2},
    )  # fmt: skip
    torch.manual_seed(0)
    save_published(QwenVLForConditionalGeneration(config).bfloat16(), folder / "qwen-vl", shards=4)
    model, processor = make_llava(width, layers, vocabulary=151_936)
    model.bfloat16().save_pretrained(folder / "llava", max_shard_size="200MB")
    processor.save_pretrained(folder / "llava")
    return {"qwen-vl": folder / "qwen-vl", "llava": folder / "llava"}


def measure_loading(folder: Path, dtype: str) -> dict[str, float]:
    """In a fresh process: the peak against the weights' size in `dtype`."""
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks.teachers", "--load", str(folder), dtype],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(told.stdout.splitlines()[-1])


def _load(folder: str, dtype: str) -> None:
    """What `measure_loading` starts."""
    load_teacher("toy-llava")  # every import, and the allocator's first blocks
    before, peaks, done = _resident(), {"own": 0, "all": 0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            for kind, held in _resident().items():
                peaks[kind] = max(peaks[kind], held - before[kind])

    watcher = threading.Thread(target=watch)
    watcher.start()
    teacher = load_teacher(folder, dtype=dtype)
    done.set()
    watcher.join()
    size = sum(weight.numel() * weight.element_size() for weight in teacher.model.state_dict().values())
    print(json.dumps({"weights_mb": size / 1e6, **{kind: peak / size for kind, peak in peaks.items()}}))


def _resident() -> dict[str, int]:
    """Bytes of Linux: RssAnon and VmRSS of this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {kind: int(lines[name].split()[0]) * 1024 for kind, name in (("own", "RssAnon"), ("all", "VmRSS"))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        _load(*options.load)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scoring = measure_scoring(8 if options.quick else 40, 256 if options.quick else 512, 4, folder)
        checkpoints = write_checkpoints(folder, 128 if options.quick else 1024, 2 if options.quick else 8)
        loading = {
            f"{name} {dtype}": measure_loading(checkpoint, dtype)
            for name, checkpoint in track(checkpoints.items(), "loading", console=console)
            for dtype in ("bfloat16", "float32")
        }
    table = Table("samples/s", "alone", "shared", "gain", title="Scoring", title_justify="left")
    table.add_row(
        f"{scoring['questions_a_picture']:.1f} questions a picture",
        *(f"{scoring[key]:.1f}" for key in ("alone", "shared")),
        f"{scoring['gain']:.2f} (>= {LEAST_GAIN})",
    )
    console.print(table)
    table = Table("loading", "weights, MB", "own memory", "with mapped files", title="Peak / weights")
    for name, told in loading.items():
        table.add_row(name, f"{told['weights_mb']:,.0f}", f"{told['own']:.2f}", f"{told['all']:.2f}")
    console.print(table)
    highest = max(told["own"] for told in loading.values())
    passed = scoring["gain"] >= LEAST_GAIN and highest <= MOST_MEMORY and scoring["largest_difference"] <= 1e-3
    print(json.dumps({"benchmark": "teachers", "scoring": scoring, "loading": loading, "passed": passed}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
