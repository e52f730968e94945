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
from embervlm.teachers import hub
from embervlm.teachers.digest import digest_folder
from embervlm.teachers.families import load_family, read_tokenizer, weight_options
from embervlm.teachers.outputs import Teacher
from embervlm.teachers.served import CONCURRENCY, ServedTeacher, connect


@dataclass(frozen=True)
class TeacherSpec:
    """Where a teacher comes from: a folder, or an id on the hub."""

    source: str
    note: str = ""
    revision: str | None = None  # a commit of the hub
    gguf: str = ""  # the file in the folder, where the weights are a GGUF file


TEACHERS: dict[str, TeacherSpec] = {
    "toy-llava": TeacherSpec(str(Path(__file__).parent / "toy_llava"), note="knows the embedded world only"),
    "qwen-vl-chat": TeacherSpec("Qwen/Qwen-VL-Chat", "9.7B, run natively", "f57cfbd358cb56b710d963669ad1bcfb44cdcdd8"),
    "qwen-vl-base": TeacherSpec(
        "Qwen/Qwen-VL",
        "9.7B, run natively; not tuned to follow instructions",
        "0547ed36a86561e2e42fecec8fd0c4f6953e33c4",
    ),
    "llava-1.5-7b": TeacherSpec(
        "llava-hf/llava-1.5-7b-hf",
        "7B; the hub's copy in transformers' format",
        "b234b804b114d9e37bb655e11cbbb5f5e971b7a9",
    ),
    "instructblip": TeacherSpec(
        "Salesforce/instructblip-vicuna-7b",
        "7.9B; every record needs a picture",
        "19103d0c5b5263c8a7891012e08573439fb6607f",
    ),
    "qwen2.5-vl-3b": TeacherSpec("Qwen/Qwen2.5-VL-3B-Instruct", "3B", "66285546d2b821cf421d4f5eb2576359d3770cd3"),
    "qwen3-vl-2b": TeacherSpec("Qwen/Qwen3-VL-2B-Instruct", "2B", "89644892e4d85e24eaac8bacfd4f463576704203"),
    "smolvlm-256m": TeacherSpec(
        "HuggingFaceTB/SmolVLM-256M-Instruct",
        "256M, runs on a laptop",
        "7e3e67edbbed1bf9888184d9df282b700a323964",
    ),
    "smollm2-135m": TeacherSpec(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "135M, only reads: told what is seen",
        "12fd25f77366fa6b3b4b768ec3050bf629380bac",
    ),
}
"""The commits are those at which public code loads these repositories: Qwen-VL-Chat in open-compass/GTA
(agentlego/benchmark.py), Qwen-VL in huggingface/transformers (tests/models/auto/test_tokenization_auto.py), the others
in three or more unrelated repositories each, LLaVA's with the checksums of its shards, InstructBLIP's with its count of
7,913,726,720 parameters."""

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
    served_name: str | None = None,
    tokenizer: str | None = None,
    concurrency: int = CONCURRENCY,
) -> Teacher:
    """Load a teacher, or reach one that is served, ready to score.

    Args:
        name_or_path: of the registry, a folder, an id on the hub, or the http(s) address of a server.
        dtype: of the weights, by PyTorch's name; auto: bf16 on an accelerator, fp32 on the CPU.
        load_in: "8bit" or "4bit" quantises the weights while they are read (bitsandbytes); "dtype" does not.
        offload: layers that do not fit on the accelerator stay in main memory.
        trust_remote_code: run Python code from the hub. Off unless the person asks for it.
        served_name, tokenizer, concurrency: of a served teacher: the model's name, the folder or hub id of its
            tokenizer, requests in flight.
    """
    if is_served(name_or_path):
        if dtype != "auto" or load_in != "dtype" or offload:
            raise UserError(
                f"{name_or_path} is a server, which loads its model itself: --teacher_dtype, --teacher_load_in and "
                "--teacher_offload do not reach it; start it with the like"
            )
        return _reach(name_or_path, served_name, tokenizer, concurrency, trust_remote_code)
    if served_name is not None or tokenizer is not None:
        raise UserError(
            "--teacher_name and --teacher_tokenizer are for a teacher that is served: --teacher_model "
            f"http://host:port/v1. {name_or_path} brings its own"
        )
    spec = resolve_teacher(name_or_path)
    device = torch.device(device)
    weights = weight_options(device, dtype, load_in, offload)
    folder, offline, revision = (Path(spec.source), True, None) if spec.gguf else _find(name_or_path, spec)
    files = {"trust_remote_code": trust_remote_code, "local_files_only": offline, "revision": revision}
    teacher = load_family(name_or_path, spec.source, files | ({"gguf_file": spec.gguf} if spec.gguf else {}), weights)
    teacher.weights = digest_folder(folder or _cached(spec.source, revision), spec.gguf)
    teacher.revision = revision
    if revision is not None and spec.revision is None:
        hub.remember(spec.source, revision)
    return teacher


