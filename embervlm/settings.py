"""Every flag of every command, once. The string beside a default is what `--help` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from embervlm.errors import UserError
from embervlm.options import option, parse_block, read_yaml

DEFAULT_CONFIG = Path("configs/training_stages.yaml")

STAGE_DEFAULTS: dict[int, dict[str, Any]] = {
    1: {"stage_name": "visual_language_alignment", "epochs": 3, "learning_rate": 1.0e-3, "disable_distillation": True},
    2: {},
}
"""Where a stage differs from the defaults below, which are Stage 2's."""


def _dtype(**place: Any) -> Any:
    choices = ("auto", "float32", "bfloat16", "float16")
    return option("auto", "Of the teacher's weights; auto: bfloat16 on a GPU, else float32", choices=choices, **place)


def _load_in(**place: Any) -> Any:
    choices = ("dtype", "8bit", "4bit")
    return option(
        "dtype", "Quantise the teacher's weights while they are read (bitsandbytes)", choices=choices, **place
    )


def _offload(**place: Any) -> Any:
    return option(False, "Layers of the teacher that do not fit on the GPU stay in main memory", **place)


def _remote_code(**place: Any) -> Any:
    return option(False, "Let a teacher from the hub run its own code", **place)


def _served_name(**place: Any) -> Any:
    return option(
        None, "Of the model, where the teacher is a server's http://host:port/v1", shown="the one it serves", **place
    )


def _served_tokenizer(**place: Any) -> Any:
    return option(
        None, "Folder or hub id of a served teacher's tokenizer", shown="the one of the model's name", **place
    )


def _concurrency(**place: Any) -> Any:
    return option(16, "Requests in flight to a served teacher", minimum=1, maximum=1024, **place)


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
        False, "Train on the labels alone (Stage 1 always does)", group=_DISTILL, key="!distillation.enabled"
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
    teacher_dtype: str = _dtype(group=_DISTILL, key="distillation.teacher_dtype")
    teacher_load_in: str = _load_in(group=_DISTILL, key="distillation.teacher_load_in")
    teacher_offload: bool = _offload(group=_DISTILL, key="distillation.teacher_offload")
    teacher_name: str | None = _served_name(group=_DISTILL, key="distillation.teacher_name")
    teacher_tokenizer: str | None = _served_tokenizer(group=_DISTILL, key="distillation.teacher_tokenizer")
    teacher_concurrency: int = _concurrency(group=_DISTILL, key="distillation.teacher_concurrency")
    trust_remote_code: bool = _remote_code(group=_DISTILL, key="distillation.trust_remote_code")

    save_steps: int = option(500, "Steps between checkpoints", group=_EVAL, minimum=1)
    save_total_limit: int | None = option(None, "Checkpoints kept; the oldest go", group=_EVAL, minimum=1, shown="all")
    eval_steps: int = option(250, "Steps between evaluations", group=_EVAL, minimum=1)
    eval_samples: int = option(512, "Samples of val that an evaluation reads", group=_EVAL, minimum=1)
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
            stage: {**vars(cls()), **_layer(_layer(defaults, blocks.get(f"stage{stage}", {})), given)}
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


