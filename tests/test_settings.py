"""Settings: one definition of each flag, and who wins."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from embervlm.distill.divergences import DIVERGENCES
from embervlm.distill.variants import TARGETS
from embervlm.errors import UserError
from embervlm.options import as_dict, flags_of, option, parse
from embervlm.settings import STAGE_DEFAULTS, CacheSettings, EvaluateSettings, TrainSettings
from embervlm.teachers.outputs import TEMPERATURE_GRID
from embervlm.train.schedules import ALPHA_SCHEDULES, loss_weights

CONFIG = Path(__file__).parents[1] / "configs" / "training_stages.yaml"

GUIDE_BLOCK = """
stage2:
  name: "instruction_tuning"
  epochs: 5
  batch_size: 64
  learning_rate: 2.0e-4

  distillation:
    enabled: true
    teacher_model: "qwen-vl-chat"
    temperature: 2.0
    alpha: 0.3  # Distillation weight
    sft_weight: 0.7  # Supervised fine-tuning weight

  max_length: 512
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without configs/, as where an installed package is used."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*argv: str, stage: int = 2) -> TrainSettings:
    return parse(TrainSettings, argv).for_stage(stage)


def written(folder: Path, text: str) -> str:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def explicit(settings: TrainSettings) -> dict:
    """With the loss weights as training uses them: 0.7 and "1 - alpha" are the same."""
    alpha, sft = loss_weights(settings.distillation_alpha, settings.sft_weight)
    return as_dict(settings) | {"config": "", "distillation_alpha": alpha, "sft_weight": pytest.approx(sft)}


@pytest.mark.parametrize("stage", STAGE_DEFAULTS)
def test_shipped_file_and_code_agree(stage: int, elsewhere: Path) -> None:
    """Installed without configs/, training must not silently use other numbers."""
    assert explicit(train("--config", str(CONFIG), stage=stage)) == explicit(train(stage=stage))


def test_recommended_file_changes_the_loss_alone(elsewhere: Path) -> None:
    recommended = explicit(train("--config", str(CONFIG.with_name("recommended.yaml"))))
    usual = explicit(train())
    changed = {name: value for name, value in recommended.items() if value != usual[name]}
    assert changed == {"distillation_alpha": 0.9, "sft_weight": 0.1, "distillation_temperature": 1.0}


def test_guides_block_is_the_default(elsewhere: Path) -> None:
    settings = train("--config", written(elsewhere, GUIDE_BLOCK))
    assert explicit(settings) == explicit(train())
    assert (settings.distillation_alpha, settings.sft_weight, settings.distillation_temperature) == (0.3, 0.7, 2.0)


def test_default_file_is_found_in_the_working_folder(elsewhere: Path) -> None:
    (elsewhere / "configs").mkdir()
    (elsewhere / "configs" / "training_stages.yaml").write_text("stage2: {epochs: 9}", encoding="utf-8")
    assert train().epochs == 9


def test_command_line_wins_over_file_wins_over_default(elsewhere: Path) -> None:
    file = written(elsewhere, "stage2: {epochs: 7, batch_size: 8}")
    settings = train("--config", file, "--batch_size", "4")
    assert (settings.epochs, settings.batch_size, settings.max_length) == (7, 4, 512)


def test_stages_differ_unless_the_command_line_says_so(elsewhere: Path) -> None:
    both = parse(TrainSettings, ["--stages", "1,2"])
    assert both.stages == (1, 2)
    assert (both.for_stage(1).learning_rate, both.for_stage(2).learning_rate) == (1e-3, 2e-4)
    assert both.for_stage(1).disable_distillation and not both.for_stage(2).disable_distillation
    same = parse(TrainSettings, ["--stages", "1,2", "--learning_rate", "3e-4"])
    assert same.for_stage(1).learning_rate == same.for_stage(2).learning_rate == 3e-4


def test_settings_made_in_python_stay_as_they_are() -> None:
    """Nothing from a file may slip into what a program wrote down."""
    assert TrainSettings(epochs=1, learning_rate=0.5).for_stage(1).learning_rate == 0.5


@pytest.mark.parametrize(
    ("flags", "alpha", "sft"),
    [
        ("", 0.3, 0.7),
        ("--distillation_alpha 0.5", 0.5, 0.5),
        ("--sft_weight 0.8", 0.2, 0.8),
        ("--distillation_alpha 0.5 --sft_weight 0.7", 0.5, 0.7),
        ("--alpha_schedule linear", 0.3, 0.7),
    ],
)
def test_one_loss_weight_means_the_other(flags: str, alpha: float, sft: float, elsewhere: Path) -> None:
    """The file gives both; a person who raises one must not keep the file's other."""
    settings = train("--config", written(elsewhere, GUIDE_BLOCK), *flags.split())
    assert loss_weights(settings.distillation_alpha, settings.sft_weight) == pytest.approx((alpha, sft))


def test_moving_alpha_moves_the_other_weight(elsewhere: Path) -> None:
    """With alpha from 0.5 to 0.2, cross-entropy must not stay at the file's 0.7."""
    assert train("--config", written(elsewhere, GUIDE_BLOCK), "--alpha_schedule", "linear").sft_weight is None


def test_distillation_block_can_be_off_in_the_file_and_on_again(elsewhere: Path) -> None:
    file = written(elsewhere, "stage2: {distillation: {enabled: false}}")
    assert train("--config", file).disable_distillation
    assert not train("--config", file, "--no_disable_distillation").disable_distillation


