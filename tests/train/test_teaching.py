"""Targets in training: a cache and a live teacher teach the same, and a teacher that is not there stops the run."""

import json
from dataclasses import replace

import numpy as np
import pytest

from embervlm import EmberVLM
from embervlm.batch.dataset import RecordDataset
from embervlm.batch.sampler import NOTHING
from embervlm.batch.teaching import live_teaching
from embervlm.data.prepared import open_prepared
from embervlm.errors import UserError
from embervlm.evaluate.pages.training import training_runs
from embervlm.options import parse
from embervlm.settings import TrainSettings
from embervlm.teachers.cache import build_cache
from embervlm.teachers.registry import load_teacher
from embervlm.train.build import loss_schedule
from embervlm.train.run import run_train
from tests.tiny_teacher import make_tiny_teacher
from tests.train.small_world import make_world, settings


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data folder, a teacher's folder, and a cache of the teacher on both splits."""
    folder = tmp_path_factory.mktemp("teaching")
    data, teacher = make_world(folder / "data"), make_tiny_teacher(folder / "teacher")
    prepared = open_prepared(data / "stage2")
    build_cache(load_teacher(str(teacher)), prepared, ("train", "val"), folder / "cache", progress=False)
    return data, teacher, folder / "cache"


def metrics(out):
    """{step: entry} of metrics.json."""
    return {entry["step"]: entry for entry in json.loads((out / "stage2/metrics.json").read_text())["history"]}


def test_cache_and_live_teacher_teach_the_same(world, tmp_path, capsys):
    data, teacher, cache = world
    common = {"disable_distillation": False, "max_steps": 2}
    run_train(settings(data, tmp_path / "live", teacher_model=str(teacher), teacher_top_k=16, **common))
    run_train(settings(data, tmp_path / "cached", use_cached_teacher_outputs=(cache,), **common))
    live, cached = metrics(tmp_path / "live"), metrics(tmp_path / "cached")
    for step in (1, 2):
        for name in ("sft_loss", "distill_loss", "total_loss"):
            # The cache keeps log-probabilities in a few bits.
            assert cached[step][f"stage2/{name}"] == pytest.approx(live[step][f"stage2/{name}"], rel=0.02)
    assert cached[2]["stage2/teacher_kl_div"] == pytest.approx(live[2]["stage2/teacher_kl_div"], rel=0.02)
    out = capsys.readouterr().out
    assert "live" in out and f"from {cache}" in out
    assert "teacher " in out and "anchored" in out


def test_stage_1_has_a_teacher_where_one_is_asked_for(world, tmp_path, capsys):
    """Captions alone are its default, whatever teacher is named: the guide's commands name one for both stages."""
    data, teacher, _ = world
    captions = open_prepared(data / "stage1")
    build_cache(load_teacher(str(teacher)), captions, ("train", "val"), tmp_path / "captions", progress=False)
    words = (
        f"--stages 1 --preset tiny --data_dir {data} --max_steps 2 --batch_size 3 --logging_steps 1 --max_length 256"
    )
    words += f" --dataloader_workers 0 --seed 0 --use_cached_teacher_outputs {tmp_path / 'captions'}"
    names = {}
    for name, more in (("alone", ""), ("taught", " --no_disable_distillation")):
        out = tmp_path / name
        assert run_train(parse(TrainSettings, f"{words} --output_dir {out}{more}".split())) == 0
        history = json.loads((out / "stage1/metrics.json").read_text())["history"]
        assert (f"from {tmp_path / 'captions'}" in capsys.readouterr().out.replace("\n", "")) is bool(more)
        assert (history[0].get("stage1/distill_loss", 0) > 0) is bool(more)
        assert any("stage1/teacher_kl_div" in entry for entry in history) is bool(more)
        (run,) = training_runs(out)
        names[name] = run.name
    run_train(parse(TrainSettings, f"{words} --output_dir {tmp_path / 'more'} --epochs 1 --max_steps 3".split()))
    assert "No teacher: the labels alone; Stage 1 has one with --no_disable" in " ".join(
        capsys.readouterr().out.split()
    )
    taught = tmp_path / "taught" / "stage1" / "checkpoint-2"
    run_train(
        parse(TrainSettings, f"{words} --output_dir {tmp_path / 'taught'} --max_steps 3 --resume_from {taught}".split())
    )
    assert f"Up to step 2 {teacher} taught; from here on there is no teacher" in capsys.readouterr().out.replace(
        "\n", ""
    )
    assert names == {"alone": "Stage 1", "taught": "Stage 1, with teacher"}


