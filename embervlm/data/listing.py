"""Which pictures there are, for many names at once: each folder is listed once instead of asked for every file."""

from __future__ import annotations

import os
from pathlib import Path

from embervlm.data.archives import archives_of, find_member
from embervlm.data.images import CONVERTED, Place, candidates, missing, resolve_image


class Listing:
    """The image root as it was at the first look. As `resolve_image`, which stays the judge of all that is unusual."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._inside = os.path.realpath(root)
        self._folders: dict[str, dict[str, bool] | None] = {}
        self._archives = archives_of(Path(self._inside))

    def resolve(self, name: str) -> Place:
        """UserError as `resolve_image`."""
        if name.startswith(f"{CONVERTED}/"):  # these appear while we look
            return resolve_image(self.root, name)
        places = candidates(name)
        for place in places:
            folder, _, base = place.rpartition("/")
            plain = not place.startswith("/") and "\\" not in place and "\0" not in place and _encodable(place)
            files = self._files(folder) if plain and ".." not in place.split("/") else None
            if files is None or files.get(base):
                return resolve_image(self.root, name)
            if base in files:
                return Path(self._inside, place)
        for archive in self._archives:
            if member := find_member(archive, places):
                return member
        raise missing(self.root, name)

    def _files(self, folder: str) -> dict[str, bool] | None:
        """Name -> whether it is a link, of a folder below the root; None where the folder is reached by a link."""
        if folder not in self._folders:
            path = os.path.join(self._inside, folder) if folder else self._inside
            self._folders[folder] = _scan(path) if _is_itself(path) else None
        return self._folders[folder]


def _encodable(place: str) -> bool:
    """Half a surrogate pair is in no file's name."""
    try:
        return place.isascii() or bool(place.encode())
    except UnicodeEncodeError:
        return False


def _is_itself(path: str) -> bool:
    try:
        return os.path.realpath(path) == os.path.normpath(path)
    except ValueError:
        return False


def _scan(path: str) -> dict[str, bool]:
    try:
        with os.scandir(path) as entries:
            return {e.name: e.is_symlink() for e in entries if e.is_symlink() or e.is_file(follow_symlinks=False)}
    except OSError:
        return {}
