import json
from pathlib import Path

import pytest
import torch

from embervlm import EmberVLM
from embervlm.data.prepared import PreparedSet
from embervlm.evaluate.runner import evaluate
from tests.evaluate.world import Sayer, make_world, save

ALL = ("vqa", "okvqa", "instruct")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> PreparedSet:
    return make_world(tmp_path_factory.mktemp("world") / "stage2")


@pytest.fixture(scope="session")
def student() -> EmberVLM:
    torch.manual_seed(0)
    model = EmberVLM.from_preset("tiny").eval()
    with torch.no_grad():  # not as flat as a new model: its likeliest tokens lie apart
        model.get_output_embeddings().weight.mul_(20)
    return model


@pytest.fixture(scope="session")
def compared(prepared, tmp_path_factory) -> Path:
    """What three evaluations leave: results/{a,b,blind}.json; a and b trained before, blind is a without pictures."""
    home = tmp_path_factory.mktemp("runs")
    says = {"a": {"vqa-4": "no idea"}, "b": {"vqa-0": "blue", "vqa-5": "yes", "llava-3": "red"}}
    for name, wrong in says.items():
        final = home / name / "stage2" / "checkpoint-final"
        final.mkdir(parents=True)
        trained = {
            "teacher_model": ["toy-llava"],
            "learning_rate": 0.002,
            "seed": 0,
            "distillation_alpha": 0.3 if name == "a" else 0.0,
        }
        (final / "training_args.json").write_text(json.dumps({"stage": 2, "settings": trained, "teacher": None}))
        history = [{"step": step, "stage2/sft_loss": (2.0 if name == "a" else 2.5) / step} for step in (1, 2, 3)]
        (final.parent / "metrics.json").write_text(json.dumps({"stage": 2, "history": history}))
        about = {"checkpoint": str(final), "dataset_path": str(prepared.folder), "num_beams": 1 if name == "a" else 4}
        result = evaluate(Sayer(wrong), prepared, ALL, name="student", progress=False, settings=about)
        save(result, prepared, home / "results" / f"{name}.json")
    about = {"checkpoint": str(home / "a" / "stage2" / "checkpoint-final"), "dataset_path": str(prepared.folder)}
    blind = evaluate(Sayer(default="yes"), prepared, ("vqa",), name="blind", progress=False, settings=about)
    save(blind, prepared, home / "results" / "blind.json")
    return home
