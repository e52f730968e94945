"""Pictures inside archives, read in place: .zip, and .tar that is not compressed."""

from __future__ import annotations

import os
import tarfile
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from embervlm.errors import UserError

MAX_BYTES = 512 << 20
"""Of one picture, unpacked. A zip of a few kB can hold more."""
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class Member:
    """A file inside an archive."""

    archive: Path
    name: str

    def __str__(self) -> str:
        return f"{self.archive}:{self.name}"

    def read(self) -> bytes:
        """Its bytes; UserError when they cannot be had."""
        try:
            return _opened(self.archive).read(self.name)
        except UserError:
            raise
        except KeyError:
            raise UserError(f"{self.archive} holds no {self.name}; did the archive change?") from None
        except Exception as problem:  # on broken bytes the decompressors raise what they like
            raise UserError(
                f"{self} cannot be read ({_said(problem)}); pack or download the archive again"
            ) from problem


def is_archive(path: Path) -> bool:
    """Told from the name."""
    return path.suffix.lower() in (".zip", ".tar")


def archives_of(root: Path) -> list[Path]:
    """The archives where pictures are looked for: the root itself, or those that lie in it, by name."""
    if os.path.isfile(root):  # which no name is too long for
        if root.name.lower().endswith(_COMPRESSED):
            raise UserError(f"{root} is compressed as a whole, so no picture can be read out of it; unpack it")
        return [root]
    try:
        stamp = os.stat(root).st_mtime_ns
    except OSError:
        return []
    return _listed(root, stamp)


@lru_cache(maxsize=64)
def _listed(root: Path, stamp: int) -> list[Path]:
    return sorted(path for path in root.iterdir() if is_archive(path) and path.is_file() and not path.is_symlink())


def find_member(archive: Path, places: list[str]) -> Member | None:
    """The first of `places` that the archive holds, with or without a folder of the archive's own name around it."""
    names = _opened(archive).names
    own = f"{archive.stem}/"
    for place in places:
        for name in (place, own + place, place.removeprefix(own)):
            if name in names:
                return Member(archive, name)
    return None


def _opened(archive: Path) -> _Zip | _Tar:
    """Opened once a process: after a fork two processes would share one position in the file."""
    try:
        found = os.stat(archive)
        return _open(archive, found.st_mtime_ns, found.st_size, os.getpid())
    except (
        Exception
    ) as problem:  # IndexError, OverflowError, MemoryError: zipfile and tarfile believe what a header says
        raise UserError(f"{archive} cannot be opened ({_said(problem)}); pack or download it again") from problem


def _said(problem: Exception) -> str:
    return str(problem) or type(problem).__name__


@lru_cache(maxsize=64)
def _open(archive: Path, changed: int, size: int, process: int) -> _Zip | _Tar:
    return _Zip(archive) if zipfile.is_zipfile(archive) else _Tar(archive)


class _Zip:
    def __init__(self, archive: Path) -> None:
        self._file = zipfile.ZipFile(archive)
        self.names = {info.filename: info for info in self._file.infolist() if info.filename and not info.is_dir()}

    def read(self, name: str) -> bytes:
        info = self.names[name]
        _refuse_giants(name, info.file_size)
        return self._file.read(info)


class _Tar:
    def __init__(self, archive: Path) -> None:
        self.names: dict[str, tuple[int, int]] = {}
        with tarfile.open(archive, "r:") as tar:  # not compressed: every file lies in it as it is
            last = -1
            for member in tar:
                if member.offset <= last or member.size < 0:  # tarfile would go round for ever
                    raise tarfile.ReadError("a header in it points back")
                last = member.offset
                if member.isreg() and not member.issparse():
                    self.names[member.name.removeprefix("./")] = member.offset_data, member.size
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps them all otherwise
        self._file = archive.open("rb")

    def read(self, name: str) -> bytes:
        start, size = self.names[name]
        _refuse_giants(name, size)
        content = os.pread(self._file.fileno(), size, start)
        if len(content) < size:
            raise EOFError("the archive is cut off")
        return content


def _refuse_giants(name: str, size: int) -> None:
    if size > MAX_BYTES:
        raise UserError(f"{name} has {size:,} bytes unpacked, more than {MAX_BYTES:,}; it is no picture to train on")