def test_the_guides_seven_metrics_and_the_sum_that_they_promise(world, tmp_path):
    data, _, cache = world
    several = {"max_steps": 4, "logging_steps": 4}  # in one report, with other counts of labels
    run_train(settings(data, tmp_path, disable_distillation=False, use_cached_teacher_outputs=(cache,), **several))
    last = metrics(tmp_path)[4]
    names = ("sft_loss", "distill_loss", "total_loss", "vqa_accuracy", "instruct_score", "teacher_kl_div")
    assert all(f"stage2/{name}" in last for name in (*names, "learning_rate"))
    expected = 0.7 * last["stage2/sft_loss"] + 0.3 * last["stage2/distill_loss"]
    assert last["stage2/total_loss"] == pytest.approx(expected, rel=1e-5)
    assert last["stage2/teacher_kl_div"] > 0


def test_several_caches_are_mixed_by_weight(world, tmp_path):
    data, _, cache = world
    other = make_tiny_teacher(tmp_path / "other", seed=5)
    build_cache(
        load_teacher(str(other)), open_prepared(data / "stage2"), ("train",), tmp_path / "cache", progress=False
    )
    caches = {"a": (cache,), "b": (tmp_path / "cache",), "both": (cache, tmp_path / "cache")}
    told = {}
    for name, folders in caches.items():
        weights = (3.0, 1.0) if len(folders) > 1 else None
        chosen = settings(
            data,
            tmp_path / name,
            disable_distillation=False,
            use_cached_teacher_outputs=folders,
            teacher_weights=weights,
        )
        run_train(replace(chosen, max_steps=1))
        told[name] = metrics(tmp_path / name)[1]
    both = told["both"]
    mean = 0.75 * told["a"]["stage2/distill_loss"] + 0.25 * told["b"]["stage2/distill_loss"]
    assert both["stage2/distill_loss"] == pytest.approx(mean, rel=1e-4)
    assert both["stage2/distill_loss"] != pytest.approx(told["a"]["stage2/distill_loss"], rel=1e-4)
    own = [value for name, value in both.items() if name.startswith("stage2/kl_")]
    assert len(own) == 2 and all(value > 0 for value in own)


def test_uld_is_trained_on_and_measured_as_the_others_are(world, tmp_path):
    """Its targets are ranks: the KL on val is against the resolved ones, or arms could not be compared."""
    data, _, cache = world
    common = {"disable_distillation": False, "use_cached_teacher_outputs": (cache,), "max_steps": 1}
    run_train(settings(data, tmp_path / "plain", **common))
    uld = {"distillation_loss": "uld", "distillation_targets": "uld"}
    run_train(settings(data, tmp_path / "uld", **common, **uld))
    plain, other = metrics(tmp_path / "plain")[1], metrics(tmp_path / "uld")[1]
    assert other["stage2/distill_loss"] != pytest.approx(plain["stage2/distill_loss"], rel=0.01)
    assert other["stage2/teacher_kl_div"] == pytest.approx(plain["stage2/teacher_kl_div"], rel=0.02)
    with pytest.raises(UserError, match="--distillation_loss uld"):
        run_train(settings(data, tmp_path / "wrong", **common, distillation_targets="uld"))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"teacher_weights": (0.5, 0.5)}, "2 numbers for 1 caches"),
        ({"teacher_weights": (0.5,), "use_cached_teacher_outputs": None}, "name them"),
    ],
)
def test_weights_without_as_many_caches_are_refused(world, tmp_path, changes, words):
    data, _, cache = world
    asked = {"disable_distillation": False, "use_cached_teacher_outputs": (cache,), **changes}
    with pytest.raises(UserError, match=words):
        run_train(settings(data, tmp_path, **asked))


