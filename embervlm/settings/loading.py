"""How a teacher is loaded: the same flags for every command that has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from embervlm.options import option


def dtype(**place: Any) -> Any:
    choices = ("auto", "float32", "bfloat16", "float16")
    return option("auto", "Of the teacher's weights; auto: bfloat16 on a GPU, else float32", choices=choices, **place)


def load_in(**place: Any) -> Any:
    choices = ("dtype", "8bit", "4bit")
    return option(
        "dtype", "Quantise the teacher's weights while they are read (bitsandbytes)", choices=choices, **place
    )


def offload(**place: Any) -> Any:
    return option(False, "Layers of the teacher that do not fit on the GPU stay in main memory", **place)


def remote_code(**place: Any) -> Any:
    return option(False, "Let a teacher from the hub run its own code", **place)


def served_name(**place: Any) -> Any:
    return option(
        None, "Of the model, where the teacher is a server's http://host:port/v1", shown="the one it serves", **place
    )


def served_tokenizer(**place: Any) -> Any:
    return option(
        None, "Folder or hub id of a served teacher's tokenizer", shown="the one of the model's name", **place
    )


def concurrency(**place: Any) -> Any:
    return option(16, "Requests in flight to a served teacher", minimum=1, maximum=1024, **place)


@dataclass(frozen=True, kw_only=True)
class TeacherLoading:
    """How a command loads its teacher, or reaches one that is served; listed behind the command's own flags."""

    teacher_dtype: str = dtype()
    teacher_load_in: str = load_in()
    teacher_offload: bool = offload()
    teacher_name: str | None = served_name()
    teacher_tokenizer: str | None = served_tokenizer()
    teacher_concurrency: int = concurrency()
    trust_remote_code: bool = remote_code()
