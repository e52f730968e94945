"""The verification says "ready" to a right set-up and names what is wrong with a wrong one."""

from dataclasses import replace

import pytest
import torch

from embervlm.data.prepare import run_prepare
from embervlm.data.prepared import open_prepared
from embervlm.data.settings import PrepareSettings
from embervlm.data.toyworld import prepare_words, write_toy
from embervlm.inspection import verify
from embervlm.options import parse
from embervlm.settings import VerifySettings
from embervlm.teachers.cache import build_cache
from embervlm.teachers.gate import Surprise
from embervlm.teachers.registry import load_teacher
from tests.tiny_teacher import make_tiny_teacher
from tests.train.small_world import make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspection")
    data, teacher = make_world(folder / "data"), make_tiny_teacher(folder / "teacher")
    build_cache(
        load_teacher(str(teacher)), open_prepared(data / "stage2"), ("train",), folder / "cache", progress=False
    )
    return data / "stage2", teacher, folder / "cache"


@pytest.fixture(scope="module")
def facts(world):
    """Facts of a set-up whose teacher, random as it is, is called a good one."""
    data, _, cache = world
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "judge", lambda facts: kept.append(facts) or [])
        torch.manual_seed(0)
        settings = VerifySettings(dataset_path=data, preset="tiny", use_cached_teacher_outputs=cache, samples=6)
        assert verify.run_verify(settings) == 0
    return replace(kept[0], teacher=replace(kept[0].teacher, perplexity=3.0))


def failing(facts):
    return [check.name for check in verify.judge(facts) if not check.right]


def test_a_right_setup_is_ready(facts):
    assert failing(facts) == []
    assert facts.targets.shares.anchored > facts.targets.shares.none  # an unsure teacher: nothing inside its tokens
    assert 0 < facts.targets.rest < 1 and 0 < facts.targets.label_mass < 1


def test_each_thing_that_can_be_wrong_is_named(facts):
    targets, step = facts.targets, facts.step
    wrong = {
        "speaks about": replace(facts, targets=replace(targets, shares=replace(targets.shares, none=10_000))),
        "distributions": replace(facts, targets=replace(targets, worst_sum=0.2)),
        "likely": replace(facts, teacher=replace(facts.teacher, perplexity=5_000.0)),
        "finds the answers": replace(facts, surprises={"llava_instruct": Surprise(0.1, 3.7), "vqa_v2": Surprise(3, 2)}),
        "every trained part": replace(facts, step=replace(step, gradients={**step.gradients, "projector": 0.0})),
        "are numbers": replace(facts, step=replace(step, loss=float("nan"))),
        "near chance": replace(facts, start=replace(facts.start, ce_per_token=12.0)),
    }
    for name, case in wrong.items():
        (found,) = failing(case)
        assert name in found
    assert failing(replace(wrong["near chance"], trained=True)) == []


def test_a_source_is_not_hidden_by_those_before_it(tmp_path, capsys):
    """A prepared set holds source behind source; the first records alone would all be of one."""
    write_toy(tmp_path / "toy", 30, 4, seed=0)
    words = ["--out", str(tmp_path / "data"), *prepare_words(tmp_path / "toy")]
    words[words.index("--vqa_prompt") + 1] = "Q: {question} Reply shortly."  # nothing that it was trained on
    run_prepare(parse(PrepareSettings, words))
    settings = VerifySettings(
        dataset_path=tmp_path / "data" / "stage2", preset="tiny", teacher_model="toy-llava", samples=16
    )
    assert verify.run_verify(settings) == 1
    out = capsys.readouterr().out
    assert "WRONG the teacher finds the answers likely" in out and "--vqa_prompt" in out
    wrong = out.split("less likely than counting words does: ")[1].splitlines()[0]
    assert "vqa_v2, " in wrong and "llava_instruct" not in wrong


def test_the_screen_of_a_live_teacher(world, capsys):
    data, teacher, _ = world
    code = verify.run_verify(VerifySettings(dataset_path=data, preset="tiny", teacher_model=str(teacher), samples=4))
    out = capsys.readouterr().out
    assert code == 1  # a random teacher finds the answers unlikely
    assert "WRONG the teacher finds the answers likely" in out and "embervlm test-teacher" in out
    for said in ("tokenizer", "anchored", "of the mass in the tail", "student reads", "KL(student || teacher)"):
        assert said in out
    assert "cosine 0." in out  # 48 of its 369 words against all
    assert "nats a token of its own" in " ".join(out.split())


def test_a_cache_is_compared_with_its_teacher_where_that_is_asked_for(world, tmp_path, capsys):
    data, teacher, cache = world
    settings = VerifySettings(dataset_path=data, preset="tiny", use_cached_teacher_outputs=cache, samples=4)
    verify.run_verify(settings)
    assert "full distribution" not in capsys.readouterr().out
    verify.run_verify(replace(settings, compare_teacher=True))
    assert "full distribution" in capsys.readouterr().out
    poor = tmp_path / "poor"
    build_cache(load_teacher(str(teacher)), open_prepared(data), ("train",), poor, top_k=1, progress=False)
    verify.run_verify(replace(settings, compare_teacher=True, use_cached_teacher_outputs=poor))
    assert "WRONG what is kept of the teacher" in capsys.readouterr().out


def test_each_stage_has_its_own_data(world, monkeypatch, capsys):
    data, teacher, _ = world
    monkeypatch.chdir(data.parents[1])
    for stage in (1, 2):
        verify.run_verify(VerifySettings(stage=stage, preset="tiny", teacher_model=str(teacher), samples=4))
        assert f"data/stage{stage}, " in capsys.readouterr().out
