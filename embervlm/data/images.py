"""From a picture's name in a record to RGB pixels: only inside the image root, and only whole, sane pictures."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from embervlm.errors import UserError

MAX_PIXELS = 100_000_000
_COCO = re.compile(r"^COCO_(?P<subset>[a-z0-9-]+)_\d{12}\.\w+$")
_BARE = re.compile(r"^\d{12}\.\w+$")


def candidates(name: str) -> list[str]:
    """Where the official downloads put a picture of this name, most likely first, relative to the image root."""
    base = name.rsplit("/", 1)[-1]
    places = [name]
    if coco := _COCO.match(base):
        places += [f"{coco['subset']}/{base}"]
    elif _BARE.match(base):
        # LLaVA names COCO's pictures by their digits; people have them as 2017 or 2014 downloads.
        places += [f"train2017/{base}", f"coco/train2017/{base}"]
        places += [f"{subset}/COCO_{subset}_{base}" for subset in ("train2014", "val2014")]
    return places


def resolve_image(root: Path, name: str) -> Path:
    """The picture's file below `root`. UserError when it is missing or would lie outside (absolute, `..`, a link)."""
    inside = os.path.realpath(root)
    for place in candidates(name):
        path = os.path.realpath(os.path.join(inside, place))
        if os.path.commonpath((inside, path)) != inside:
            raise UserError(f"the image {name!r} lies outside the image root {root}; such paths are refused")
        if os.path.isfile(path):
            return Path(path)
    raise UserError(f"the image {name!r} is not below {root} (first tried {Path(root) / name}); check --image_root")


def load_image(path: str | Path) -> Image.Image:
    """RGB pixels of a file: EXIF orientation applied, first frame, transparency on white, 16 bits reduced to 8.

    Raises UserError for what is no picture, is cut off, has no pixels or would be larger than `MAX_PIXELS`.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings(), Image.open(path) as picture:
            warnings.simplefilter("ignore")
            if picture.width * picture.height > MAX_PIXELS:
                raise UserError(
                    f"{path} has {picture.width} x {picture.height} pixels, more than {MAX_PIXELS:,}; reduce it"
                )
            picture.seek(0)
            picture.load()
            return to_rgb(ImageOps.exif_transpose(picture))
    except UserError:
        raise
    except FileNotFoundError as problem:
        raise UserError(f"there is no picture {path}") from problem
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, UnidentifiedImageError) as problem:
        reason = str(problem).replace(str(path), "").strip(" '") or type(problem).__name__
        raise UserError(f"{path} is not a readable picture ({reason}); replace or remove it") from problem


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any PIL mode -> RGB, transparency laid on white."""
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        picture = picture.convert("I").point(lambda value: value / 256).convert("L")
    if picture.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in picture.info:
        whole = picture.convert("RGBA")
        paper = Image.new("RGBA", whole.size, "white")
        return Image.alpha_composite(paper, whole).convert("RGB")
    return picture.convert("RGB")
