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
from embervlm.teachers.families import load_family, weight_options
from embervlm.teachers.hf import digest_folder
from embervlm.teachers.outputs import Teacher


@dataclass(frozen=True)
class TeacherSpec:
    """Where a teacher comes from: a folder, or an id on the hub."""

    source: str
    note: str = ""
    gguf: str = ""  # the file in the folder, where the weights are a GGUF file


TEACHERS: dict[str, TeacherSpec] = {
    "toy-llava": TeacherSpec(str(Path(__file__).parent / "toy_llava"), note="knows the embedded world only"),
    "qwen-vl-chat": TeacherSpec("Qwen/Qwen-VL-Chat", note="9.7B, run natively"),
    "qwen-vl-base": TeacherSpec("Qwen/Qwen-VL", note="9.7B, run natively; not tuned to follow instructions"),
    "llava-1.5-7b": TeacherSpec("llava-hf/llava-1.5-7b-hf", note="7B; the hub's copy in transformers' format"),
    "instructblip": TeacherSpec("Salesforce/instructblip-vicuna-7b", note="7.9B; every record needs a picture"),
    "qwen2.5-vl-3b": TeacherSpec("Qwen/Qwen2.5-VL-3B-Instruct", note="3B"),
    "qwen3-vl-2b": TeacherSpec("Qwen/Qwen3-VL-2B-Instruct", note="2B"),
    "smolvlm-256m": TeacherSpec("HuggingFaceTB/SmolVLM-256M-Instruct", note="256M, runs on a laptop"),
    "smollm2-135m": TeacherSpec("HuggingFaceTB/SmolLM2-135M-Instruct", note="135M, only reads: told what is seen"),
}

REDIRECTED = {"liuhaotian/llava-v1.5-7b": "llava-1.5-7b"}
"""Ids that transformers cannot read -> the registered teacher with the same weights."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve_teacher(name: str) -> TeacherSpec:
    """The registered teacher of that name, an existing folder, a GGUF file or the folder of one, or an id on the hub.
    UserError otherwise."""
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
    if folder.suffix == ".gguf" and not folder.is_dir():
        if not folder.is_file():
            raise UserError(f"teacher {name}: there is no such GGUF file")
        return TeacherSpec(str(folder.parent), gguf=folder.name)
    if files := sorted(folder.glob("*.gguf")):
        if len(files) > 1:
            raise UserError(f"teacher folder {name} has {len(files)} GGUF files; pass the path of one, as {files[0]}")
        return TeacherSpec(str(folder), gguf=files[0].name)
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
    dtype: str = "auto",
    load_in: str = "dtype",
    offload: bool = False,
    trust_remote_code: bool = False,
) -> Teacher:
    """Load a teacher, ready to score.

    Args:
        dtype: of the weights, by PyTorch's name; auto: bf16 on an accelerator, fp32 on the CPU.
        load_in: "8bit" or "4bit" quantises the weights while they are read (bitsandbytes); "dtype" does not.
        offload: layers that do not fit on the accelerator stay in main memory.
        trust_remote_code: run Python code from the hub. Off unless the person asks for it.
    """
    spec = resolve_teacher(name_or_path)
    device = torch.device(device)
    weights = weight_options(device, dtype, load_in, offload)
    folder, offline = (Path(spec.source), True) if spec.gguf else _find(name_or_path, spec.source)
    files = {"trust_remote_code": trust_remote_code, "local_files_only": offline}
    teacher = load_family(name_or_path, spec.source, files | ({"gguf_file": spec.gguf} if spec.gguf else {}), weights)
    teacher.weights = digest_folder(folder or _cached(spec.source), spec.gguf)
    return teacher


def loading_options(settings: Any) -> dict[str, Any]:
    """What a command's settings say about loading, as `load_teacher` takes it."""
    return {
        "dtype": settings.teacher_dtype,
        "load_in": settings.teacher_load_in,
        "offload": settings.teacher_offload,
        "trust_remote_code": settings.trust_remote_code,
    }


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


def _cached(source: str) -> Path:
    import huggingface_hub

    config = huggingface_hub.try_to_load_from_cache(source, "config.json")
    if not isinstance(config, str):
        raise UserError(f"teacher {source} was loaded, but its files are not in the hub's cache")
    return Path(config).parent
