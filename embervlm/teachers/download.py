"""`embervlm download-teacher`: a teacher's weights from the hub, after a look at whether they fit on the disk."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from embervlm.console import console
from embervlm.errors import UserError
from embervlm.teachers.registry import TEACHERS, resolve_teacher

if TYPE_CHECKING:
    from embervlm.settings import DownloadSettings

_SAFE, _OTHER_WEIGHTS = ".safetensors", (".bin", ".pth", ".pt", ".h5", ".msgpack", ".onnx", ".gguf", ".ot")
_NEVER = (".md", ".png", ".jpg", ".jpeg", ".gif", ".mp4", ".pdf", ".ttf", ".gitattributes")
_SPARE = 2**28
"""Bytes of the disk that stay free."""


@dataclass(frozen=True)
class Plan:
    """What is to be fetched from a repository of the hub."""

    source: str
    revision: str
    sizes: dict[str, int]  # file -> bytes
    missing: int  # bytes that are not in the cache yet

    @property
    def total(self) -> int:
        return sum(self.sizes.values())


def run_download(settings: DownloadSettings) -> None:
    """Fetch a teacher's weights into the hub's cache (HF_HOME); a download that was stopped continues."""
    spec = resolve_teacher(settings.model)
    folder = Path(spec.source)
    if folder.is_absolute() or folder.is_dir():
        if not spec.gguf and not (folder / "config.json").is_file():
            raise UserError(f"{folder} has no config.json: the installation is not complete, install it again.")
        what = "ships in the package" if settings.model in TEACHERS else "is a folder on this machine"
        console.print(f"{settings.model} {what}: {_size(_on_disk(folder))}, nothing to download.")
        return
    plan = make_plan(spec.source, settings.model)
    cache = Path(constants.HF_HUB_CACHE)
    console.print(f"{settings.model} = {plan.source}: {len(plan.sizes)} files, {_size(plan.total)}, into {cache}")
    check_space(plan, cache)
    try:
        place = huggingface_hub.snapshot_download(
            plan.source, revision=plan.revision, allow_patterns=sorted(plan.sizes)
        )
    except Exception as error:
        raise _cannot(plan.source, settings.model, error) from error
    console.print(f"[green]Complete[/] in {place}", soft_wrap=True)
    console.print(f"Next: python scripts/test_teacher.py --model {settings.model}")


def make_plan(source: str, name: str) -> Plan:
    """Ask the hub what a repository holds: configuration, tokenizer and one set of weights, safetensors if there are.

    Raises:
        UserError: no network, no such repository, or one that asks for permission first.
    """
    try:
        info = huggingface_hub.HfApi().model_info(source, files_metadata=True, timeout=10)
    except Exception as error:  # the hub's client has had three HTTP libraries, each with its own exceptions
        raise _cannot(source, name, error) from error
    sizes = wanted({file.rfilename: file.size or 0 for file in info.siblings or []})
    revision = info.sha or "main"
    missing = sum(
        size
        for file, size in sizes.items()
        if not isinstance(huggingface_hub.try_to_load_from_cache(source, file, revision=revision), str)
    )
    return Plan(source, revision, sizes, missing)


def wanted(sizes: dict[str, int]) -> dict[str, int]:
    """The files that loading needs: many repositories hold the same weights in two or three formats."""
    needed = {file: size for file, size in sizes.items() if not file.endswith(_NEVER) and not _is_copy(file)}
    if any(file.endswith(_SAFE) for file in needed):
        return {file: size for file, size in needed.items() if not file.endswith((*_OTHER_WEIGHTS, ".bin.index.json"))}
    return {file: size for file, size in needed.items() if file.endswith(".bin") or not file.endswith(_OTHER_WEIGHTS)}


def _is_copy(file: str) -> bool:
    """Weights in the format of another program: original/, onnx/, consolidated.safetensors."""
    return file.endswith((_SAFE, *_OTHER_WEIGHTS)) and ("/" in file or file.startswith("consolidated"))


def check_space(plan: Plan, cache: Path) -> None:
    """UserError when the disk that holds the cache is too small."""
    there = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if plan.missing and plan.missing + _SPARE > free:
        raise UserError(
            f"{plan.source} needs {_size(plan.missing)} more in {cache}, which has {_size(free)} free; make room, or "
            "set HF_HOME to a folder on a larger disk."
        )


def _cannot(source: str, name: str, error: Exception) -> UserError:
    """What a failed request means, as far as one can tell."""
    response = getattr(error, "response", None)
    if isinstance(error, HfHubHTTPError) and response is not None and response.status_code == 404:
        return UserError(f"The hub has no model {source}; check its spelling on https://huggingface.co/models.")
    if isinstance(error, HfHubHTTPError) and response is not None and response.status_code in (401, 403):
        return UserError(
            f"The hub does not give out {source}: either it does not exist, or you must accept its terms on "
            f"https://huggingface.co/{source} and then log in with `hf auth login`."
        )
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError) and error.errno:
        return UserError(f"{source} could not be written: {error.strerror}.")
    return UserError(
        f"The hub cannot be reached ({type(error).__name__}), so {source} was not downloaded; run this again where "
        f"there is a network (what was fetched is kept), or copy its folder here and pass --teacher_model FOLDER."
    )


def _on_disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _size(count: float) -> str:
    """Bytes in words, decimal as disks are sold."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
