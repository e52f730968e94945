"""Every family, tiny: cached through the command, distilled from for a few steps, asked. And how one adds a family."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from embervlm.data.prepared import open_prepared
from embervlm.data.record import write_records
from embervlm.errors import UserError
from embervlm.settings import CacheSettings
from embervlm.teachers import families
from embervlm.teachers.cache import run_cache
from embervlm.teachers.hf import HFTeacher
from embervlm.teachers.outputs import Sampling
from embervlm.teachers.registry import load_teacher
from embervlm.train.run import run_train
from tests.teachers.qwen_vl.tiny import make_model, save_published
from tests.teachers.test_instructblip import save_instructblip
from tests.tiny_families import FAMILIES
from tests.tiny_teacher import make_tiny_teacher
from tests.train.small_world import make_world, settings


def _saved(teacher: HFTeacher, folder: Path) -> Path:
    teacher.model.save_pretrained(folder)
    teacher.processor.save_pretrained(folder)
    return folder


MAKERS = {
    "qwen-vl-chat": lambda folder: save_published(make_model(), folder),
    "qwen-vl-base": lambda folder: save_published(make_model(), folder, chat=False),
    "llava-1.5": make_tiny_teacher,
    "instructblip": save_instructblip,
    **{name: lambda folder, make=make: _saved(make(), folder) for name, make in FAMILIES.items()},
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_family_caches_teaches_and_answers(name: str, tmp_path: Path, monkeypatch):
    data, folder = make_world(tmp_path / "data", train=9, val=3), MAKERS[name](tmp_path / "teacher")
    for split in ("train", "val"):  # InstructBLIP reads no text alone
        kept = [record for record in open_prepared(data / "stage2").records(split) if record.image]
        write_records(data / "stage2" / f"{split}.jsonl", kept)
    prepared, cache = open_prepared(data / "stage2"), tmp_path / "cache"
    run_cache(CacheSettings(teacher_model=str(folder), dataset_path=data / "stage2", output_dir=cache, device="cpu"))
    run_train(settings(data, tmp_path, disable_distillation=False, use_cached_teacher_outputs=(cache,), max_steps=2))
    last = json.loads((tmp_path / "stage2/metrics.json").read_text())["history"][-1]
    assert last["stage2/distill_loss"] > 0 and last["stage2/teacher_kl_div"] > 0
    teacher, records = load_teacher(str(folder)), prepared.records("val")
    answers = teacher.generate(records, prepared.image_root, max_new_tokens=3)
    assert len(answers) == len(records)
    # Tiny random models draw ids that no tiny tokenizer has words for.
    monkeypatch.setattr(teacher.tokenizer, "batch_decode", lambda ids, **_: [str(row) for row in ids.tolist()])
    drawn = [
        teacher.answer(records, prepared.image_root, 3, Sampling(5.0, 1.0, range(seed, seed + len(records))))
        for seed in (0, 0, 50)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_new_family_is_one_module_and_one_line(tmp_path: Path, monkeypatch):
    """As docs/teachers.md has it."""
    module = ModuleType("dummy_family")

    class Loud(HFTeacher):
        def generate(self, records, image_root, max_new_tokens):
            return [answer + "!" for answer in super().generate(records, image_root, max_new_tokens)]

    def load(name, source, files, weights):
        return Loud(name, *families.read(name, source, files, weights))

    module.load = load
    monkeypatch.setitem(sys.modules, "dummy_family", module)
    monkeypatch.setitem(families.FAMILIES, "llava", "dummy_family")
    data, teacher = make_world(tmp_path / "data"), load_teacher(str(make_tiny_teacher(tmp_path / "teacher")))
    prepared = open_prepared(data / "stage2")
    answers = teacher.generate(prepared.records("val"), prepared.image_root, max_new_tokens=2)
    assert all(answer.endswith("!") for answer in answers)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"offload": True}, "this is a CPU"),
        ({"load_in": "4bit"}, "4bit needs a GPU"),
        ({"load_in": "8bit", "dtype": "bfloat16"}, "8bit needs a GPU"),
    ],
)
def test_what_a_cpu_cannot_do_is_a_sentence(tmp_path: Path, options: dict, said: str):
    with pytest.raises(UserError, match=said):
        load_teacher(str(make_tiny_teacher(tmp_path)), **options)
