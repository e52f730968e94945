"""Many names at once must be found, and refused, exactly as one by one."""

import os
from pathlib import Path

import pytest

from embervlm.data.images import resolve_image
from embervlm.data.listing import Listing
from embervlm.errors import UserError
from tests.data.official_files import coco_pictures, picture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = coco_pictures(tmp_path / "root", [1, 2, 3])
    picture(root / "deep" / "er" / "x.png")
    secret = picture(tmp_path / "secret.jpg")
    (root / "link.jpg").symlink_to(secret)
    (root / "inner.jpg").symlink_to(root / "deep" / "er" / "x.png")
    (root / "out").symlink_to(tmp_path)
    (root / "in").symlink_to(root / "deep")
    (root / "folder.jpg").mkdir()
    return root


NAMES = [
    *(f"{1:012d}.jpg", f"train2014/COCO_train2014_{2:012d}.jpg", f"COCO_train2014_{3:012d}.jpg", f"{9:012d}.jpg"),
    *("deep/er/x.png", "inner.jpg", "in/er/x.png", "./deep/er/x.png", "deep/../deep/er/x.png", "deep//er/x.png"),
    *("link.jpg", "out/secret.jpg", "../secret.jpg", "/etc/passwd", "none.jpg", "none/none.jpg", "folder.jpg", "", "."),
    *("a\0b", "\ud800.jpg", "x" * 5000),
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_as_one_by_one(root: Path, name: str) -> None:
    def outcome(resolve) -> str:
        try:
            return os.path.realpath(resolve(name))
        except UserError as problem:
            return str(problem)

    assert outcome(Listing(root).resolve) == outcome(lambda n: resolve_image(root, n))


def test_each_folder_is_listed_once_and_no_file_is_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """120,000 questions to a network disk are minutes."""
    listing = Listing(root)
    asked = []
    real = os.scandir
    monkeypatch.setattr("embervlm.data.listing.os.scandir", lambda path: (asked.append(path), real(path))[1])
    monkeypatch.setattr("embervlm.data.images.os.path.isfile", lambda path: pytest.fail("a file was asked for"))
    for i in (1, 2, 3, 1, 2):
        assert listing.resolve(f"COCO_train2014_{i:012d}.jpg").name.endswith(f"{i}.jpg")
        with pytest.raises(UserError, match="is not below"):
            listing.resolve(f"COCO_train2014_{i + 5:012d}.jpg")
    assert len(asked) == len(set(asked)) == 2
