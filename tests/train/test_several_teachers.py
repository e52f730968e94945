"""Two teachers of different tokenizers, by name: from their caches or live, one of which knows some records only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from embervlm import cli
from embervlm.batch.collate import Collator
from embervlm.batch.dataset import RecordDataset
from embervlm.data.prepared import open_prepared
from embervlm.distill.loss import LossOptions, chunked_loss
from embervlm.errors import UserError
from embervlm.model.processing import build_processor
from embervlm.settings import TrainSettings
from embervlm.teachers.cache import build_cache
from embervlm.teachers.registry import load_teacher
from embervlm.teachers.several import folder_name
from embervlm.train.run import run_train
from embervlm.train.teaching import build_lesson
from tests.tiny_teacher import make_tiny_teacher
from tests.train.small_world import make_taught_world, settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Data, two teachers, and a folder with their caches: the second one knows no record without a picture."""
    data, teachers, caches = make_taught_world(
        tmp_path_factory.mktemp("several"), ("train", "val"), lambda teacher: folder_name(str(teacher))
    )
    return data, [str(teacher) for teacher in teachers], caches


def beside(world, out: Path) -> Path:
    """The two caches where `train` looks for them."""
    (out / "stage2").mkdir(parents=True)
    (out / "stage2/teacher_outputs").symlink_to(world[2])
    return out


def last(out: Path) -> dict[str, float]:
    return json.loads((out / "stage2/metrics.json").read_text())["history"][-1]


SHORT = (
    "--stages 2 --preset tiny --max_steps 1 --batch_size 12 --eval_samples 2 --dataloader_workers 0 --max_length 256 "
    "--logging_steps 1"
)


def test_flags_yaml_and_the_folder_of_caches_train_the_same(world, tmp_path: Path, capsys):
    data, (a, b), caches = world
    common = [*SHORT.split(), "--data_dir", str(data)]
    config = tmp_path / "settings.yaml"
    config.write_text(f"stage2:\n  distillation:\n    teacher_model: ['{a}', '{b}']\n    teacher_weights: [0.6, 0.4]\n")
    ways = {
        "flags": ["--teacher_model", f"{a}:0.6", f"{b}:0.4"],
        "yaml": ["--config", str(config)],
        "folder": ["--teacher_model", f"{a}:0.6", f"{b}:0.4", "--use_cached_teacher_outputs", str(caches)],
    }
    told = {}
    for name, words in ways.items():
        out = tmp_path / name if name == "folder" else beside(world, tmp_path / name)
        assert cli.main(["train", *common, *words, "--output_dir", str(out)]) == 0
        told[name] = last(out)
        said = " ".join(capsys.readouterr().out.split())
        assert f"60% Teacher: {a}, from" in said and f"40% Teacher: {b}, from" in said, name
        assert "It says nothing about 4 of 12 records: there the others take its share" in said
    assert told["flags"]["stage2/distill_loss"] > 0
    for name in ("stage2/distill_loss", "stage2/sft_loss", f"stage2/kl_{a}", f"stage2/kl_{b}"):
        assert told["flags"][name] == told["yaml"][name] == told["folder"][name]
    swapped = beside(world, tmp_path / "swapped")
    assert cli.main(["train", *common, "--teacher_model", f"{b}:0.6", f"{a}:0.4", "--output_dir", str(swapped)]) == 0
    assert last(swapped)["stage2/distill_loss"] != pytest.approx(told["flags"]["stage2/distill_loss"], rel=1e-4)
    assert last(swapped)[f"stage2/kl_{a}"] == pytest.approx(told["flags"][f"stage2/kl_{a}"], rel=1e-5)


def test_where_one_says_nothing_the_other_has_the_whole_weight(world, tmp_path: Path):
    """Against the definition, position by position; records without a picture are A's alone."""
    data, (a, b), _ = world
    out = beside(world, tmp_path)
    chosen = settings(data, out, disable_distillation=False, teacher_model=(f"{a}:0.6", f"{b}:0.4"))
    prepared, processor = open_prepared(data / "stage2"), build_processor("tiny")
    lesson = build_lesson(chosen, prepared, processor, CPU)
    assert lesson is not None and lesson.names == (a, b) and not lesson.live
    dataset = RecordDataset(prepared.records("train"), prepared.image_root, processor, 256)
    batch = Collator(processor, lesson.weighted, temperature=2.0)([dataset[at] for at in range(len(dataset))])
    rows = (batch["shift_labels"] != -100).nonzero()[:, 0]
    with_picture = torch.tensor([record.image is not None for record in prepared.records("train")])[rows]
    (w_a, said_a), (w_b, said_b) = batch["targets"]
    assert (w_a, w_b) == pytest.approx((0.6, 0.4))
    assert not said_b.has_target[~with_picture].any() and said_b.has_target[with_picture].any()
    assert said_a.has_target[~with_picture].any()

    torch.manual_seed(0)
    vocabulary = len(processor.tokenizer)
    hidden = torch.randn(len(rows), 8, dtype=torch.float64, requires_grad=True)
    head = torch.randn(vocabulary, 8, dtype=torch.float64)
    labels = batch["shift_labels"][batch["shift_labels"] != -100]
    options = LossOptions(alpha=1.0, sft_weight=0.0, temperature=2.0)
    parts = chunked_loss(hidden, head, None, labels, batch["targets"], options)

    log_q = (hidden @ head.t() / 2.0).log_softmax(-1)
    expected, alone = torch.zeros((), dtype=torch.float64), 0
    for row in range(len(rows)):
        speaking = [(w, said) for w, said in ((0.6, said_a), (0.4, said_b)) if said.has_target[row]]
        alone += len(speaking) == 1
        for weight, said in speaking:
            kept = said.ids[row] >= 0
            ids, p, rest = said.ids[row][kept], said.probs[row][kept].double(), said.rest[row].double()
            outside = torch.ones(vocabulary, dtype=torch.bool)
            outside[ids] = False
            kl = (p * (p.log() - log_q[row, ids])).nansum()
            if rest > 0:
                kl = kl + rest * (rest.log() - log_q[row, outside].logsumexp(0))
            expected = expected + weight / sum(w for w, _ in speaking) * kl
    assert alone > 0
    torch.testing.assert_close(parts.total, 4.0 * expected / len(rows), rtol=1e-5, atol=0)
    (mine,) = torch.autograd.grad(parts.total, hidden, retain_graph=True)
    (theirs,) = torch.autograd.grad(4.0 * expected / len(rows), hidden)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)