def loading_options(settings: Any, among: str | None = None) -> dict[str, Any]:
    """What a command's settings say about loading, as `load_teacher` takes it.

    Args:
        among: one of several teachers; what only concerns those that are served, or those that are not, is left out.
    """
    here = {
        "dtype": settings.teacher_dtype,
        "load_in": settings.teacher_load_in,
        "offload": settings.teacher_offload,
    }
    served = {
        "served_name": settings.teacher_name,
        "tokenizer": settings.teacher_tokenizer,
        "concurrency": settings.teacher_concurrency,
    }
    mine = here | served if among is None else served if is_served(among) else here
    return {"trust_remote_code": settings.trust_remote_code, **mine}


def name_in_cache(settings: Any, name: str) -> str:
    """What a cache's manifest calls a teacher: one that is served by its own name, not its address."""
    return settings.teacher_name or name if is_served(name) else name


def is_served(name: str) -> bool:
    """Whether a teacher is named by the address of a server."""
    return name.startswith(("http://", "https://"))


def _reach(url: str, name: str | None, tokenizer: str | None, concurrency: int, trust_remote_code: bool) -> Teacher:
    server, card = connect(url, name)
    name, root = str(card["id"]), str(card.get("root") or "")
    sources = [_source(place) for place in ((tokenizer,) if tokenizer else (name, root))]
    if not any(sources):
        raise UserError(
            f"{url} serves {name}, which is neither registered nor a folder nor a hub id here: name the folder or hub "
            "id of its tokenizer with --teacher_tokenizer"
        )
    words = read_tokenizer(next(filter(None, sources)), trust_remote_code=trust_remote_code)
    weights = f"served as {name}" + (f" from {root}" if root and root != name else "")
    return ServedTeacher(name, server, words, weights, concurrency)


def _source(name: str) -> str | None:
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    try:
        return resolve_teacher(name).source
    except UserError:
        return None


def _find(name: str, spec: TeacherSpec) -> tuple[Path | None, bool, str | None]:
    """The folder of a local teacher, or None for the hub; whether only the hub's cache can be read; the commit."""
    source = spec.source
    if Path(source).is_absolute() or Path(source).is_dir():
        if not (Path(source) / "config.json").is_file():
            raise UserError(f"teacher {name}: {source} has no config.json; the installation is not complete")
        return Path(source), True, None
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

    revision = hub.revision_of(source, spec.revision)
    try:
        info = huggingface_hub.HfApi().model_info(source, revision=revision, timeout=10)
        return None, False, revision or info.sha  # all files of one commit
    except Exception as error:  # the hub's client has had three HTTP libraries, each with its own exceptions
        if isinstance(huggingface_hub.try_to_load_from_cache(source, "config.json", revision=revision), str):
            return None, True, revision
        if isinstance(error, RevisionNotFoundError):
            why = f"the hub has no revision {revision} of it; download it with --revision main"
        elif isinstance(error, HfHubHTTPError) and error.response is not None:
            why = f"the hub answers {error.response.status_code}: the id is wrong, or access must be asked for"
        else:
            why = f"the hub cannot be reached ({type(error).__name__}) and {_others_in_cache(source, revision)}"
        raise UserError(
            f"teacher {name}: {source} cannot be loaded, {why}; run scripts/download_teacher.py --model {name} where "
            "there is a network, pass a local folder, or use --teacher_model toy-llava, which is part of the package"
        ) from None


def _others_in_cache(source: str, revision: str | None) -> str:
    there = sorted(path.parent for path in hub.storage(source).glob("snapshots/*/config.json"))
    if revision is None or not there:
        return "nothing is in the cache"
    return f"the cache has not its revision {revision[:12]}, but another (to use it, pass {there[-1]})"


def _cached(source: str, revision: str | None) -> Path:
    import huggingface_hub

    config = huggingface_hub.try_to_load_from_cache(source, "config.json", revision=revision)
    if not isinstance(config, str):
        raise UserError(f"teacher {source} was loaded, but its files are not in the hub's cache")
    return Path(config).parent
