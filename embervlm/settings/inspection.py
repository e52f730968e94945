"""Flags of the commands that look before a training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embervlm.options import option
from embervlm.settings.loading import TeacherLoading
from embervlm.settings.train import STAGE_DEFAULTS, TrainSettings, layer, read_config


@dataclass(frozen=True)
class VerifySettings(TeacherLoading):
    """Check the whole set-up before hours of training."""

    stage: int = option(2, "Stage to check", minimum=1, maximum=2)
    dataset_path: Path | None = option(None, "Prepared data set", shown="data/stageN")
    preset: str = option("37m", "Student: 37m or tiny")
    checkpoint: Path | None = option(None, "Student checkpoint, instead of a preset")
    teacher_model: str = option(
        "qwen-vl-chat", "Teacher: a name of the registry, a hub id, a folder, or a server's http://host:port/v1"
    )
    use_cached_teacher_outputs: Path | None = option(None, "Cache, instead of a teacher")
    compare_teacher: bool = option(
        False, "With a cache: load its teacher, too, and compare the gradients with its full distribution"
    )
    samples: int = option(32, "Samples of each source to look at", minimum=1)


def _as_train(name: str, **changes: Any) -> Any:
    """The flag of a training, for a command that looks at one."""
    item = TrainSettings.__dataclass_fields__[name]
    default = changes.pop("default", item.default)
    return field(default=default, metadata={**item.metadata, "group": "As in the training", **changes})


@dataclass(frozen=True)
class InspectSettings(TeacherLoading):
    """Show batches as the student reads them."""

    stage: int = option(2, "Stage whose data to show", minimum=1, maximum=2)
    num_batches: int = option(1, "Batches to show", minimum=1)
    first_batch: int = option(
        1, "Number of the first one: of a training on one device without accumulation, the step that reads it",
        minimum=1,
    )  # fmt: skip
    batch_size: int = option(4, "Samples of a batch", minimum=1)
    split: str = option("train", "Split of the data set")
    dataset_path: Path | None = option(None, "Prepared data set", shown="data_dir/stageN")
    checkpoint: Path | None = option(None, "Student checkpoint, instead of a preset")
    html: Path | None = option(None, "Write the page, too: one file with pictures and the teacher's words")
    config: Path | None = option(
        None, "Settings file of the training: its values hold where no flag is given", key=None, shown="not read"
    )
    output_dir: Path = option(
        Path("outputs"), "Of the training: caches in its stageN/teacher_outputs are shown if no teacher is named"
    )

    seed: int = _as_train("seed")
    preset: str = _as_train("preset")
    data_dir: Path = _as_train("data_dir")
    image_root: Path | None = _as_train("image_root")
    max_length: int = _as_train("max_length")
    pack: bool = _as_train("pack")
    source_weights: tuple[str, ...] | None = _as_train("source_weights")
    teacher_model: tuple[str, ...] | None = _as_train("teacher_model", default=None, shown="output_dir's caches")
    disable_distillation: bool = _as_train(
        "disable_distillation",
        help="Show no teacher; Stage 1 has none without --no_disable_distillation, here or in --config",
    )
    use_cached_teacher_outputs: tuple[Path, ...] | None = _as_train("use_cached_teacher_outputs")
    teacher_weights: tuple[float, ...] | None = _as_train("teacher_weights")
    distillation_temperature: float = _as_train("distillation_temperature")
    distillation_targets: str = _as_train("distillation_targets")
    teacher_top_k: int = _as_train("teacher_top_k")

    @classmethod
    def resolve(cls, given: dict[str, Any]) -> InspectSettings:
        """The command line over the stage's block of a training's settings file over the stage's defaults."""
        stage = given.get("stage", cls.stage)
        block = read_config(given["config"]).get(f"stage{stage}", {}) if given.get("config") is not None else {}
        as_trained = layer(STAGE_DEFAULTS[stage], block)
        shared = {name: value for name, value in as_trained.items() if name in cls.__dataclass_fields__}
        return cls(**layer(shared, given))
