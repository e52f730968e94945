"""`embervlm download-teacher`: a teacher's weights from the hub, after a look at what comes and whether it fits."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError
from rich.table import Table

from embervlm.console import console
from embervlm.errors import UserError
from embervlm.teachers.fetch import check_files, discard, fetch_files, missing_bytes
from embervlm.teachers.hub import Entry, Taken, keep, revision_of, taken
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
    files: dict[str, Entry]

    @property
    def total(self) -> int:
        return sum(entry.size for entry in self.files.values())


def run_download(settings: DownloadSettings) -> None:
    """Fetch a teacher's weights into the hub's cache (HF_HOME). Run again, it continues, or checks what is there."""
    spec = resolve_teacher(settings.model)
    folder = Path(spec.source)
    if folder.is_absolute() or folder.is_dir():
        if not spec.gguf and not (folder / "config.json").is_file():
            raise UserError(f"{folder} has no config.json: the installation is not complete, install it again.")
        what = "ships in the package" if settings.model in TEACHERS else "is a folder on this machine"
        console.print(f"{settings.model} {what}: {_size(_on_disk(folder))}, nothing to download.")
        return
    cache = Path(constants.HF_HUB_CACHE)
    revision = settings.revision or revision_of(spec.source, spec.revision)
    try:
        plan = make_plan(spec.source, settings.model, revision)
    except _Unreachable as problem:
        _check_offline(spec.source, revision, problem)
        return
    _show(plan, settings.model, cache)
    before = taken(plan.source)
    chosen = settings.revision is not None or (before is not None and before.chosen)
    keep(plan.source, Taken(plan.revision, chosen, plan.files))  # a later run continues with the same commit
    found = _check(plan) if settings.verify else _present(plan)
    missing = {name: entry for name, entry in plan.files.items() if name not in found}
    check_space(plan.source, missing, cache)
    try:
        fetch_files(plan.source, plan.revision, missing)
        place = huggingface_hub.snapshot_download(
            plan.source, revision=plan.revision, allow_patterns=sorted(plan.files)
        )
    except UserError:
        raise
    except Exception as error:
        raise _cannot(plan.source, settings.model, plan.revision, error) from error
    checked = f", {len(plan.files)} checksums right" if settings.verify else ""
    console.print(f"[green]Complete[/] in {place}{checked}", soft_wrap=True)
    console.print(f"Next: python scripts/test_teacher.py --model {settings.model}", soft_wrap=True)


def make_plan(source: str, name: str, revision: str | None = None) -> Plan:
    """Ask the hub what a repository holds: configuration, tokenizer and one set of weights, safetensors if there are.

    Raises:
        UserError: no network, no such repository or revision, or one that asks for permission first.
    """
    try:
        info = huggingface_hub.HfApi().model_info(source, revision=revision, files_metadata=True, timeout=10)
    except Exception as error:  # the hub's client has had three HTTP libraries, each with its own exceptions
        raise _cannot(source, name, revision, error) from error
    entries = {}
    for file in info.siblings or []:
        digest = file.lfs.sha256 if file.lfs else file.blob_id
        entries[file.rfilename] = Entry(file.size or 0, digest or "")
    return Plan(source, info.sha or revision or "main", {name: entries[name] for name in wanted(entries)})


def wanted(files: dict[str, Entry]) -> list[str]:
    """The files that loading needs: many repositories hold the same weights in two or three formats."""
    needed = [file for file in files if not file.endswith(_NEVER) and not _is_copy(file)]
    if any(file.endswith(_SAFE) for file in needed):
        return [file for file in needed if not file.endswith((*_OTHER_WEIGHTS, ".bin.index.json"))]
    return [file for file in needed if file.endswith(".bin") or not file.endswith(_OTHER_WEIGHTS)]


def _is_copy(file: str) -> bool:
    """Weights in the format of another program: original/, onnx/, consolidated.safetensors."""
    return file.endswith((_SAFE, *_OTHER_WEIGHTS)) and ("/" in file or file.startswith("consolidated"))


def _show(plan: Plan, name: str, cache: Path) -> None:
    table = Table.grid(padding=(0, 3, 0, 1))
    table.add_column(justify="right")
    for file, entry in sorted(plan.files.items()):
        table.add_row(_size(entry.size), file)
    console.print(table)
    console.print(
        f"{name} = {plan.source} at {plan.revision[:12]}: {len(plan.files)} files, {_size(plan.total)}, into {cache}",
        soft_wrap=True,
    )


def _present(plan: Plan) -> set[str]:
    def find(name: str) -> object:
        return huggingface_hub.try_to_load_from_cache(plan.source, name, revision=plan.revision)

    return {name for name in plan.files if isinstance(find(name), str)}


def _check(plan: Plan) -> set[str]:
    """The files in the cache that are as the hub says; the others are named and deleted."""
    found, wrong = check_files(plan.source, plan.revision, plan.files)
    for name, why in wrong.items():
        console.print(f"[yellow]note[/] {name} {why}: deleted, it is fetched again", soft_wrap=True)
        discard(found[name])
    return set(found) - set(wrong)


def _check_offline(source: str, revision: str | None, problem: UserError) -> None:
    """Without a network: whether all is there as the last download listed it. Raises the problem where it is not."""
    before = taken(source)
    if before is None or not before.files or before.revision != (revision or before.revision):
        raise problem
    found, wrong = check_files(source, before.revision, before.files)
    missing = len(before.files) - len(found)
    if missing or wrong:
        named = "".join(f" {name} {why}." for name, why in wrong.items())
        raise UserError(f"{problem} Of {len(before.files)} files {missing} are missing.{named}")
    console.print(
        f"The hub cannot be reached, and need not be: all {len(found)} files of {source} at {before.revision[:12]} are "
        "in the cache, their checksums right.",
        soft_wrap=True,
    )


def check_space(source: str, files: dict[str, Entry], cache: Path) -> None:
    """UserError when the disk that holds the cache is too small for what is missing of these files."""
    there = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free, more = shutil.disk_usage(there).free, missing_bytes(source, files)
    if more and more + _SPARE > free:
        raise UserError(
            f"{source} needs {_size(more)} more in {cache}, which has {_size(free)} free; make room, or set HF_HOME to "
            "a folder on a larger disk."
        )


class _Unreachable(UserError):
    """Nobody answers, which says nothing about the repository."""


def _cannot(source: str, name: str, revision: str | None, error: Exception) -> UserError:
    """What a failed request means, as far as one can tell."""
    response = getattr(error, "response", None)
    status = response.status_code if isinstance(error, HfHubHTTPError) and response is not None else None
    if isinstance(error, RevisionNotFoundError):
        return UserError(
            f"{source} has no revision {revision}; pass --revision main for its newest one, which later commands load, "
            "too."
        )
    if status == 404:
        return UserError(f"The hub has no model {source}; check its spelling on https://huggingface.co/models.")
    if status in (401, 403):
        return UserError(
            f"The hub does not give out {source}: either it does not exist, or you must accept its terms on "
            f"https://huggingface.co/{source} and then log in with `hf auth login`."
        )
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError) and error.errno:
        return UserError(f"{source} could not be written: {error.strerror}.")
    why = f"answers {status}" if status else f"cannot be reached ({type(error).__name__})"
    return _Unreachable(
        f"The hub {why}, so {source} was not downloaded; run this again where there is a network (what was fetched is "
        "kept), or copy its folder here and pass --teacher_model FOLDER."
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
