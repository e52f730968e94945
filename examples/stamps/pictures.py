"""The stamps on disk: finding them, rendering them as square RGB pictures, and telling which are near-duplicates."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from embervlm.errors import UserError

# Plain pale paper: white for half of the pictures, so that "white" is not told by the background alone.
PAPERS = ((255, 255, 255), (255, 255, 255), (255, 255, 255), (238, 238, 238), (250, 243, 228), (228, 238, 248))
MARGIN = 0.04  # of the side, left free on every side


@dataclass(frozen=True, slots=True)
class Stamp:
    path: str  # below the stamps folder, without suffix, "/"-separated: "animals/birds/owl"
    file: Path
    description: str  # the English line of the .txt file


def find_stamps(root: Path) -> list[Stamp]:
    """All stamps below `root` that have a picture (PNG before SVG) and an English description, sorted by path."""
    stamps = []
    for text in sorted(root.rglob("*.txt")):
        picture = next((file for suffix in (".png", ".svg") if (file := text.with_suffix(suffix)).is_file()), None)
        lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
        if picture is not None and lines and lines[0].strip():
            stamps.append(Stamp(text.with_suffix("").relative_to(root).as_posix(), picture, lines[0].strip()))
    if not stamps:
        raise UserError(
            f"{root} holds no stamps: expected pictures (.png, .svg) with a .txt beside them; "
            "install Debian's tuxpaint-stamps-default or pass the folder that holds 'animals', 'food', ..."
        )
    return stamps


def render(stamp: Stamp, size: int) -> Image.Image | None:
    """The stamp on plain paper, RGB, size x size; None for a file that shows nothing (fully transparent or broken)."""
    drawn = _open(stamp.file, size)
    box = drawn.getchannel("A").getbbox() if drawn is not None else None
    if drawn is None or box is None:
        return None
    drawn = drawn.crop(box)
    inner = round(size * (1 - 2 * MARGIN))
    scale = inner / max(drawn.size)
    drawn = drawn.resize(
        (max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale))), Image.Resampling.LANCZOS
    )
    digest = hashlib.sha256(stamp.path.encode()).digest()
    paper = Image.new("RGBA", (size, size), (*PAPERS[digest[0] % len(PAPERS)], 255))
    paper.alpha_composite(drawn, ((size - drawn.width) // 2, (size - drawn.height) // 2))
    return paper.convert("RGB")


def _open(file: Path, size: int) -> Image.Image | None:
    if file.suffix == ".svg":
        resvg = svg_renderer()
        try:
            data = bytes(resvg.svg_to_bytes(svg_path=str(file), width=size, dpi=96))
        except ValueError:
            return None
        return Image.open(io.BytesIO(data)).convert("RGBA")
    try:
        with Image.open(file) as opened:
            return opened.convert("RGBA")
    except OSError as error:
        raise UserError(f"{file} is no readable picture ({error}); install the stamps again") from error


def svg_renderer() -> Any:
    """The optional package that draws the SVG stamps (a quarter of all)."""
    try:
        import resvg_py
    except ImportError as error:
        raise UserError(
            "the SVG stamps (a quarter of all) need the package resvg-py: pip install resvg-py, or pass --no_svg"
        ) from error
    return resvg_py


def fingerprint(picture: Image.Image) -> tuple[int, int]:
    """Two 64-bit difference hashes of the picture as it is (rows and columns); near-duplicates differ in few bits."""
    gray = picture.convert("L")
    rows = list(gray.resize((9, 8), Image.Resampling.BOX).tobytes())
    columns = list(gray.resize((8, 9), Image.Resampling.BOX).tobytes())
    across = sum(1 << (8 * y + x) for y in range(8) for x in range(8) if rows[9 * y + x] > rows[9 * y + x + 1] + 2)
    down = sum(1 << (8 * y + x) for y in range(8) for x in range(8) if columns[8 * y + x] > columns[8 * y + x + 8] + 2)
    return across, down


def bits_apart(one: tuple[int, int], other: tuple[int, int]) -> int:
    return sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))


def stem(path: str) -> str:
    """The path without a trailing number or letter: rocket1, rocket2 -> rocket; grave-a, grave-b -> grave."""
    return re.sub(r"(?<=[a-z])[-_]?(\d+|[-_][a-z])$", "", path)


def groups(keys: Iterable[tuple[str, ...]], prints: list[tuple[int, int]], threshold: int) -> list[int]:
    """Group number of each picture: pictures that share any key, or whose hashes are near, fall into one group."""
    parent = list(range(len(prints)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[str, int] = {}
    for i, mine in enumerate(keys):
        for key in mine:
            parent[root(i)] = root(first.setdefault(key, i))
    for i in range(len(prints)):
        for j in range(i):
            if bits_apart(prints[i], prints[j]) <= threshold:
                parent[root(i)] = root(j)
    return [root(i) for i in range(len(prints))]
