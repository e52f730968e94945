"""What is known of a repository without asking the hub: which commit was taken, and what its files must be.

embervlm.json, in the repository's folder of the hub's cache (HF_HOME), is written by a download, and by the first
loading of a repository whose revision is not pinned: later ones take the same commit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from embervlm.teachers.shards import write_whole

KEPT = "embervlm.json"
_READ_AT_ONCE = 2**22


@dataclass(frozen=True)
class Entry:
    """A file as the hub describes it."""

    size: int
    digest: str  # sha256 of a large file, git's sha1 of a small one, as the cache names it; "": the hub tells none


@dataclass(frozen=True)
class Taken:
    """The commit of a repository that was downloaded or loaded."""

    revision: str
    chosen: bool = False  # by --revision: it wins over the registry's
    files: dict[str, Entry] = field(default_factory=dict)  # those that loading needs; empty: never listed


def storage(source: str) -> Path:
    """The repository's folder in the hub's cache."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source, repo_type="model")


def taken(source: str) -> Taken | None:
    """What `keep` kept; None where nothing is, or something unreadable."""
    try:
        kept = json.loads((storage(source) / KEPT).read_text(encoding="utf-8"))
        files = {str(name): Entry(int(size), str(digest)) for name, (size, digest) in kept["files"].items()}
        return Taken(str(kept["revision"]), bool(kept["chosen"]), files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def keep(source: str, what: Taken) -> None:
    """Write it down, whole or not at all."""
    storage(source).mkdir(parents=True, exist_ok=True)
    files = {name: [entry.size, entry.digest] for name, entry in sorted(what.files.items())}
    text = json.dumps({"revision": what.revision, "chosen": what.chosen, "files": files}, indent=1)
    write_whole(storage(source) / KEPT, f"{text}\n".encode())


def remember(source: str, revision: str) -> None:
    """Later runs load this commit, too, unless one was taken before. A cache that cannot be written stays as it is."""
    if taken(source) is None:
        with suppress(OSError):
            keep(source, Taken(revision))


def revision_of(source: str, pinned: str | None) -> str | None:
    """The commit to load: one that was chosen, else the registry's, else one that was taken. None: the newest."""
    before = taken(source)
    if before is None:
        return pinned
    return before.revision if before.chosen or pinned is None else pinned


def digest_of(path: Path, like: str, tell: Callable[[int], None] = lambda count: None) -> str:
    """The file's digest in the manner of `like`: sha256 (64 digits), or git's sha1 of a blob (40).

    Args:
        tell: called with every number of bytes read.
    """
    digest = hashlib.sha256() if len(like) == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(_READ_AT_ONCE):
            digest.update(block)
            tell(len(block))
    return digest.hexdigest()
