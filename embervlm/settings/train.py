"""Flags of training, and its settings file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from embervlm.errors import UserError
from embervlm.options import option, parse_block, read_yaml
from embervlm.settings.loading import concurrency, dtype, load_in, offload, remote_code, served_name, served_tokenizer

DEFAULT_CONFIG = Path("configs/training_stages.yaml")

STAGE_DEFAULTS: dict[int, dict[str, Any]] = {
    1: {"stage_name": "visual_language_alignment", "epochs": 3, "learning_rate": 1.0e-3, "disable_distillation": True},
    2: {},
}
"""Where a stage differs from the defaults below, which are Stage 2's."""


_RUN, _DATA, _OPTIM, _DISTILL, _EVAL, _MODEL, _LOG = (
    "Run", "Data", "Optimisation", "Distillation", "Evaluation and checkpoints", "Model", "Hardware and logs",
)  # fmt: skip


@dataclass(frozen=True)
class TrainSettings:
    """Train Stage 1 (captions) and Stage 2 (with a teacher)."""

    stages: tuple[int, ...] = option((2,), "Stages to train: 1, 2 or 1,2", group=_RUN, minimum=1, maximum=2, key=None)
    preset: str = option("37m", "Student to build when no checkpoint is given: 37m or tiny", group=_RUN)
    output_dir: Path = option(Path("outputs"), "Checkpoints and metrics go to its stage1/ and stage2/", group=_RUN)
    resume_from: Path | None = option(
        None,
        "A Stage 1 checkpoint of any step (weights only), or a Stage 2 checkpoint to continue",
        group=_RUN,
        key=None,
    )
    config: Path = option(DEFAULT_CONFIG, "Settings file; the command line wins over it", group=_RUN, key=None)
    stage_name: str = option("instruction_tuning", "Name of the stage in console and logs", group=_RUN, key="name")
    seed: int = option(42, "Seed of everything random", group=_RUN, minimum=0)

    data_dir: Path = option(Path("data"), "Stage N reads data_dir/stageN, made by `embervlm prepare`", group=_DATA)
    image_root: Path | None = option(None, "Folder of the pictures, instead of the prepared one", group=_DATA)
    max_length: int = option(512, "Tokens of one sample, longer ones are cut", group=_DATA, minimum=16)
    pack: bool = option(
        True,
        "Rows of up to max_length hold several pictures and their samples, each seeing its picture and itself only",
        group=_DATA,
    )
    source_weights: tuple[str, ...] | None = option(
        None, "How often an epoch reads each source, such as llava_instruct=1 vqa_v2=0.5", group=_DATA, shown="1 each"
    )
    frozen_features: str = option(
        "auto", "Keep what the frozen blocks of the vision encoder make of a picture on disk, instead of running them "
        "again; auto: where pictures are looked at more than once", group=_DATA, choices=("auto", "on", "off"),
    )  # fmt: skip
    features_dir: Path | None = option(
        None, "Folder of the frozen features, on a fast disk; runs may share it", group=_DATA,
        shown="output_dir/features",
    )  # fmt: skip
    dataloader_workers: int = option(2, "Processes that read pictures", group=_DATA, minimum=0)

    epochs: int = option(5, "Passes over the data", group=_OPTIM, minimum=1, shown="5 (Stage 1: 3)")
    max_steps: int = option(-1, "Stop after so many steps; -1 = after the epochs", group=_OPTIM, minimum=-1)
    batch_size: int = option(64, "Samples a device and step, packed or not", group=_OPTIM, minimum=1)
    gradient_accumulation_steps: int = option(1, "Batches for one optimizer step", group=_OPTIM, minimum=1)
    learning_rate: float = option(
        2.0e-4, "Peak learning rate", group=_OPTIM, minimum=0, shown="2.0e-4 (Stage 1: 1.0e-3)"
    )
    vision_learning_rate: float | None = option(
        None, "Of the unfrozen vision blocks", group=_OPTIM, shown="learning_rate"
    )
    projector_learning_rate: float | None = option(None, "Of the projector", group=_OPTIM, shown="learning_rate")
    language_learning_rate: float | None = option(None, "Of the language model", group=_OPTIM, shown="learning_rate")
    warmup_steps: int = option(
        1000, "Linear warm-up, at most a tenth of all steps, then cosine to 0", group=_OPTIM, minimum=0
    )
    weight_decay: float = option(0.01, "AdamW's weight decay", group=_OPTIM, minimum=0)
    gradient_clip: float = option(1.0, "Largest norm of the gradient; 0 = any", group=_OPTIM, minimum=0)

    teacher_model: tuple[str, ...] = option(
        ("qwen-vl-chat",), "Teacher: a name of the registry, a hub id, a folder, or a server's http://host:port/v1; "
        "several: NAME:WEIGHT each",
        group=_DISTILL, key="distillation.teacher_model",
    )  # fmt: skip
    disable_distillation: bool = option(
        False,
        "Train on the labels alone; Stage 1 does unless --no_disable_distillation, in its block of the settings file "
        "distillation: {enabled: true}, gives it a teacher, too",
        group=_DISTILL,
        key="!distillation.enabled",
        shown="off (Stage 1: on)",
    )
    use_cached_teacher_outputs: tuple[Path, ...] | None = option(
        None, "Folder of `embervlm cache build`: no teacher is loaded, 3 to 5 times faster; several folders, several "
        "teachers", group=_DISTILL, key="distillation.cached_teacher_outputs",
    )  # fmt: skip
    teacher_weights: tuple[float, ...] | None = option(
        None, "Share of each teacher or cache, if it is not behind the name; where one says nothing, of the others",
        group=_DISTILL, key="distillation.teacher_weights", shown="equal",
    )  # fmt: skip
    distillation_alpha: float = option(
        0.3, "Weight of T^2 KL(teacher || student)", group=_DISTILL, minimum=0, key="distillation.alpha"
    )
    sft_weight: float | None = option(
        None,
        "Weight of the cross-entropy",
        group=_DISTILL,
        minimum=0,
        key="distillation.sft_weight",
        shown="1 - alpha",
    )
    distillation_temperature: float = option(
        2.0, "T, softens both distributions", group=_DISTILL, minimum=1, maximum=4, key="distillation.temperature"
    )
    alpha_schedule: str = option(
        "constant", "How alpha changes over the run", group=_DISTILL, choices=("constant", "linear", "cosine"),
        key="distillation.alpha_schedule",
    )  # fmt: skip
    alpha_start: float = option(
        0.5, "First alpha of a linear or cosine schedule", group=_DISTILL, minimum=0, key="distillation.alpha_start"
    )
    alpha_end: float = option(
        0.2, "Last alpha of a linear or cosine schedule", group=_DISTILL, minimum=0, key="distillation.alpha_end"
    )
    distillation_loss: str = option(
        "forward_kl", "Divergence: KL(teacher || student), KL(student || teacher), Jensen-Shannon, or the baseline "
        "that compares sorted probabilities (ULD)", group=_DISTILL,
        choices=("forward_kl", "reverse_kl", "jsd", "uld"), key="distillation.loss",
    )  # fmt: skip
    jsd_beta: float = option(
        0.5, "Jensen-Shannon's beta: 0 is the forward KL, 1 the reverse", group=_DISTILL, minimum=0.01, maximum=0.99,
        key="distillation.jsd_beta",
    )  # fmt: skip
    distillation_targets: str = option(
        "resolved", "How the teacher is told in the student's tokens; the others are baselines", group=_DISTILL,
        choices=("resolved", "strict", "truncated", "uld"), key="distillation.targets",
    )  # fmt: skip
    teacher_top_k: int = option(
        48, "Most probabilities taken per position", group=_DISTILL, minimum=1, key="distillation.top_k"
    )
    teacher_dtype: str = dtype(group=_DISTILL, key="distillation.teacher_dtype")
    teacher_load_in: str = load_in(group=_DISTILL, key="distillation.teacher_load_in")
    teacher_offload: bool = offload(group=_DISTILL, key="distillation.teacher_offload")
    teacher_name: str | None = served_name(group=_DISTILL, key="distillation.teacher_name")
    teacher_tokenizer: str | None = served_tokenizer(group=_DISTILL, key="distillation.teacher_tokenizer")
    teacher_concurrency: int = concurrency(group=_DISTILL, key="distillation.teacher_concurrency")
    trust_remote_code: bool = remote_code(group=_DISTILL, key="distillation.trust_remote_code")

    save_steps: int = option(500, "Steps between checkpoints", group=_EVAL, minimum=1)
    save_total_limit: int | None = option(None, "Checkpoints kept; the oldest go", group=_EVAL, minimum=1, shown="all")
    eval_steps: int = option(250, "Steps between evaluations", group=_EVAL, minimum=1)
    eval_samples: int = option(512, "Samples of val that an evaluation reads", group=_EVAL, minimum=1)
    metric_for_best_model: str = option(
        "vqa_accuracy", "Metric of val that chooses checkpoint-final; where nothing in val is measured by it, and in "
        "Stage 1, eval_loss", group=_EVAL,
        choices=("vqa_accuracy", "instruct_score", "eval_loss"),
    )  # fmt: skip
    logging_steps: int = option(10, "Steps between log lines", group=_EVAL, minimum=1)
    do_sample: bool = option(False, "Sample answers in evaluations instead of taking the likeliest", group=_EVAL)
    top_p: float = option(1.0, "Nucleus to sample from", group=_EVAL, minimum=0, maximum=1)

    unfreeze_vision: int | None = option(
        None, "Last blocks of the vision encoder to train; 0 = none, -1 = all", group=_MODEL, minimum=-1,
        shown="the preset's: 37m 0, tiny -1",
    )  # fmt: skip
    vision_weights: str | None = option(
        None, "Pretrained encoder: timm name, hub id or file", group=_MODEL, shown="random"
    )
    language_model: str | None = option(
        None, "Pretrained language model: hub id or folder", group=_MODEL, shown="random"
    )

    fp16: bool = option(False, "Half precision, for GPUs before Ampere", group=_LOG)
    bf16: bool = option(False, "bfloat16, for Ampere and later", group=_LOG)
    wandb_project: str | None = option(None, "Log to this Weights & Biases project", group=_LOG, shown="off")
    wandb_run_name: str | None = option(None, "Name of the run there", group=_LOG, shown="W&B picks one")
    tensorboard: bool = option(False, "Log to output_dir/stageN/tensorboard", group=_LOG)

    per_stage: Mapping[int, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    """Where stages differ; set by `resolve`, applied by `for_stage`."""

    @classmethod
    def resolve(cls, given: dict[str, Any]) -> TrainSettings:
        """The command line over the settings file over the defaults, for each stage."""
        path: Path = given.get("config", DEFAULT_CONFIG)
        blocks = read_config(path) if "config" in given or path.is_file() else {}
        stages = {
            stage: {**vars(cls()), **layer(layer(defaults, blocks.get(f"stage{stage}", {})), given)}
            for stage, defaults in STAGE_DEFAULTS.items()
        }
        first = stages[min(stages)]
        differ = [name for name in first if any(values[name] != first[name] for values in stages.values())]
        per_stage = {stage: {name: values[name] for name in differ} for stage, values in stages.items()}
        return cls(**{**stages[min(given.get("stages", cls.stages))], "per_stage": per_stage})

    def for_stage(self, stage: int) -> TrainSettings:
        """These settings as one stage uses them."""
        return replace(self, **{**self.per_stage.get(stage, {}), "stages": (stage,), "per_stage": {}})


def read_config(path: Path) -> dict[str, dict[str, Any]]:
    """{"stage1": {field: value}, "stage2": {...}} of a settings file.

    Raises:
        UserError: no such file, not YAML, unknown block or key, a value of the wrong type.
    """
    content = read_yaml(path)
    for name in content:
        if name not in ("stage1", "stage2"):
            raise UserError(f"The settings file {path} has an unknown block {name}; expected stage1 and stage2.")
    return {name: parse_block(TrainSettings, block, f"{name} of {path}") for name, block in content.items()}


def layer(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` wins. Whoever gives one of the two loss weights, or lets alpha move, means the other to complement it;
    whoever names teachers means not the weights of those that were named below."""
    merged = {**below, **above}
    if "teacher_model" in above and "teacher_weights" not in above:
        merged["teacher_weights"] = None
    if "sft_weight" not in above and above.keys() & {"distillation_alpha", "alpha_schedule"}:
        merged["sft_weight"] = None
    if "distillation_alpha" not in above and above.get("sft_weight") is not None:
        merged["distillation_alpha"] = round(max(0.0, 1 - above["sft_weight"]), 12)
    return merged
