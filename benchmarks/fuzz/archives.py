"""Part `root`: image roots that are hostile, as folders, zips and tars, under good records with hostile names."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

from benchmarks.fuzz.cases import Group, Place
from benchmarks.fuzz.mutations import BYTES, header, lines, named
from benchmarks.fuzz.official import prepare
from benchmarks.fuzz.pictures import drawn
from benchmarks.fuzz.world import COCO, SUBSET, hostile_names, image_root, unified

GOOD = tuple(f"{SUBSET}/{name}" for name in COCO)


def _records(place: Place, *more: str) -> Path:
    """Records about the good pictures and about these."""
    return place.file("records.jsonl", lines(unified((*GOOD, *more))))


def _folder(place: Place) -> list[str]:
    root, names = image_root(place), hostile_names(place.folder)
    content = lines(named(unified(), place.rng, ("image",), names))
    return prepare(place, root, check_images=place.rng.random() < 0.7, jsonl=place.file("records.jsonl", content))


def _damaged(place: Place) -> list[str]:
    """Some of the pictures on the disk are damaged, gone, or something else."""
    root = image_root(place)
    for name in place.rng.sample(COCO, 3):
        path = root / SUBSET / name
        content = place.rng.choice([*BYTES.values(), header])(path.read_bytes(), place.rng)
        path.unlink()
        odd: tuple[Callable[[], object], ...] = (
            lambda: None,
            path.mkdir,
            lambda: os.mkfifo(path),  # noqa: B023  # called here and now
            lambda: path.symlink_to(place.folder / "outside" / "secret.png"),  # noqa: B023
            lambda: path.symlink_to("/dev/zero"),  # noqa: B023
            lambda: path.touch(),  # noqa: B023
        )
        place.rng.choice(odd)() if place.rng.random() < 0.5 else path.write_bytes(content)
    return prepare(place, root, check_images=place.rng.random() < 0.7, jsonl=_records(place))


@cache
def zipped(method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name in GOOD:
            archive.writestr(zipfile.ZipInfo(name), drawn("png"), method)
    return buffer.getvalue()


@cache
def tarred(form: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name in GOOD:
            member = tarfile.TarInfo(name if form == tarfile.USTAR_FORMAT else f"{name[:-4]}{'é' * 60}.jpg")
            member.size = len(drawn("png"))
            archive.addfile(member, io.BytesIO(drawn("png")))
    return buffer.getvalue()


def _in_root(place: Place, ending: str, content: bytes, *names: str) -> list[str]:
    """The archive in a folder, or as the root itself."""
    if place.rng.random() < 0.5:
        place.file(f"images/{place.rng.choice(('images', SUBSET, 'x'))}.{ending}", content)
        root = place.folder / "images"
    else:
        root = place.file(f"images.{ending}", content)
    return prepare(place, root, check_images=place.rng.random() < 0.7, jsonl=_records(place, *names))


def _zip(change: Callable[[bytes, Random], bytes]) -> Callable[[Place], list[str]]:
    def run(place: Place) -> list[str]:
        method = place.rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        return _in_root(place, "zip", change(zipped(method), place.rng))

    return run


def _tar(change: Callable[[bytes, Random], bytes]) -> Callable[[Place], list[str]]:
    def run(place: Place) -> list[str]:
        form = place.rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
        return _in_root(place, "tar", change(tarred(form), place.rng))

    return run


def _directory(data: bytes, rng: Random) -> bytes:
    """A zip whose directory is damaged: the part that is read first."""
    start = data.index(b"PK\1\2")
    return data[:start] + rng.choice([*BYTES.values()])(data[start:], rng)


def _fields(data: bytes, rng: Random) -> bytes:
    """A zip whose directory lies: sizes, offsets, flags, methods, versions."""
    changed = bytearray(data)
    at = rng.choice([i for i in range(len(data)) if data.startswith(b"PK\1\2", i)])
    offset, form = rng.choice(
        ((6, "<H"), (8, "<H"), (10, "<H"), (20, "<I"), (24, "<I"), (28, "<H"), (30, "<H"), (42, "<I"))
    )
    value = rng.choice((0, 1, 12, 14, 93, 99, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)) & (
        0xFFFF if form == "<H" else 0xFFFFFFFF
    )
    struct.pack_into(form, changed, at + offset, value)
    if rng.random() < 0.5:
        end = changed.index(b"PK\5\6")
        struct.pack_into("<I", changed, end + rng.choice((12, 16)), rng.choice((0, 1, 2**31, 2**32 - 1)))
    return bytes(changed)


def _zip_with(place: Place) -> list[str]:
    """Entries that a zip should not have."""
    rng, names = place.rng, [n for n in hostile_names(place.folder) if isinstance(n, str) and 0 < len(n) < 60_000]
    names = [n for n in names if n.encode("utf-8", "replace").decode() == n]
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    zeros = bytes(1 << 20)
    bomb = rng.choice((0, 1, 64, 300, 600))
    chosen = rng.sample(names, 5)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name in (*GOOD[:3], *chosen):
            archive.writestr(zipfile.ZipInfo(name), drawn("png"), method)
        if rng.random() < 0.5:  # twice, and another one
            archive.writestr(GOOD[0], b"not a picture")
        with archive.open(zipfile.ZipInfo(GOOD[3]), "w", force_zip64=True) as entry:
            entry.write(drawn("bmp")[:54] if rng.random() < 0.5 else b"")
            for _ in range(bomb if method != zipfile.ZIP_STORED else 1):
                entry.write(zeros)
        link = zipfile.ZipInfo(GOOD[4])
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "../../outside/secret.png")
        archive.writestr("folder/", "")
        archive.writestr("nested.zip", zipped())
    return _in_root(place, "zip", buffer.getvalue(), *chosen)


def _tar_with(place: Place) -> list[str]:
    """Members that a tar should not have."""
    rng, names = place.rng, [n for n in hostile_names(place.folder) if isinstance(n, str) and 0 < len(n) < 60_000]
    chosen = rng.sample([n for n in names if n.encode("utf-8", "replace").decode() == n and "\0" not in n], 5)
    buffer = io.BytesIO()
    form = rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name in (*GOOD[:2], *chosen, GOOD[0]):
            member = tarfile.TarInfo(name)
            member.size = len(drawn("png"))
            archive.addfile(member, io.BytesIO(drawn("png")))
        kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
        for name in GOOD[2:]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = rng.choice(kinds), rng.choice(("../outside/secret.png", "/etc/passwd", name))
            member.devmajor, member.devminor = 1, 5
            archive.addfile(member)
    return _in_root(place, "tar", buffer.getvalue(), *chosen)


def _tar_lies(data: bytes, rng: Random) -> bytes:
    """A tar whose headers lie, with good checksums: sizes that are negative, huge or no number, odd types."""
    changed = bytearray(data)
    at = rng.choice([i for i in range(0, len(data), 512) if data[i + 257 : i + 262] == b"ustar"])
    size = rng.choice((
        b"77777777777\0", b"00000000000\0", b"-0000000001\0", b"\xff" * 12, b"\xff" * 8 + b"\xff\xff\xfc\x00",
        b"\x80" + b"\0" * 3 + b"\x7f" * 8, b"\x80" + b"\xff" * 11, b"zzzzzzzzzzz\0", b"\xff" * 10 + b"\xfe\0",
        b" " * 12,
    ))  # fmt: skip
    if rng.random() < 0.8:
        changed[at + 124 : at + 136] = size
    if rng.random() < 0.6:
        changed[at + 156 : at + 157] = rng.choice((b"x", b"g", b"L", b"K", b"S", b"7", b"V", b"\0", b"5", b"X", b"N"))
    if rng.random() < 0.3:
        changed[at : at + 100] = rng.choice((b"\xff" * 100, b"/" * 100, b"\0" * 100, b"a" * 100))
    changed[at + 148 : at + 156] = b" " * 8
    changed[at + 148 : at + 156] = b"%06o\0 " % sum(changed[at : at + 512])
    return bytes(changed)


def _pax(place: Place) -> list[str]:
    """Extended headers that say what is not so."""
    rng = place.rng
    odd = rng.choice((
        {"size": "-512"}, {"size": "9" * 400}, {"size": "x"}, {"path": "../outside/secret.png"}, {"path": "a\nb"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, {"GNU.sparse.map": "0,1,x"}, {"GNU.sparse.map": "0,512"},
        {"GNU.sparse.size": "9" * 30, "GNU.sparse.map": "0," + "9" * 20}, {"hdrcharset": "BINARY",
        "path": "\udcff.png"},
        {"mtime": "1e400"}, {"mtime": "nan"}, {"uid": "9" * 5000}, {"linkpath": "/etc/passwd"},
        {"charset": "x" * 10_000},
    ))  # fmt: skip
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for i, name in enumerate(GOOD):
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(drawn("png")), odd if i == 2 else {}
            archive.addfile(member, io.BytesIO(drawn("png")))
    content = buffer.getvalue()
    if rng.random() < 0.5:
        content = rng.choice([*BYTES.values()])(content, rng)
    return _in_root(place, "tar", content)


GROUPS = (
    Group("root/folder/names", 60, _folder),
    Group("root/folder/damaged", 40, _damaged),
    *(Group(f"root/zip/{way}", 8, _zip(change)) for way, change in {**BYTES, "directory": _directory}.items()),
    Group("root/zip/fields", 50, _zip(_fields)),
    Group("root/zip/entries", 30, _zip_with),
    *(Group(f"root/tar/{way}", 8, _tar(change)) for way, change in BYTES.items()),
    Group("root/tar/lies", 60, _tar(_tar_lies)),
    Group("root/tar/members", 30, _tar_with),
    Group("root/tar/pax", 40, _pax),
)
