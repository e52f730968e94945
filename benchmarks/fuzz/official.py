"""Part `prepare`: a damaged file of each official format, and what prepare accepts of it through the loader."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fuzz.cases import Broken, Group, Place
from benchmarks.fuzz.mutations import BYTES, TREES, encoding, lines, named, written
from benchmarks.fuzz.world import (
    coco_captions,
    descriptions,
    hostile_names,
    image_root,
    instances,
    llava,
    processor,
    table_rows,
    unified,
    vqa_annotations,
    vqa_questions,
)
from embervlm.errors import UserError

POSITIONS = 128
_IMAGE_KEYS = ("image", "image_id", "file_name", "path", "id_image")


def prepare(place: Place, root: Path, check_images: bool = False, **files: Path) -> list[str]:
    """Reasons of rejected rows. What is accepted must go through the loader.

    Raises:
        UserError: `run_prepare` stops.
        Broken: the loader refuses what prepare accepted.
    """
    from embervlm.batch.dataset import RecordDataset
    from embervlm.data.prepare import run_prepare
    from embervlm.data.settings import PrepareSettings

    settings = PrepareSettings(
        out=place.folder / "data",
        image_root=root,
        **{name: (path,) for name, path in files.items()},
        val_fraction=0.3,
        max_rejects=1.0,
        max_length=POSITIONS,
        check_images=check_images,
        num_workers=1,
    )
    made = run_prepare(settings)
    reasons: list[str] = []
    for prepared in made:
        rejects = prepared.folder / "rejects.jsonl"
        if rejects.exists():
            reasons = [json.loads(line)["reason"] for line in rejects.read_bytes().splitlines()]
        for split in ("train", "val"):
            try:
                records = prepared.records(split, unlabelled=True)
            except UserError as problem:
                raise Broken(f"prepare accepted what cannot be read again: {problem}") from problem
            try:
                data = RecordDataset(records, prepared.image_root, processor(), POSITIONS)
            except UserError:
                continue  # no answer begins within these positions
            for at in range(len(data)):
                try:
                    data[at]
                except UserError as problem:
                    if check_images:
                        raise Broken(f"prepare accepted what the loader refuses: {problem}") from problem
                    reasons.append(str(problem))
    return reasons


@cache
def _source(name: str) -> Any:
    return {
        "llava": llava,
        "llava-lines": llava,
        "vqa-questions": vqa_questions,
        "vqa-annotations": vqa_annotations,
        "okvqa-questions": vqa_questions,
        "okvqa-annotations": lambda: vqa_annotations(multiple_choice=False),
        "captions": llava,
        "captions-coco": coco_captions,
        "unified": unified,
        "descriptions": descriptions,
        "descriptions-coco": instances,
    }[name]()


FORMATS = {
    # name of a source: (flag, file, further files by flag: file and source)
    "llava": ("llava", "llava.json", {}),
    "llava-lines": ("llava", "llava.jsonl", {}),
    "vqa-questions": ("vqa", "q.json", {"vqa_annotations": ("a.json", "vqa-annotations")}),
    "vqa-annotations": ("vqa_annotations", "a.json", {"vqa": ("q.json", "vqa-questions")}),
    "okvqa-questions": ("okvqa", "q.json", {"okvqa_annotations": ("a.json", "okvqa-annotations")}),
    "okvqa-annotations": ("okvqa_annotations", "a.json", {"okvqa": ("q.json", "okvqa-questions")}),
    "captions": ("captions", "captions.json", {}),
    "captions-coco": ("captions", "captions.json", {}),
    "unified": ("jsonl", "records.jsonl", {}),
    "descriptions": ("descriptions", "shows.json", {"jsonl": ("records.jsonl", "unified")}),
    "descriptions-coco": ("descriptions", "shows.json", {"jsonl": ("records.jsonl", "unified")}),
}


def _content(file: str, value: Any) -> bytes:
    return lines(value) if file.endswith(".jsonl") else written(value)


def _official(name: str, change: Callable[[Place, str, Any], bytes]) -> Callable[[Place], list[str]]:
    flag, file, others = FORMATS[name]

    def run(place: Place) -> list[str]:
        root = image_root(place)
        files = {flag: place.file(file, change(place, file, _source(name)))}
        for other, (path, source) in others.items():
            files[other] = place.file(path, _content(path, _source(source)))
        return prepare(place, root, check_images=place.rng.random() < 0.5, **files)

    return run


def _by_bytes(change: Callable[[bytes, Random], bytes]) -> Callable[[Place, str, Any], bytes]:
    return lambda place, file, value: change(_content(file, value), place.rng)


def _by_tree(change: Callable[[Any, Random], Any]) -> Callable[[Place, str, Any], bytes]:
    return lambda place, file, value: _content(file, change(value, place.rng))


def _names(place: Place, file: str, value: Any) -> bytes:
    names = hostile_names(place.folder)
    if isinstance(value, dict) and "images" not in value and file == "shows.json":
        return written({str(name): said for name, said in zip(place.rng.sample(names, 6), value.values(), strict=True)})
    return _content(file, named(value, place.rng, _IMAGE_KEYS, names))


@cache
def _table(kind: str, ending: str) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table, buffer = pa.Table.from_pylist(table_rows()[kind]), io.BytesIO()
    if ending == "parquet":
        pq.write_table(table, buffer, row_group_size=3)
    else:
        with (pa.ipc.new_stream if kind in ("vqa", "llava") else pa.ipc.new_file)(buffer, table.schema) as file:
            file.write_table(table, max_chunksize=3)
    return buffer.getvalue()


def _of_table(ending: str, change: Callable[[bytes, Random], bytes]) -> Callable[[Place], list[str]]:
    def run(place: Place) -> list[str]:
        content = change(_table(place.rng.choice(list(table_rows())), ending), place.rng)
        return prepare(place, image_root(place, traps=False), parquet=place.file(f"x.{ending}", content))

    return run


def _cells(place: Place) -> list[str]:
    """A whole Parquet file with cells of other types and hostile values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, rows = place.rng, table_rows()[place.rng.choice(list(table_rows()))]
    column = rng.choice(list(rows[0]))
    odd: list[Any] = [
        None, True, 0, -1, 2**62, 1.5, float("nan"), float("inf"), "", "x", "9" * 400, "x" * 100_000, b"",
        b"\xff\xd8\xff",
        b"\0" * 100, [], [1], ["a"], [[1]], {}, {"a": 1}, {"bytes": None, "path": None}, {"bytes": b"x",
        "path": "../x.png"},
        {"bytes": b"x", "path": f"{1:012d}." + "j" * 300}, {"bytes": b"x", "path": "COCO_../x_000000000001.jpg"},
        {"bytes": "text", "path": 5}, {"path": "../outside/secret.png"}, [{"bytes": b"x", "path": None}] * 2,
        [{"user": None, "assistant": 3}], [{"user": "", "assistant": ""}], [{"from": "human", "value": None}],
        [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}], "²", "\u0661", "-5", 10**18,
    ]  # fmt: skip
    names = [name for name in hostile_names(place.folder) if isinstance(name, str) and name.isprintable()]
    value = rng.choice([*odd, *names])
    changed = [row | {column: value} for row in rows]
    if rng.random() < 0.3:
        changed = [{key: cell for key, cell in row.items() if key != rng.choice(list(rows[0]))} for row in changed]
    try:
        table = pa.Table.from_pylist(changed)
        for name in table.column_names:
            if rng.random() < 0.2 and pa.types.is_string(table.schema.field(name).type):
                kind = rng.choice((pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())))
                table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
        path = place.folder / "x.parquet"
        pq.write_table(table, path)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        path = place.file("x.parquet", b"PAR1")
    return prepare(place, image_root(place, traps=False), parquet=path)


