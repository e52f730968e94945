"""Teachers by name. Whatever does not load is an error: nobody trains against a teacher that is not there."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from embervlm.console import console
from embervlm.errors import UserError
from embervlm.teachers.hf import HFTeacher, digest_folder
from embervlm.teachers.outputs import Teacher


@dataclass(frozen=True)
class TeacherSpec:
    """Where a teacher comes from: a folder, or an id on the hub."""

    source: str
    cannot: str = ""  # why it does not run, in a sentence; empty: it does
    note: str = ""


_NO_REMOTE_CODE = (
    "its code on the hub was written for transformers 4 and does not import under transformers 5; "
    "use qwen2.5-vl-3b or qwen3-vl-2b, Qwen's own successors"
)

TEACHERS: dict[str, TeacherSpec] = {
    "toy-llava": TeacherSpec(str(Path(__file__).parent / "toy_llava"), note="knows the embedded world only"),
    "qwen-vl-chat": TeacherSpec("Qwen/Qwen-VL-Chat", cannot=_NO_REMOTE_CODE),
    "qwen-vl-base": TeacherSpec("Qwen/Qwen-VL", cannot=_NO_REMOTE_CODE),
    "llava-1.5-7b": TeacherSpec("llava-hf/llava-1.5-7b-hf", note="7B; the hub's copy in transformers' format"),
    "instructblip": TeacherSpec(
        "Salesforce/instructblip-vicuna-7b",
        cannot="it has no chat template, and its Q-Former would read the answer that it is to be scored on; "
        "use llava-1.5-7b, which has the same language model",
    ),
    "qwen2.5-vl-3b": TeacherSpec("Qwen/Qwen2.5-VL-3B-Instruct", note="3B"),
    "qwen3-vl-2b": TeacherSpec("Qwen/Qwen3-VL-2B-Instruct", note="2B"),
    "smolvlm-256m": TeacherSpec("HuggingFaceTB/SmolVLM-256M-Instruct", note="256M, runs on a laptop"),
}

REDIRECTED = {"liuhaotian/llava-v1.5-7b": "llava-1.5-7b"}
"""Ids that transformers cannot read -> the registered teacher with the same weights."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve_teacher(name: str) -> TeacherSpec:
    """The registered teacher of that name, an existing folder, or an id on the hub. UserError otherwise."""
    if name in REDIRECTED:
        known = REDIRECTED[name]
        console.print(
            f"{name} is not in transformers' format: taking {known} ({TEACHERS[known].source}), the same weights"
        )
        return TEACHERS[known]
    if name in TEACHERS:
        return TEACHERS[name]
    for spec in TEACHERS.values():
        if name == spec.source:
            return spec
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return TeacherSpec(str(folder))
    if folder.is_dir():
        raise UserError(f"teacher folder {name} has no config.json; pass a folder that save_pretrained wrote")
    if _HUB_ID.fullmatch(name):
        return TeacherSpec(name)
    near = difflib.get_close_matches(name.lower(), TEACHERS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(TEACHERS)}"
    raise UserError(f"teacher {name!r} is neither registered nor a folder nor a hub id (owner/name); {hint}")


def load_teacher(
    name_or_path: str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> Teacher:
    """Load a teacher, ready to score.

    Args:
        dtype: None: bf16 on an accelerator, fp32 on the CPU.
        trust_remote_code: run Python code from the hub. Off unless the person asks for it.
    """
    spec = resolve_teacher(name_or_path)
    if spec.cannot and not (trust_remote_code and "Qwen" in spec.source):
        raise UserError(f"teacher {name_or_path} ({spec.source}) cannot be used: {spec.cannot}")
    device = torch.device(device)
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    folder, offline = _find(name_or_path, spec.source)
    processor, model = _read(name_or_path, spec, dtype, trust_remote_code, offline)
    return HFTeacher(name_or_path, model.to(device), processor, weights=digest_folder(folder or _cached(spec.source)))


def _find(name: str, source: str) -> tuple[Path | None, bool]:
    """The folder of a local teacher, or None for the hub; and whether only the hub's cache can be read."""
    if Path(source).is_absolute() or Path(source).is_dir():
        if not (Path(source) / "config.json").is_file():
            raise UserError(f"teacher {name}: {source} has no config.json; the installation is not complete")
        return Path(source), True
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        huggingface_hub.HfApi().model_info(source, timeout=10)
        return None, False
    except Exception as error:  # the hub's client has had three HTTP libraries, each with its own exceptions
        if isinstance(huggingface_hub.try_to_load_from_cache(source, "config.json"), str):
            return None, True
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            why = f"the hub answers {error.response.status_code}: the id is wrong, or access must be asked for"
        else:
            why = f"the hub cannot be reached ({type(error).__name__}) and nothing is in the cache"
        raise UserError(
            f"teacher {name}: {source} cannot be loaded, {why}; run scripts/download_teacher.py --model {name} where "
            "there is a network, pass a local folder, or use --teacher_model toy-llava, which is part of the package"
        ) from None


def _read(name: str, spec: TeacherSpec, dtype: torch.dtype, trust_remote_code: bool, offline: bool) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": offline}
    try:
        processor = AutoProcessor.from_pretrained(spec.source, **options)
        model = AutoModelForImageTextToText.from_pretrained(spec.source, dtype=dtype, **options)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, AttributeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        hint = (
            "; if you trust the code on the hub, pass --trust_remote_code" if "trust_remote_code" in str(error) else ""
        )
        raise UserError(f"teacher {name}: {spec.source} does not load: {lines[0]}{hint}") from error
    if not hasattr(processor, "tokenizer"):
        raise UserError(f"teacher {name}: {spec.source} has no processor for text and pictures together")
    return processor, model


def _cached(source: str) -> Path:
    import huggingface_hub

    config = huggingface_hub.try_to_load_from_cache(source, "config.json")
    if not isinstance(config, str):
        raise UserError(f"teacher {source} was loaded, but its files are not in the hub's cache")
    return Path(config).parent
