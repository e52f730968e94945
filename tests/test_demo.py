"""The demo as a stranger runs it: every phase, the report, and going on after a stop."""

import json
from pathlib import Path

import pytest

from embervlm.demo import TAUGHT, plan, run_demo
from embervlm.options import parse
from embervlm.settings import DemoSettings, TrainSettings


@pytest.mark.slow
def test_the_quick_demo_ends_with_a_report_and_does_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    settings = DemoSettings(out=tmp_path / "demo", quick=True)
    assert run_demo(settings) == 0
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "Teacher" in page and "data:image/" in page and "http://" not in page
    for name in ("student", "student_teacher", "student_blind", "undistilled"):
        result = json.loads((tmp_path / "demo" / "results" / f"{name}.json").read_text())
        assert result["benchmarks"]["vqa"]["overall"]["n"] > 0
    assert (tmp_path / "demo" / "outputs" / "stage2" / "checkpoint-final" / "pytorch_model.bin").is_file()
    capsys.readouterr()
    assert run_demo(settings) == 0
    assert capsys.readouterr().out.count("done before") == len(plan(settings))


def test_both_students_differ_in_the_teacher_alone() -> None:
    """A comparison at other steps or rates would say nothing. The one without reads what people answered."""
    trained = [phase.words for phase in plan(DemoSettings()) if phase.words[:3] == ["train", "--stages", "2"]]
    distilled, alone = trained

    def shared(words: list[str]) -> set[str]:
        text = " ".join(words).replace("/undistilled", "")
        data = [f"--data_dir outputs/demo/{name}" for name in ("answered", "data")]
        for flag in ("--teacher_model toy-llava", "--disable_distillation", TAUGHT, *data):
            text = text.replace(flag, "")
        return set(text.split()) - {"--use_cached_teacher_outputs", "outputs/demo/outputs/stage2/teacher_outputs"}

    assert shared(distilled) == shared(alone)


def test_the_demo_teaches_as_is_recommended() -> None:
    file = Path(__file__).parents[1] / "configs" / "recommended.yaml"
    recommended = parse(TrainSettings, ["--config", str(file)]).for_stage(2)
    shown = parse(TrainSettings, TAUGHT.split()).for_stage(2)
    for name in ("distillation_alpha", "sft_weight", "distillation_temperature"):
        assert getattr(shown, name) == getattr(recommended, name)
