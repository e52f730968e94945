"""Flags of the commands that ask a student, and of the pages about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embervlm.options import option
from embervlm.settings.loading import TeacherLoading
from embervlm.settings.places import FINAL, STAGE2


@dataclass(frozen=True)
class EvaluateSettings(TeacherLoading):
    """Ask a checkpoint, and what it must beat, the questions of a split, and score the answers."""

    checkpoint: Path = option(FINAL, "Checkpoint to evaluate")
    stage: int = option(2, "Stage the checkpoint comes from", minimum=1, maximum=2)
    benchmarks: tuple[str, ...] = option(
        ("vqa", "okvqa", "instruct"), "What to measure", choices=("vqa", "okvqa", "instruct")
    )
    split: str = option("val", "Split of the data set")
    dataset_path: Path = option(STAGE2, "Prepared data set")
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
class InferenceSettings:
    """Ask a trained student about a picture."""

    checkpoint: str = option(FINAL.as_posix(), "Student checkpoint, or the hub id of one")
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