def _odd_files(place: Place) -> list[str]:
    """What stands under a flag is no ordinary file."""
    import os

    root, name = image_root(place), place.rng.choice(sorted(FORMATS))
    flag, file, others = FORMATS[name]
    files = {other: place.file(path, _content(path, _source(source))) for other, (path, source) in others.items()}
    path = place.folder / file
    os.mkfifo(place.folder / "fifo.json")
    odd: tuple[Callable[[], Any], ...] = (
        path.mkdir,
        lambda: path.symlink_to(place.folder / "fifo.json"),
        lambda: path.symlink_to("/dev/null"),
        lambda: path.symlink_to(path),
        lambda: path.symlink_to(place.folder),
        lambda: os.mkfifo(path),
        lambda: path.touch(mode=0),
    )
    odd[place.number % len(odd)]()
    flags = {flag, "parquet" if flag == "llava" and place.number % 3 == 0 else flag}
    return prepare(place, root, **files, **{max(flags): path})


_WAYS: dict[str, Callable[[Place, str, Any], bytes]] = {
    **{name: _by_bytes(change) for name, change in BYTES.items()},
    "encoding": _by_bytes(encoding),
    **{name: _by_tree(change) for name, change in TREES.items()},
    "names": _names,
}
_SOME = {"encoding": 8, "names": 12, "types": 8, "huge": 8, "texts": 8, "deep": 6}

GROUPS = (
    *(
        Group(f"prepare/{name}/{way}", _SOME.get(way, 3), _official(name, change))
        for name in FORMATS
        for way, change in _WAYS.items()
    ),
    *(
        Group(f"prepare/{ending}/{way}", 6, _of_table(ending, change))
        for ending in ("parquet", "arrow")
        for way, change in BYTES.items()
    ),
    Group("prepare/parquet/cells", 60, _cells),
    Group("prepare/odd-files", 28, _odd_files),
)