def _layer(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
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


_TOY = Path("data/toy")
_STAGE2, _CACHE = Path("data/stage2"), Path("outputs/stage2/teacher_outputs")
_FINAL = Path("outputs/stage2/checkpoint-final")


@dataclass(frozen=True, kw_only=True)
class TeacherLoading:
    """How a command loads its teacher, or reaches one that is served; listed behind the command's own flags."""

    teacher_dtype: str = _dtype()
    teacher_load_in: str = _load_in()
    teacher_offload: bool = _offload()
    teacher_name: str | None = _served_name()
    teacher_tokenizer: str | None = _served_tokenizer()
    teacher_concurrency: int = _concurrency()
    trust_remote_code: bool = _remote_code()


@dataclass(frozen=True)
class CacheSettings(TeacherLoading):
    """Run the teacher once over the data and keep what it says."""

    teacher_model: tuple[str, ...] = option(
        ("qwen-vl-chat",),
        "Teacher: a name of the registry, a hub id, a folder, or a server's http://host:port/v1; "
        "several: one after the other",
    )
    dataset_path: Path = option(_STAGE2, "Prepared data set")
    splits: tuple[str, ...] = option(("train", "val"), "Splits to read")
    output_dir: Path = option(
        _CACHE,
        "Folder of the cache, of several teachers with a folder in it for each; a run that was stopped continues",
    )
    batch_size: int = option(32, "Samples the teacher reads at once", minimum=1)
    top_k: int = option(48, "Most probabilities kept per position", minimum=1, maximum=254)
    min_share: float = option(
        0.0035, "Probabilities below this at T = 2 are left to the tail; 0 keeps top_k", minimum=0, maximum=1
    )
    pictures_only: bool = option(
        False,
        "Leave out records without a picture, for a teacher that cannot read them; it then needs another beside it",
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, ...")
    force: bool = option(False, "Go on with a teacher that knows the answers worse than word counts do")


@dataclass(frozen=True)
class AnswerSettings(TeacherLoading):
    """Let a teacher answer a prepared set: its own answers become the data."""

    teacher_model: str = option(
        "qwen-vl-chat", "Teacher: a name of the registry, a hub id, a folder or a server's address"
    )
    dataset_path: Path = option(_STAGE2, "Prepared data set with the questions")
    splits: tuple[str, ...] = option(
        ("train",), "Splits to answer; the others are carried over", choices=("train", "val")
    )
    output_dir: Path = option(
        Path("data/answered"), "The new set goes to its stage1/ or stage2/; a run that was stopped continues there"
    )
    max_new_tokens: int = option(256, "Longest answer, in tokens; one that is cut off is left out", minimum=1)
    do_sample: bool = option(False, "Sample instead of taking the likeliest token")
    samples: int = option(1, "Answers to each record; equal ones are kept once", minimum=1)
    temperature: float = option(1.0, "Of the sampling", minimum=0.01)
    top_p: float = option(1.0, "Nucleus to sample from", minimum=0, maximum=1)
    seed: int = option(0, "Seed of the sampling", minimum=0)
    min_agreement: float = option(
        0.3, "Least agreement with the reference: VQA accuracy (0.3: one of ten people said so), or the instruction "
        "score; 0 keeps all", minimum=0, maximum=1,
    )  # fmt: skip
    references: str = option(
        "none", "Reference records kept too; fill: where no answer is kept", choices=("none", "fill", "all")
    )
    batch_size: int = option(32, "Records the teacher answers at once", minimum=1)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, ...")


@dataclass(frozen=True)
class CacheInfoSettings:
    """Say what a teacher cache belongs to and what it weighs."""

    cache: Path = option(_CACHE, "Folder of the cache")


@dataclass(frozen=True)
class CacheVerifySettings:
    """Check every file and every record of a teacher cache."""

    cache: Path = option(_CACHE, "Folder of the cache")
    dataset_path: Path | None = option(None, "Prepared data set that it must belong to")


@dataclass(frozen=True)
class CacheMergeSettings:
    """Join caches of one teacher that were built apart."""

    caches: tuple[str, ...] = option((), "Folders of the caches, with commas between", shown="none")
    dataset_path: Path | None = option(None, "Prepared data set that they are parts of", shown="one split each")
    output_dir: Path = option(_CACHE, "Folder of the joined cache")


@dataclass(frozen=True)
class CacheImportSettings:
    """Make a cache of what an inference server said (top-k log-probabilities)."""

    records: Path = option(
        Path("logprobs.jsonl"), 'Lines {"id", "turn", "token_ids": [...], "logprobs": [{id: log-probability}, ...]}'
    )
    dataset_path: Path = option(_STAGE2, "Prepared data set that was asked about")
    splits: tuple[str, ...] = option(("train", "val"), "Splits of it")
    teacher_tokenizer: str = option("teacher", "Folder of the teacher's tokenizer")
    output_dir: Path = option(_CACHE, "New folder of the cache")
    min_share: float = option(
        CacheSettings.min_share, "Probabilities below this at T = 2 are left to the tail; 0 keeps all", minimum=0,
        maximum=1,
    )  # fmt: skip


@dataclass(frozen=True)
class EvaluateSettings(TeacherLoading):
    """Ask a checkpoint, and what it must beat, the questions of a split, and score the answers."""

    checkpoint: Path = option(_FINAL, "Checkpoint to evaluate")
    stage: int = option(2, "Stage the checkpoint comes from", minimum=1, maximum=2)
    benchmarks: tuple[str, ...] = option(
        ("vqa", "okvqa", "instruct"), "What to measure", choices=("vqa", "okvqa", "instruct")
    )
    split: str = option("val", "Split of the data set")
    dataset_path: Path = option(_STAGE2, "Prepared data set")
    output_file: Path = option(Path("results/stage2_eval.json"), "Where the numbers go")
    page: bool = option(True, "Also write a page beside them: figures, and questions with pictures to filter")
    page_questions: int = option(300, "Questions shown there, the worst with more weight", minimum=0)
    teacher_outputs: Path | None = option(None, "Cache of the same split: adds KL(student || teacher)")
    baselines: tuple[str, ...] | None = option(
        ("majority_per_template", "blind", "shuffled_pictures"), "Asked the same questions, or none: the commonest "
        "answer to such a question, the student without its picture, with an average or another one",
        choices=("majority_per_template", "majority_per_question", "blind", "mean_picture", "shuffled_pictures"),
        shown="the first, third and last",
    )  # fmt: skip
    teacher_model: str | None = option(None, "Teacher that is asked the same questions: a name, hub id, folder or URL")
    predictions: tuple[Path, ...] | None = option(
        None, "Score these answers instead of asking the checkpoint: files in VQA's submission form"
    )
    batch_size: int = option(32, "Questions answered at once", minimum=1)
    max_samples: int | None = option(None, "Only so many questions of each benchmark", minimum=1, shown="all")
    max_new_tokens: int | None = option(None, "Longest answer, in tokens", minimum=1, shown="the benchmark's")
    do_sample: bool = option(False, "Sample instead of taking the likeliest token")
    temperature: float = option(1.0, "Of the sampling", minimum=0.01)
    top_p: float = option(1.0, "Nucleus to sample from", minimum=0, maximum=1)
    num_beams: int = option(1, "Beams of a beam search; 1 = none", minimum=1)
    closed_answers: int = option(
        0, "Also answer VQA out of so many of train's most frequent answers, the likeliest exactly; 0 = not", minimum=0
    )
    judge: str | None = option(
        None, "OpenAI-compatible server, http://host:port/v1, whose model grades the instruct answers by question and "
        "reference, 0 to 10; its key is read from OPENAI_API_KEY",
    )  # fmt: skip
    judge_model: str | None = option(None, "Name of the judge there", shown="the one it serves")
    judge_concurrency: int = option(16, "Requests in flight to the judge", minimum=1, maximum=1024)
    seed: int = option(0, "Seed of the subset and of the sampling", minimum=0)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, ...")


@dataclass(frozen=True)
class ReportSettings:
    """Write one self-contained HTML page about a run."""

    output_dir: Path = option(Path("outputs"), "Folder of the run, with stage1/ and stage2/")
    evaluations: tuple[Path, ...] = option(
        (Path("results/stage2_eval.json"),), "Results of `embervlm evaluate`, the distilled student's first"
    )
    report: Path = option(Path("outputs/report.html"), "The page to write")


@dataclass(frozen=True)
class CompareSettings:
    """Compare evaluations of the same questions: paired differences, who answers what, one page."""

    runs: tuple[Path, ...] = option(
        (),
        "Results of `embervlm evaluate`, or folders of runs that hold one; all are compared with the first",
        words="RUN_A RUN_B [...]",
        shown="none",
    )
    output: Path = option(Path("compare.html"), "The page to write; the numbers go beside it as .json")
    dataset_path: Path | None = option(None, "Prepared data set of the questions", shown="the one in the results")
    examples: int = option(8, "Questions shown that only one of two runs answers, each way", minimum=0)
    draws: int = option(10_000, "Resamples of the bootstrap", minimum=100)
    seed: int = option(0, "Seed of the resamples and the examples", minimum=0)


@dataclass(frozen=True)
class DownloadSettings:
    """Fetch a teacher's weights from the hub."""

    model: str = option("qwen-vl-chat", "Teacher: a name of the registry or a hub id")
    revision: str | None = option(
        None, "Commit, tag or branch of its repository; later commands load it, too", shown="the registry's"
    )
    verify: bool = option(True, "Compare files that are there already with the hub's checksums, too")


@dataclass(frozen=True)
class TeacherCheckSettings(TeacherLoading):
    """Load a teacher, show it a picture, ask it a question."""

    model: str = option(
        "qwen-vl-chat", "Teacher: a name of the registry, a hub id, a folder, or a server's http://host:port/v1"
    )
    image: Path | None = option(None, "Picture to show", shown="one that is drawn")
    shows: str | None = option(None, "What the picture shows, for a teacher that only reads", shown="what is drawn")
    prompt: str = option("What is in this picture?", "Question to ask")
    max_new_tokens: int = option(32, "Longest answer, in tokens", minimum=1)
    samples: int = option(300_000, "Samples of the data whose cache is estimated", minimum=1)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, ...")


@dataclass(frozen=True)
class VerifySettings(TeacherLoading):
    """Check the whole set-up before hours of training."""

    stage: int = option(2, "Stage to check", minimum=1, maximum=2)
    dataset_path: Path = option(_STAGE2, "Prepared data set")
    preset: str = option("37m", "Student: 37m or tiny")
    checkpoint: Path | None = option(None, "Student checkpoint, instead of a preset")
    teacher_model: str = option(
        "qwen-vl-chat", "Teacher: a name of the registry, a hub id, a folder, or a server's http://host:port/v1"
    )
    use_cached_teacher_outputs: Path | None = option(None, "Cache, instead of a teacher")
    compare_teacher: bool = option(
        False, "With a cache: load its teacher, too, and compare the gradients with its full distribution"
    )
    samples: int = option(32, "Samples to look at", minimum=1)


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
    disable_distillation: bool = _as_train("disable_distillation", help="Show no teacher (Stage 1 has none)")
    use_cached_teacher_outputs: tuple[Path, ...] | None = _as_train("use_cached_teacher_outputs")
    teacher_weights: tuple[float, ...] | None = _as_train("teacher_weights")
    distillation_temperature: float = _as_train("distillation_temperature")
    distillation_targets: str = _as_train("distillation_targets")
    teacher_top_k: int = _as_train("teacher_top_k")

    @classmethod
    def resolve(cls, given: dict[str, Any]) -> InspectSettings:
        """The command line over the stage's block of a training's settings file over the defaults."""
        if given.get("config") is None:
            return cls(**given)
        block = read_config(given["config"]).get(f"stage{given.get('stage', cls.stage)}", {})
        shared = {name: value for name, value in block.items() if name in cls.__dataclass_fields__}
        return cls(**_layer(shared, given))


@dataclass(frozen=True)
class InferenceSettings:
    """Ask a trained student about a picture."""

    checkpoint: str = option(_FINAL.as_posix(), "Student checkpoint, or the hub id of one")
    image: Path | None = option(None, "Picture to show")
    prompt: str = option("Describe this image", "Question to ask")
    explain: bool = option(False, "At every position of the answer, what else could have been said, and how likely")
    heatmap: Path | None = option(
        None, "Picture to write: where in the image the answer and its words look (attention of the upper layers: what "
        "was read from where, not why it was said)",
    )  # fmt: skip
    max_length: int = option(100, "Longest answer, in tokens", minimum=1)
    do_sample: bool = option(False, "Sample instead of taking the likeliest token")
    temperature: float = option(1.0, "Of the sampling", minimum=0.01)
    top_p: float = option(1.0, "Nucleus to sample from", minimum=0, maximum=1)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, ...")


@dataclass(frozen=True)
class ToySettings:
    """Draw the embedded world in the official file formats."""

    out: Path = option(_TOY, "Folder to write")
    train_images: int = option(4000, "Pictures of train", minimum=1)
    val_images: int = option(500, "Pictures of val", minimum=1)
    seed: int = option(0, "Equal seeds give equal bytes", minimum=0)


@dataclass(frozen=True)
class DemoSettings:
    """The whole story on the embedded world, up to its report."""

    out: Path = option(Path("outputs/demo"), "Folder for everything the demo writes")
    quick: bool = option(False, "A minute's worth of it, to see that all works")
    seed: int = option(0, "Seed of everything random", minimum=0)
