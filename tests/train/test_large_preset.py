"""The default preset, at its real size."""

import pytest
from PIL import Image

from embervlm import EmberVLM
from embervlm.train.run import run_train
from tests.train.small_world import make_world, settings


@pytest.mark.slow
def test_the_37m_preset_trains_saves_resumes_and_answers(tmp_path, capsys):
    data = make_world(tmp_path / "data")
    common = {"preset": "37m", "batch_size": 2, "learning_rate": 2e-4}
    assert run_train(settings(data, tmp_path, stages=(1, 2), max_steps=2, **common)) == 0
    resume = tmp_path / "stage2/checkpoint-2"
    assert run_train(settings(data, tmp_path, max_steps=3, resume_from=resume, **common)) == 0
    out = capsys.readouterr().out
    assert "│ total" in out and "36," in out
    model = EmberVLM.from_pretrained(tmp_path / "stage2/checkpoint-final")
    answer = model.generate(image=Image.new("RGB", (300, 200), "red"), prompt="What color is it?", max_length=4)
    assert isinstance(answer, str)
