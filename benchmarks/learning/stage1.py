"""Where students begin: a Stage 1 checkpoint, one for each preset and alignment, made once a world."""

from __future__ import annotations

import shlex
from pathlib import Path

from benchmarks.learning.arms import ALIGNMENTS, CAPTIONS, SHARED, STUDENT
from benchmarks.learning.shared_tokens import offer
from benchmarks.learning.world import World, quoted, read_by_teacher
from embervlm.data.prepared import open_prepared
from embervlm.errors import UserError
from embervlm.options import parse
from embervlm.settings import TrainSettings

CAPTIONS_READ = "teacher reads captions"


def stage1_of(world: World, preset: str = STUDENT, alignment: str = CAPTIONS) -> Path:
    """The checkpoint."""
    outputs = "-".join(["outputs", *_differing(preset, alignment)])
    return world.folder / outputs / "stage1" / "checkpoint-final"


def align(world: World, preset: str, alignment: str) -> None:
    """Makes it, once; where it has a teacher, that one reads the captions first.

    Raises:
        UserError: what is there was made with other flags.
    """
    if preset == SHARED:
        offer()
    home = stage1_of(world, preset, alignment).parents[1]
    words, note = shlex.join(stage1_words(world, preset, alignment)), home / "words.txt"
    if note.is_file() and note.read_text(encoding="utf-8") != words:
        raise UserError(f"{home} holds a Stage 1 that was made with other flags than today's; begin in another --out")
    if ALIGNMENTS[alignment].taught:
        captions = open_prepared(world.folder / "prepared" / "stage1")
        world.timed(CAPTIONS_READ, lambda: read_by_teacher(captions, _captions_read(world)))

    def train() -> int:
        from embervlm.train.run import run_train

        home.mkdir(parents=True, exist_ok=True)
        note.write_text(words, encoding="utf-8")
        return run_train(parse(TrainSettings, shlex.split(words)))

    world.once(" ".join(["stage1", *_differing(preset, alignment)]), train)


def stage1_words(world: World, preset: str, alignment: str) -> list[str]:
    """The command line of that training."""
    chosen = ALIGNMENTS[alignment]
    steps = round(chosen.longer * world.scale.stage1_steps)
    words = f"--stages 1 --preset {preset} --output_dir {quoted(stage1_of(world, preset, alignment).parents[1])} "
    words += f"--data_dir {quoted(world.folder / 'prepared')} --max_length 256 --dataloader_workers 0 "
    words += "--eval_samples 200 --save_total_limit 1 --seed 0 --batch_size 32 --learning_rate 3e-3 "
    words += f"--max_steps {steps} --warmup_steps {steps // 20} --logging_steps {max(1, steps // 12)} "
    words += f"--eval_steps {-(-steps // 3)} --save_steps {steps} {chosen.flags}"
    if chosen.taught:
        words += f" --use_cached_teacher_outputs {quoted(_captions_read(world))}"
    return shlex.split(words)


def _captions_read(world: World) -> Path:
    return world.folder / "prepared" / "captions_read"


def _differing(preset: str, alignment: str) -> list[str]:
    """In what a Stage 1 differs from most."""
    return [word for word, usual in ((preset, STUDENT), (alignment, CAPTIONS)) if word != usual]
