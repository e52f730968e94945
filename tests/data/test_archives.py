"""Pictures read out of archives: as out of folders, and nothing else that an archive can hold."""

import io
import multiprocessing
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from embervlm.data import archives
from embervlm.data.archives import Member
from embervlm.data.images import load_image, resolve_image
from embervlm.data.listing import Listing
from embervlm.errors import UserError
from tests.data.official_files import picture

NAMES = [f"train2014/COCO_train2014_{i:012d}.jpg" for i in (1, 2)]


def _pack(path: Path, folder: Path, compression: int = zipfile.ZIP_STORED, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", compression) as packed:
            for file in files:
                packed.write(file, file.relative_to(folder).as_posix())
    else:
        with tarfile.open(path, mode) as tar:
            for file in files:
                tar.add(file, "./" + file.relative_to(folder).as_posix())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in zip(NAMES, ("red", "blue"), strict=True):
        picture(tmp_path / "unpacked" / name, colour)
    return tmp_path / "unpacked"


@pytest.mark.parametrize("name", ["train2014.zip", "images.zip", "images.tar"])
@pytest.mark.parametrize("inside", [True, False], ids=["archive in the root", "archive is the root"])
def test_an_archive_is_as_good_as_its_folder(tmp_path: Path, folder: Path, name: str, inside: bool) -> None:
    packed = _pack(tmp_path / "root" / name, folder, zipfile.ZIP_DEFLATED)
    root = packed.parent if inside else packed
    for wanted in (NAMES[1], NAMES[1].split("/")[1], f"{2:012d}.jpg"):
        for found in (resolve_image(root, wanted), Listing(root).resolve(wanted)):
            assert isinstance(found, Member) and str(found).endswith(f"{name}:{NAMES[1]}")
            assert load_image(found).getpixel((0, 0))[2] > 200
    with pytest.raises(UserError, match="is not below"):
        resolve_image(root, f"{3:012d}.jpg")


def test_an_archive_with_its_own_name_around_everything_or_around_nothing(tmp_path: Path, folder: Path) -> None:
    _pack(tmp_path / "a" / "images.zip", folder.parent)
    (tmp_path / "unpacked").rename(tmp_path / "images")
    _pack(tmp_path / "b" / "images.zip", tmp_path / "images" / "train2014")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as packed:
        packed.write(tmp_path / "images" / NAMES[0], "c/" + NAMES[0])
    assert isinstance(resolve_image(tmp_path / "c.zip", NAMES[0]), Member)
    assert isinstance(resolve_image(tmp_path / "b", f"images/{NAMES[0].split('/')[1]}"), Member)


def test_folders_come_before_archives(tmp_path: Path, folder: Path) -> None:
    _pack(folder / "train2014.zip", folder)
    assert resolve_image(folder, NAMES[0]) == folder / NAMES[0]


def test_a_compressed_tar_cannot_be_read_in_place(tmp_path: Path, folder: Path) -> None:
    packed = _pack(tmp_path / "images.tar.gz", folder, mode="w:gz")
    with pytest.raises(UserError, match="compressed as a whole.*unpack it"):
        resolve_image(packed, NAMES[0])


def test_links_and_folders_inside_a_tar_are_no_pictures(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        link = tarfile.TarInfo("secret.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(UserError, match="is not below"):
        resolve_image(tmp_path / "x.tar", "secret.jpg")


def test_names_that_climb_out_stay_refused(tmp_path: Path, folder: Path) -> None:
    root = _pack(tmp_path / "root" / "x.zip", folder).parent
    with pytest.raises(UserError, match="outside the image root"):
        Listing(root).resolve("../unpacked/" + NAMES[0])


def test_a_small_zip_of_a_giant_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.jpg", b"\0" * 5000)
    with pytest.raises(UserError, match="5,000 bytes unpacked"):
        load_image(resolve_image(tmp_path / "x.zip", "a.jpg"))


def test_damaged_archives_are_sentences(tmp_path: Path, folder: Path) -> None:
    packed = _pack(tmp_path / "x.zip", folder)
    content = bytearray(packed.read_bytes())
    content[60:90] = b"\0" * 30  # inside the first picture: its checksum no longer holds
    packed.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        load_image(resolve_image(packed, NAMES[0]))
    for name, damaged in (("y.zip", b"PK no"), ("y.tar", b"\1" * 2000)):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be opened"):
            resolve_image(tmp_path / name, NAMES[0])
    cut = _pack(tmp_path / "z.tar", folder)
    member = resolve_image(cut, NAMES[1])
    os.truncate(cut, cut.stat().st_size - 10240)
    with pytest.raises(UserError, match="cannot be|holds no"):
        load_image(member)


def test_what_a_zip_with_a_password_holds_is_a_sentence(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("a.jpg", b"x")
    content = bytearray(buffer.getvalue())
    content[6] |= 1  # "encrypted", in the local header and in the directory
    content[content.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read .*(encrypted|password)"):
        load_image(resolve_image(tmp_path / "x.zip", "a.jpg"))


def _read_many(member: Member, queue: "multiprocessing.Queue[bool]") -> None:
    first = member.read()
    queue.put(all(member.read() == first for _ in range(300)))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_forked_loaders_do_not_share_a_position_in_the_file(tmp_path: Path, folder: Path) -> None:
    """torch's workers are forks of a process that has the archive open."""
    packed = _pack(tmp_path / "x.zip", folder)
    members = [resolve_image(packed, name) for name in NAMES]
    assert all(isinstance(member, Member) and member.read() for member in members)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_read_many, args=(member, queue)) for member in members]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=60) for _ in workers] == [True, True]
    for worker in workers:
        worker.join()


def _tar_of(path: Path, **changed: bytes) -> Path:
    """Two pictures; fields of the second header are changed, its checksum is right."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in NAMES:
            member = tarfile.TarInfo(name)
            member.size = 600
            tar.addfile(member, io.BytesIO(b"x" * 600))
    data, at = bytearray(path.read_bytes()), 512 * 3
    for field, value in changed.items():
        offset = {"size": 124, "type": 156}[field]
        data[at + offset : at + offset + len(value)] = value
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "changed",
    [
        {"size": b"\xff" * 10 + b"\xf8\x00"},  # -2,048: the next header is the first one
        {"size": b"\xff" * 12},
        {"size": b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7},
        {"size": b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7, "type": b"x"},
        {"size": b"\xff" * 10 + b"\xf8\x00", "type": b"L"},
        {"size": b"\x80" + b"\x7f" * 11},
    ],
)
def test_a_tar_with_sizes_that_cannot_be_is_a_sentence(tmp_path: Path, changed: dict[str, bytes]) -> None:
    """tarfile goes round for ever, or raises what it likes."""
    with pytest.raises(UserError, match="x.tar.* cannot be (opened|read)|holds no|is not below"):
        member = resolve_image(_tar_of(tmp_path / "x.tar", **changed), NAMES[1])
        assert isinstance(member, Member)
        member.read()


def test_an_entry_without_a_name_does_not_cost_the_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr(zipfile.ZipInfo(""), b"x")
        packed.writestr(NAMES[0], b"y")
    member = resolve_image(tmp_path / "x.zip", NAMES[0])
    assert isinstance(member, Member) and member.read() == b"y"


def test_a_zip_of_a_later_version_is_a_sentence(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr(NAMES[0], b"y")
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[content.index(b"PK\1\2") + 6] = 93
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UserError, match="cannot be opened .*version 9.3"):
        resolve_image(tmp_path / "x.zip", NAMES[0])


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_broken_compressed_data_of_every_method_is_a_sentence(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as packed:
        packed.writestr(NAMES[0], bytes(range(256)) * 40)
    content = bytearray((tmp_path / "x.zip").read_bytes())
    start = 30 + len(NAMES[0])
    content[start + 9 : start + 40] = b"\xff" * 31
    (tmp_path / "x.zip").write_bytes(content)
    member = resolve_image(tmp_path / "x.zip", NAMES[0])
    with pytest.raises(UserError, match="cannot be read"):
        load_image(member)


def test_a_root_whose_name_is_too_long_for_a_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not below"):
        resolve_image(tmp_path / ("x" * 5000), NAMES[0])
