"""Flags of the commands about teachers: fetching, checking, caching, answering."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embervlm.options import option
from embervlm.settings.loading import TeacherLoading
from embervlm.settings.places import CACHE, STAGE2


@dataclass(frozen=True)
class CacheSettings(TeacherLoading):
    """Run the teacher once over the data and keep what it says."""

    teacher_model: tuple[str, ...] = option(
        ("qwen-vl-chat",),
        "Teacher: a name of the registry, a hub id, a folder, or a server's http://host:port/v1; "
        "several: one after the other",
    )
    dataset_path: Path = option(STAGE2, "Prepared data set")
    splits: tuple[str, ...] = option(("train", "val"), "Splits to read")
    output_dir: Path = option(
        CACHE,
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
    dataset_path: Path = option(STAGE2, "Prepared data set with the questions")
    splits: tuple[str, ...] = option(
        ("train",), "Splits to answer; the others are carried over", choices=("train", "val")
    )
    output_dir: Path = option(
        Path("data/answered"), "The new set goes to its stage1/ or stage2/; a run that was stopped continues there"
    )
    ask: str = option(
        "all", "Which records are asked; unlabelled: those that nobody has answered, the others are kept as they are",
        choices=("all", "unlabelled"),
    )  # fmt: skip
    pictures: Path | None = option(
        None, "Folder below the image root with pictures that nobody asked about: each borrows questions of train, for "
        "the teacher to answer; not all fit, so use --min_confidence, too", shown="none",
    )  # fmt: skip
    questions_per_picture: int = option(5, "Questions that a picture of --pictures borrows", minimum=1)
    max_new_tokens: int = option(256, "Longest answer, in tokens; one that is cut off is left out", minimum=1)
    do_sample: bool = option(False, "Sample instead of taking the likeliest token")
    samples: int = option(1, "Answers to each record; equal ones are kept once", minimum=1)
    temperature: float = option(1.0, "Of the sampling", minimum=0.01)
    top_p: float = option(1.0, "Nucleus to sample from", minimum=0, maximum=1)
    seed: int = option(0, "Seed of the sampling, and of what is borrowed", minimum=0)
    min_agreement: float = option(
        0.3, "Least agreement with the reference: VQA accuracy (0.3: one of ten people said so), or the instruction "
        "score; 0 keeps all", minimum=0, maximum=1,
    )  # fmt: skip
    min_confidence: float = option(
        0.0, "Least probability that the teacher itself gives to its whole answer, for sets of short answers; 0 keeps "
        "all", minimum=0, maximum=1,
    )  # fmt: skip
    references: str = option(
        "none", "Reference records kept too; fill: where no answer is kept", choices=("none", "fill", "all")
    )
    batch_size: int = option(32, "Records the teacher answers at once", minimum=1)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, ...")


@dataclass(frozen=True)
class CacheInfoSettings:
    """Say what a teacher cache belongs to and what it weighs."""

    cache: Path = option(CACHE, "Folder of the cache")


@dataclass(frozen=True)
class CacheVerifySettings:
    """Check every file and every record of a teacher cache."""

    cache: Path = option(CACHE, "Folder of the cache")
    dataset_path: Path | None = option(None, "Prepared data set that it must belong to")


@dataclass(frozen=True)
class CacheMergeSettings:
    """Join caches of one teacher that were built apart."""

    caches: tuple[str, ...] = option((), "Folders of the caches, with commas between", shown="none")
    dataset_path: Path | None = option(None, "Prepared data set that they are parts of", shown="one split each")
    output_dir: Path = option(CACHE, "Folder of the joined cache")


@dataclass(frozen=True)
class CacheImportSettings:
    """Make a cache of what an inference server said (top-k log-probabilities)."""

    records: Path = option(
        Path("logprobs.jsonl"), 'Lines {"id", "turn", "token_ids": [...], "logprobs": [{id: log-probability}, ...]}'
    )
    dataset_path: Path = option(STAGE2, "Prepared data set that was asked about")
    splits: tuple[str, ...] = option(("train", "val"), "Splits of it")
    teacher_tokenizer: str = option("teacher", "Folder of the teacher's tokenizer")
    output_dir: Path = option(CACHE, "New folder of the cache")
    min_share: float = option(
        CacheSettings.min_share, "Probabilities below this at T = 2 are left to the tail; 0 keeps all", minimum=0,
        maximum=1,
    )  # fmt: skip


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