def test_a_live_teacher_beside_a_cached_one(world, tmp_path: Path, capsys):
    """The second cache is not there: that teacher is asked, and knows every record."""
    data, (a, b), caches = world
    given = (caches / folder_name(a),)
    chosen = settings(
        data, tmp_path, disable_distillation=False, max_steps=1, teacher_model=(f"{a}:0.6", f"{b}:0.4"),
        use_cached_teacher_outputs=given, dataloader_workers=2,
    )  # fmt: skip
    run_train(chosen)
    said = " ".join(capsys.readouterr().out.split())
    assert f"60% Teacher: {a}, from" in said and f"40% Teacher: {b}, live" in said and "says nothing" not in said
    assert last(tmp_path)[f"stage2/kl_{b}"] > 0


def test_a_folder_of_caches_without_names_takes_all_alike(world, tmp_path: Path):
    data, names, caches = world
    chosen = settings(data, tmp_path, disable_distillation=False, use_cached_teacher_outputs=(caches,))
    lesson = build_lesson(chosen, open_prepared(data / "stage2"), build_processor("tiny"), CPU)
    assert lesson is not None and set(lesson.names) == set(names)
    assert [weight for weight, _ in lesson.weighted] == [0.5, 0.5]


def test_one_teacher_alone_may_not_miss_a_record(world, tmp_path: Path):
    """Training against a teacher that is not there is the silent failure that nothing may bring back."""
    data, (_, b), caches = world
    chosen = settings(data, tmp_path, disable_distillation=False, batch_size=12, teacher_model=(b,))
    with pytest.raises(UserError, match="has nothing about record train-"):
        run_train(over(chosen, use_cached_teacher_outputs=(caches / folder_name(b),)))
    with pytest.raises(UserError, match="has nothing about record train-"):
        run_train(over(chosen, output_dir=beside(world, tmp_path / "beside")))


def over(chosen: TrainSettings, **changes) -> TrainSettings:
    return TrainSettings(**{**vars(chosen), **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher_model": ("A:1", "A:2")}, "twice"),
        ({"teacher_model": ("A:0.5", "qwen-vl-chta:0.5")}, "did you mean qwen-vl-chat"),
        ({"teacher_model": ("A:0.6", "B:0")}, "number above 0"),
        ({"teacher_model": ("A", "B"), "teacher_weights": (1.0,)}, "1 numbers for 2 teachers"),
        ({"teacher_model": ("A", "toy-llava"), "use": "B"}, "does not name"),
        ({"teacher_weights": (0.6, 0.4), "use": ""}, "say which number is whose"),
    ],
)
def test_what_cannot_be_meant_stops_the_run(world, tmp_path: Path, changes: dict, said: str):
    data, (a, b), caches = world
    names = {"A": a, "B": b}
    changes = dict(changes)
    if "use" in changes:
        named = names.get(changes.pop("use"))
        changes["use_cached_teacher_outputs"] = (caches / folder_name(named) if named else caches,)
    words = [word.partition(":") for word in changes.get("teacher_model", ())]
    changes["teacher_model"] = tuple(names.get(name, name) + colon + weight for name, colon, weight in words) or (a,)
    chosen = settings(data, beside(world, tmp_path), disable_distillation=False, **changes)
    with pytest.raises(UserError, match=said):
        build_lesson(chosen, open_prepared(data / "stage2"), build_processor("tiny"), CPU)


def test_a_record_that_nobody_knows_stops_the_run(world, tmp_path: Path):
    data, (_, b), caches = world
    prepared = open_prepared(data / "stage2")
    other = make_tiny_teacher(tmp_path / "c", seed=7)
    build_cache(load_teacher(str(other)), prepared.with_pictures(), ("train",), tmp_path / "cache", progress=False)
    given = (caches / folder_name(b), tmp_path / "cache")
    chosen = settings(data, tmp_path, disable_distillation=False, use_cached_teacher_outputs=given)
    with pytest.raises(UserError, match="None of the 2 teachers says anything about 4 records of train, train-2 is"):
        build_lesson(chosen, prepared, build_processor("tiny"), CPU)
