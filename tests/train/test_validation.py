"""Evaluations during training: what they ask, how, and what they leave behind."""

import json

from embervlm import EmberVLM
from embervlm.train import run, validation
from tests.train.small_world import make_world, settings


def test_sampling_in_evaluations_is_not_left_in_the_checkpoint(tmp_path, monkeypatch):
    """Its `generate`, every evaluation and every later run would sample, and say that they do not."""
    asked = []
    real = validation.evaluate_subset
    monkeypatch.setattr(validation, "evaluate_subset", lambda *args: asked.append(args[-1]) or real(*args))
    data = make_world(tmp_path / "data")
    run.run_train(settings(data, tmp_path / "out", max_steps=1, eval_steps=1, do_sample=True, top_p=0.9))
    assert asked == [{"do_sample": True, "top_p": 0.9}]
    kept = EmberVLM.from_pretrained(tmp_path / "out/stage2/checkpoint-final").generation_config
    assert not kept.do_sample and kept.top_p in (None, 1.0)


def test_a_question_longer_than_the_model_reads_does_not_stop_the_training(tmp_path, capsys):
    """It did at the first evaluation, before there was any checkpoint; the loss leaves such records out."""
    data = make_world(tmp_path / "data")
    with (data / "stage2" / "val.jsonl").open("r+", encoding="utf-8") as file:
        row = json.loads(file.readline())
        file.seek(0, 2)
        file.write(json.dumps({**row, "id": "val-long", "instruction": "word " * 3000}) + "\n")
    assert run.run_train(settings(data, tmp_path / "out", max_steps=2, eval_steps=1, eval_samples=50)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("Evaluations leave out 1 questions of val that are longer than the model reads: val-long.") == 1
