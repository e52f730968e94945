"""From a picture's name in a record to RGB pixels: only inside the image root, and only whole, sane pictures.

The image root is a folder, perhaps with archives in it (train2014.zip, images.tar), or an archive.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from embervlm.data.archives import Member, archives_of, find_member
from embervlm.errors import UserError

MAX_PIXELS = 100_000_000
MAX_SIDE = 65_535
"""Longest side of a JPEG. Pillow keeps a pointer for each row: a picture of one column takes nine times its pixels."""
_BAND = 4_000_000
"""Pixels that are converted at once."""
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "MPO", "PPM", "AVIF", "JPEG2000", "ICO", "TGA")
"""What is opened, whatever the name says. Others (EPS, PDF, WMF) run programs or are documents."""
CONVERTED = "converted"
"""Folder of the image root for pictures that came inside a table."""
Place = Path | Member
"""Where a picture is: a file, or a file inside an archive."""
COCO_NAME = re.compile(r"(?:.*/)?COCO_(?P<subset>[a-z0-9-]+)_(?P<number>[0-9]{12})\.\w+", re.DOTALL)
"""A whole name, in whatever folder."""
BARE_NAME = re.compile(
    rf"(?:(?:.*/)?(?:train|val|test|unlabeled)20[0-9]{{2}}/|{CONVERTED}/)?(?P<number>[0-9]{{12}})\.\w+", re.DOTALL
)
"""A whole name: COCO's number alone, in no folder or in one of COCO's: elsewhere they are a time or a counter."""


def plain_name(name: str, root: Path | None) -> str:
    """The one name of a picture, as a path below the image root: without `.` and `..`, and not absolute.

    What leads out of the root, or can be no file's name, stays as it is, to be refused by `resolve_image`.
    """
    if not name or "\0" in name:
        return name
    plain = posixpath.normpath(name)
    if plain.startswith("/"):
        return _below(root, f"/{plain.lstrip('/')}") or name
    return name if plain == ".." or plain.startswith("../") else plain


def _below(root: Path | None, path: str) -> str | None:
    """An absolute path as a name below the root, links of folders followed only where it has to be."""
    if root is None:
        return None
    inside = os.path.realpath(root)
    try:
        pairs = ((os.path.abspath(root), path), (inside, path), (inside, os.path.realpath(path)))
    except ValueError:  # half a surrogate pair
        return None
    return next((whole[len(top) + 1 :] for top, whole in pairs if whole.startswith(f"{top}/")), None)


def candidates(name: str) -> list[str]:
    """Where the official downloads put a picture of this name, most likely first, relative to the image root."""
    base = name.rsplit("/", 1)[-1]
    places = [name]
    if coco := COCO_NAME.fullmatch(name):
        places += [f"{coco['subset']}/{base}"]
    elif BARE_NAME.fullmatch(name):
        # LLaVA names COCO's pictures by their digits; people have them as 2017 or 2014 downloads.
        places += [f"train2017/{base}", f"coco/train2017/{base}"]
        places += [f"{subset}/COCO_{subset}_{base}" for subset in ("train2014", "val2014")]
    return places


def resolve_image(root: Path, name: str) -> Place:
    """The picture's file below `root`, or its place in an archive there.

    Raises:
        UserError: it is missing, or would lie outside the root (absolute, `..`, a link).
    """
    inside = os.path.realpath(root)
    places = candidates(name)
    try:
        for place in places:
            path = os.path.realpath(os.path.join(inside, place))
            if os.path.commonpath((inside, path)) != inside:
                raise UserError(f"the image {name!r} lies outside the image root {root}; such paths are refused")
            if os.path.isfile(path) and path != inside:
                return Path(path)
    except UserError:
        raise
    except ValueError as problem:  # a NUL, half a surrogate pair
        raise UserError(f"the image {name!r} has a name that no file can have ({problem})") from problem
    for archive in archives_of(Path(inside)):
        if member := find_member(archive, places):
            return member
    raise missing(root, name)


def missing(root: Path, name: str) -> UserError:
    """What is said about a picture that is nowhere."""
    return UserError(f"the image {name!r} is not below {root} (first tried {Path(root) / name}); check --image_root")


def load_image(path: str | Place) -> Image.Image:
    """RGB pixels of a file: EXIF orientation applied, first frame, transparency on white, 16 bits reduced to 8.

    Raises UserError for what is no picture, is cut off, has no pixels or would be larger than `MAX_PIXELS`.
    """
    place = path if isinstance(path, Member) else Path(path)
    try:
        file = io.BytesIO(place.read()) if isinstance(place, Member) else place
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=_known_formats()) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise UserError(
                    f"{place} has {picture.width} x {picture.height} pixels, more than {MAX_PIXELS:,}; reduce it"
                )
            if max(picture.size) > MAX_SIDE:
                raise UserError(
                    f"{place} has {picture.width} x {picture.height} pixels, a side longer than {MAX_SIDE:,}; reduce it"
                )
            if not picture.width * picture.height:
                raise UserError(f"{place} is not a readable picture (it has no pixels); replace or remove it")
            picture.seek(0)
            picture.load()
            _turn_upright(picture)
            return to_rgb(picture)
    except UserError:
        raise
    except FileNotFoundError as problem:
        raise UserError(f"there is no picture {place}") from problem
    except Exception as problem:  # on broken bytes decoders raise what they like, struct.error and IndexError included
        reason = str(problem).replace(str(place), "").strip(" '") or type(problem).__name__
        if isinstance(problem, Image.UnidentifiedImageError):
            reason = "no known format"
        raise UserError(f"{place} is not a readable picture ({reason}); replace or remove it") from problem


@cache
def _known_formats() -> list[str]:
    """Those of FORMATS that this Pillow has."""
    Image.init()  # without it `formats` may name only the five that are loaded first
    return [name for name in FORMATS if name in Image.OPEN]


def _turn_upright(picture: Image.Image) -> None:
    """As the camera was held. A picture with broken EXIF data stays as it is: its pixels are whole."""
    with suppress(Exception):
        ImageOps.exif_transpose(picture, in_place=True)


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any PIL mode -> RGB, transparency laid on white; an RGB picture is returned as it is.

    Floating point is read as 0 to 1, 255 or 65,535, the first that holds it; ValueError for what is outside.
    """
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    white = _white(picture) if picture.mode == "F" else 255.0  # of the whole: a band may be dark
    if picture.width * picture.height <= _BAND:
        return _converted(picture, white)
    whole, rows = Image.new("RGB", picture.size), max(1, _BAND // picture.width)
    for top in range(0, picture.height, rows):  # a hundred million pixels are 400 MB in each mode that is on the way
        band = picture.crop((0, top, picture.width, min(picture.height, top + rows)))
        whole.paste(_converted(band, white), (0, top))
    return whole


def _white(picture: Image.Image) -> float:
    """Which value of a floating point picture is white."""
    values = np.asarray(picture)
    low, high = values.min(), values.max()
    for white in (1.0, 255.0, 65_535.0):
        if low >= 0 and high <= white:  # neither is true of NaN
            return white
    raise ValueError(f"its values lie between {low:g} and {high:g}, expected 0 to 1, 255 or 65,535")


def _converted(picture: Image.Image, white: float) -> Image.Image:
    if picture.mode == "F":
        scale = 255 / white
        picture = picture.point(lambda value: value * scale + 0).convert("L")
    if picture.mode.startswith("I;16") or picture.mode == "I":
        picture = picture.convert("I").point(lambda value: value / 256).convert("L")
    if picture.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in picture.info:
        whole = picture.convert("RGBA")
        paper = Image.new("RGBA", whole.size, "white")
        return Image.alpha_composite(paper, whole).convert("RGB")
    return picture.convert("RGB")