def test_the_cache_beside_the_checkpoints_is_found(world, tmp_path, capsys):
    data, teacher, _ = world
    beside = tmp_path / "stage2/teacher_outputs"
    prepared = open_prepared(data / "stage2")
    build_cache(load_teacher(str(teacher)), prepared, ("train",), beside, progress=False)
    common = {"disable_distillation": False, "max_steps": 1}
    run_train(settings(data, tmp_path, teacher_model=str(teacher), **common))
    out = capsys.readouterr().out
    assert f"from {beside}" in out and "says nothing about val" in out
    assert "stage2/teacher_kl_div" not in metrics(tmp_path)[1]


def test_a_teacher_that_does_not_load_stops_the_run(world, tmp_path):
    data, _, _ = world
    with pytest.raises(UserError, match="teacher"):
        run_train(settings(data, tmp_path, disable_distillation=False, teacher_model="qwen-vl-chatt"))
    assert not tmp_path.joinpath("stage2").exists() or not list(tmp_path.rglob("checkpoint-*"))


def test_a_cache_of_other_data_is_refused(world, tmp_path):
    _, _, cache = world
    other = make_world(tmp_path / "data", train=9)
    changes = {"disable_distillation": False, "use_cached_teacher_outputs": (cache,)}
    with pytest.raises(UserError, match="does not belong here: data of split train"):
        run_train(settings(other, tmp_path / "out", **changes))


def test_an_empty_share_of_the_last_step_says_nothing_about_a_record(world):
    """On several processes it shows the first record without its picture: a live teacher would be asked that way, and
    its answer kept for the record itself."""
    data, teacher, _ = world
    prepared, model = open_prepared(data / "stage2"), EmberVLM.from_preset("tiny")
    dataset = RecordDataset(prepared.records("train"), prepared.image_root, model.processor, 256)

    def told(*before: int) -> list:
        teaching = live_teaching(load_teacher(str(teacher)), prepared.image_root, model.processor.tokenizer, 48)
        for index in (*before, 0):
            sample = dataset[index]
            said = teaching.targets([sample.record], [sample.encoded])
        return said[0]

    assert dataset[NOTHING].record.id == dataset[0].record.id and dataset[0].record.image is not None
    (alone,), (after,) = told(), told(NOTHING)
    assert np.array_equal(alone.ids, after.ids) and np.array_equal(alone.logprobs, after.logprobs)


def test_alpha_moves_and_the_labels_take_the_rest():
    moving = TrainSettings(alpha_schedule="linear", alpha_start=0.5, alpha_end=0.2, distillation_temperature=1.5)
    at = loss_schedule(moving, distilled=True)
    first, last = at(0, 11), at(10, 11)
    assert (first.alpha, first.sft_weight, first.temperature) == (0.5, 0.5, 1.5)
    assert (last.alpha, last.sft_weight) == (pytest.approx(0.2), pytest.approx(0.8))
    both = loss_schedule(TrainSettings(distillation_alpha=0.5, sft_weight=0.9), distilled=True)(3, 10)
    assert (both.alpha, both.sft_weight) == (0.5, 0.9)
    plain = loss_schedule(moving, distilled=False)(0, 11)
    assert (plain.alpha, plain.sft_weight) == (0.0, 1.0)


def test_impossible_weights_are_told_before_training():
    with pytest.raises(UserError, match="distillation_alpha 1.5"):
        loss_schedule(TrainSettings(distillation_alpha=1.5), distilled=True)
    with pytest.raises(UserError, match="sft_weight -0.5"):  # of the last step
        loss_schedule(TrainSettings(alpha_schedule="linear", alpha_start=0.5, alpha_end=1.5), distilled=True)
    with pytest.raises(UserError, match="not both 0"):
        loss_schedule(TrainSettings(alpha_schedule="cosine", alpha_end=0.0, sft_weight=0.0), distilled=True)
