"""Part `image`: one damaged picture through `load_image` and the student's preprocessing."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from benchmarks.fuzz.cases import Group, Place
from benchmarks.fuzz.mutations import BYTES, header

LIMIT = 100_000_000
"""Pixels that the product still decodes."""


def _pixels(mode: str, size: tuple[int, int] = (40, 30)) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    noise[:, : size[0] // 2] = np.linspace(0, 255, size[1], dtype=np.uint8)[:, None, None]
    picture = Image.fromarray(noise)
    if mode == "I;16":
        return Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(noise[:, :, 0].astype(np.float32))
    return picture.convert(mode)


def _frames() -> dict[str, object]:
    return {"save_all": True, "append_images": [_pixels("RGB"), _pixels("L").convert("RGB")]}


def _exif() -> dict[str, object]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x8298] = 6, "x" * 100, "someone"
    return {"exif": exif}


_VARIANTS: dict[str, tuple[str, str, dict[str, object]]] = {
    "png": ("PNG", "RGB", {}),
    "png-16": ("PNG", "I;16", {}),
    "png-palette": ("PNG", "P", {"transparency": 3}),
    "png-alpha": ("PNG", "RGBA", {}),
    "png-bits": ("PNG", "1", {}),
    "png-animated": ("PNG", "RGB", _frames()),
    "jpeg": ("JPEG", "RGB", {}),
    "jpeg-progressive": ("JPEG", "RGB", {"progressive": True, "quality": 95}),
    "jpeg-cmyk": ("JPEG", "CMYK", {}),
    "jpeg-exif": ("JPEG", "RGB", _exif()),
    "mpo": ("MPO", "RGB", _frames()),
    "gif": ("GIF", "P", {}),
    "gif-animated": ("GIF", "RGB", _frames()),
    "webp": ("WEBP", "RGB", {}),
    "webp-lossless": ("WEBP", "RGBA", {"lossless": True}),
    "webp-animated": ("WEBP", "RGB", _frames()),
    "bmp": ("BMP", "RGB", {}),
    "bmp-palette": ("BMP", "P", {}),
    "tiff": ("TIFF", "RGB", {}),
    "tiff-lzw": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "tiff-jpeg": ("TIFF", "RGB", {"compression": "jpeg"}),
    "tiff-fax": ("TIFF", "1", {"compression": "group4"}),
    "tiff-16": ("TIFF", "I;16", {}),
    "tiff-float": ("TIFF", "F", {}),
    "tiff-cmyk": ("TIFF", "CMYK", {"compression": "tiff_adobe_deflate"}),
    "tiff-pages": ("TIFF", "RGB", _frames()),
    "ppm": ("PPM", "RGB", {}),
    "tga": ("TGA", "RGB", {"compression": "tga_rle"}),
    "ico": ("ICO", "RGBA", {}),
    "jp2": ("JPEG2000", "RGB", {}),
    "avif": ("AVIF", "RGB", {}),
}


@cache
def drawn(variant: str) -> bytes:
    """A good picture of 40 x 30; where this Pillow cannot write the format, a PNG."""
    form, mode, options = _VARIANTS[variant]
    Image.init()
    if form not in (Image.SAVE_ALL if options.get("save_all") else Image.SAVE):
        form, mode, options = _VARIANTS["png"]
    buffer = io.BytesIO()
    _pixels(mode).save(buffer, form, **options)
    return buffer.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, depth: int, colour: int, rows: bytes | None = None) -> bytes:
    """A PNG that says so; `rows` None: with all its rows, which are one colour and compress to nothing."""
    if rows is None:
        channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
        row = b"\0" * (1 + (width * depth * channels + 7) // 8)
        pack = zlib.compressobj(1)
        rows = b"".join([pack.compress(row * 64) for _ in range(height // 64)])
        rows += pack.compress(row * (height % 64)) + pack.flush()
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    palette = _chunk(b"PLTE", b"\0\0\0\xff\xff\xff") if colour == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + head + palette + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _sized(variant: str, at: Callable[[bytes], int], form: str, *sizes: int) -> bytes:
    """A good picture whose header says another size."""
    data = bytearray(drawn(variant))
    struct.pack_into(form, data, at(bytes(data)), *sizes)
    return bytes(data)


def _jpeg(width: int, height: int) -> bytes:
    return _sized("jpeg", lambda data: data.index(b"\xff\xc0") + 5, ">HH", height, width)


def _tiff(width: int, height: int, strips: int = 1) -> bytes:
    """One-bit TIFF, its strip at offset 8, of so many strips as it says."""
    tags = (
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 1), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, strips, 8),
        (277, 3, 1, 1), (278, 4, 1, height), (279, 4, strips, 16),
    )  # fmt: skip
    body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + b"\0\0\0\0"
    return b"II*\0" + struct.pack("<I", 24) + b"\0" * 16 + body


def _tiff_of_strips() -> bytes:
    return _tiff(100, 100, strips=2**32 - 1)


_SHORT = zlib.compress(b"\0" * 1000)
_BOMBS: tuple[Callable[[], bytes], ...] = (
    cache(lambda: _png(30_000, 30_000, 1, 0)),
    cache(lambda: _png(10_000, 10_000, 1, 0)),
    cache(lambda: _png(10_000, 10_000, 1, 3)),
    cache(lambda: _png(10_000, 10_000, 8, 6)),
    cache(lambda: _png(10_000, 10_000, 16, 0)),
    cache(lambda: _png(1, 99_999_999, 1, 0)),
    cache(lambda: _png(50_000_000, 2, 8, 2)),
    lambda: _png(10_000, 10_000, 16, 6, _SHORT),
    lambda: _png(2**31 - 1, 2**31 - 1, 8, 2, _SHORT),
    lambda: _png(2**31 - 1, 1, 8, 2, _SHORT),
    lambda: _png(0, 0, 8, 2, _SHORT),
    lambda: _png(10, 0, 8, 2, _SHORT),
    lambda: _png(10, 10, 8, 2, cache(lambda: zlib.compress(b"\0" * (1 << 28), 1))()),
    lambda: drawn("png")[:33] + _chunk(b"zTXt", b"x\0\0" + zlib.compress(b"a" * (1 << 26))) + drawn("png")[33:],
    lambda: drawn("png")[:33] + _chunk(b"iCCP", b"x\0\0" + zlib.compress(b"a" * (1 << 26))) + drawn("png")[33:],
    lambda: _jpeg(65_500, 65_500),
    lambda: _jpeg(10_000, 10_000),
    lambda: _jpeg(0, 30),
    lambda: _jpeg(40, 0),
    lambda: _sized("bmp", lambda _: 18, "<ii", 2**31 - 1, 2**31 - 1),
    lambda: _sized("bmp", lambda _: 18, "<ii", 10_000, -10_000),
    lambda: _sized("bmp", lambda _: 18, "<ii", -1, -1),
    lambda: _sized("bmp", lambda _: 18, "<ii", 0, 0),
    lambda: _sized("gif", lambda _: 6, "<HH", 65_535, 65_535),
    lambda: _sized("gif", lambda _: 6, "<HH", 10_000, 10_000),
    lambda: _sized("gif", lambda data: data.index(b"\x2c") + 5, "<HH", 65_535, 65_535),
    lambda: _sized("tga", lambda _: 12, "<HH", 65_535, 65_535),
    lambda: _sized("tga", lambda _: 12, "<HH", 10_000, 10_000),
    lambda: _sized("ico", lambda _: 6, "<BB", 0, 0),
    lambda: drawn("ico")[:22] + _png(10_000, 10_000, 8, 6, _SHORT),
    lambda: _sized("webp-lossless", lambda data: data.index(b"VP8L") + 9, "<I", (16_383 << 14) | 16_383),
    lambda: b"P6 100000 100000 255\n" + b"\0" * 100,
    lambda: b"P6 10000 10000 255\n" + b"\0" * 100,
    lambda: b"P3 10000 10000 255\n" + b"1 " * 1000,
    lambda: b"P6 " + b"9" * 5000 + b" 1 255\n",
    lambda: b"P5 -1 -1 255\n" + b"\0" * 10,
    _tiff_of_strips,
    lambda: _tiff(10_000, 10_000),
    lambda: _tiff(2**31 - 1, 2**31 - 1),
    lambda: _tiff(0, 0),
)
"""Small files that are, or say they are, large."""


def load(path: Path) -> None:
    """As training reads a picture."""
    from benchmarks.fuzz.world import processor
    from embervlm.data.images import load_image

    pixels = processor().image_processor(load_image(path), return_tensors="pt")["pixel_values"]
    assert pixels.isfinite().all()


def _one(variant: str, change: Callable[[bytes, Random], bytes]) -> Callable[[Place], list[str]]:
    def run(place: Place) -> list[str]:
        load(place.file(f"x.{variant.partition('-')[0]}", change(drawn(variant), place.rng)))
        return []

    return run


def _bomb(place: Place) -> list[str]:
    load(place.file("x.png", _BOMBS[place.number]()))
    return []


def _extension(place: Place) -> list[str]:
    """Another format than the name says, or two in one file, or what is no picture."""
    rng, others = place.rng, list(_VARIANTS)
    first, second = drawn(rng.choice(others)), drawn(rng.choice(others))
    cut = rng.randrange(len(first))
    content = rng.choice((
        first, first + second, first[:cut] + second, second[:8] + first[8:], b"%!PS-Adobe-3.0\n" + first, b"%PDF-1.7\n",
        b"\xd7\xcd\xc6\x9a" + b"\0" * 100, b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"BM",
        b"RIFF....WEBP",
        b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1\n", b"\0" * 1000, b"",
    ))  # fmt: skip
    name = rng.choice(
        ("x.jpg", "x.png", "x.gif", "x.webp", "x.tif", "x.pdf", "x.eps", "x.txt", "x", "x.JPEG", "x.png.jpg")
    )
    load(place.file(name, content))
    return []


GROUPS = (
    *(
        Group(f"image/{variant}/{name}", 3, _one(variant, change))
        for variant in _VARIANTS
        for name, change in {**BYTES, "header": header}.items()
    ),
    Group("image/bomb", len(_BOMBS), _bomb),
    Group("image/extension", 60, _extension),
)