def test_a_teacher_in_stage_1_is_asked_for_in_its_own_block(elsewhere: Path) -> None:
    file = written(elsewhere, "stage1: {distillation: {enabled: true, alpha: 0.9}}")
    both = parse(TrainSettings, ["--config", file, "--stages", "1,2"])
    assert not both.for_stage(1).disable_distillation and both.for_stage(1).distillation_alpha == 0.9
    assert both.for_stage(2).distillation_alpha == 0.3
    off = parse(TrainSettings, ["--config", file, "--disable_distillation"])
    assert off.for_stage(1).disable_distillation and off.for_stage(2).disable_distillation
    assert not parse(TrainSettings, ["--no_disable_distillation"]).for_stage(1).disable_distillation


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stage2: {epoch: 3}", "unknown key epoch; did you mean epochs"),
        ("stage2: {distillation: {temprature: 3}}", "did you mean distillation.temperature"),
        ("stage3: {epochs: 3}", "unknown block stage3"),
        ("stage2: {epochs: many}", "epochs in stage2 of .* is 'many'; it takes a whole number"),
        ("stage2: {fp16: 1}", "it takes true or false"),
        ("stage2: {distillation: 3}", "expected keys with values"),
        ("stage2: {resume_from: x}", "unknown key resume_from"),
        ("[1, 2]", "holds no keys"),
        ("stage2: {", "is not YAML"),
    ],
)
def test_bad_file_is_a_sentence(text: str, said: str, elsewhere: Path) -> None:
    with pytest.raises(UserError, match=said):
        train("--config", written(elsewhere, text))


def test_file_that_was_asked_for_must_exist(elsewhere: Path) -> None:
    with pytest.raises(UserError, match="none.yaml cannot be read"):
        train("--config", "none.yaml")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--learing_rate 3", "did you mean --learning_rate"),
        ("--epochs x", "--epochs is 'x'; it takes a whole number"),
        ("--epochs", "--epochs: expected one argument"),
        ("--epochs none", "--epochs is none"),
        ("--stages 3", "whole number from 1 to 2"),
        ("--distillation_temperature 0.5", "number from 1 to 4"),
        ("--learning_rate nan", "takes a number"),
        ("--alpha_schedule linar", "did you mean linear"),
        ("--fp16 False", "--no_NAME"),
        ("somewhere", "belongs to no flag"),
    ],
)
def test_bad_flag_is_a_sentence(flags: str, said: str, elsewhere: Path) -> None:
    with pytest.raises(UserError, match=said):
        train(*flags.split())


def test_ways_to_write_a_flag(elsewhere: Path) -> None:
    assert train("--batch-size=8").batch_size == 8
    assert train("--use_cached_teacher_outputs=a-b/c").use_cached_teacher_outputs == (Path("a-b/c"),)
    assert train("--save_total_limit", "none").save_total_limit is None
    assert parse(EvaluateSettings, ["--benchmarks", "vqa,okvqa"]).benchmarks == ("vqa", "okvqa")
    assert parse(EvaluateSettings, ["--benchmarks", "vqa", "okvqa"]).benchmarks == ("vqa", "okvqa")


def test_any_class_with_a_config_flag_reads_files(elsewhere: Path) -> None:
    @dataclass(frozen=True)
    class Some:
        """Some."""

        config: Path | None = option(None, "File", key=None)
        files: tuple[Path, ...] = option((), "Files")
        count: int = option(1, "Count")

    file = written(elsewhere, "files: [a.json, 'b,c.json']\ncount: 5")
    assert parse(Some, ["--config", file, "--count", "2"]) == Some(Path(file), (Path("a.json"), Path("b,c.json")), 2)


def test_words_that_stand_in_two_places_agree() -> None:
    flags = flags_of(TrainSettings)
    assert flags["alpha_schedule"].choices == ALPHA_SCHEDULES
    assert flags["distillation_loss"].choices == tuple(DIVERGENCES)
    assert flags["distillation_targets"].choices == tuple(TARGETS)
    assert flags["distillation_temperature"].limits == (TEMPERATURE_GRID[0], TEMPERATURE_GRID[-1])
    assert flags["teacher_top_k"].default == flags_of(CacheSettings)["top_k"].default


def test_settings_go_into_a_checkpoint_as_json() -> None:
    told = as_dict(TrainSettings(stages=(1, 2)))
    assert (told["stages"], told["output_dir"], told["sft_weight"]) == ([1, 2], "outputs", None)
    assert yaml.safe_load(yaml.safe_dump(told)) == told


@dataclass(frozen=True)
class _Named:
    files: tuple[Path, ...] = option((), "Files", words="FILE [...]")
    deep: bool = option(False, "Deep")
    into: Path = option(Path("x"), "Where to")


def test_words_without_a_flag_fill_the_one_that_takes_them() -> None:
    expected = _Named((Path("a"), Path("b,c")), True, Path("y"))
    for argv in (
        "a b,c --deep --into y",
        "a --deep b,c --into y",
        "--deep --into y a b,c",
        "--into y --deep --files a b,c",
    ):
        assert parse(_Named, argv.split()) == expected
    assert parse(_Named, ["--files", "a", "--deep", "b"]).files == (Path("a"), Path("b"))
    with pytest.raises(UserError, match="no flag --depe; did you mean --deep"):
        parse(_Named, ["a", "--depe", "b"])
    with pytest.raises(UserError, match="'a' belongs to no flag"):
        parse(EvaluateSettings, ["a"])
