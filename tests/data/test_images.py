"""Pictures as people have them: every odd mode becomes RGB, everything unsafe or broken is a sentence."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embervlm.data import images
from embervlm.data.images import load_image, resolve_image
from embervlm.errors import UserError
from tests.data.official_files import coco_pictures, picture


def _pixel(path: Path) -> tuple[int, ...]:
    picture = load_image(path)
    assert picture.mode == "RGB"
    return picture.getpixel((0, 0))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr") else "x.png")
    Image.new("RGB", (5, 4), "white").convert(mode).save(path)
    assert all(value > 245 for value in _pixel(path)) and load_image(path).size == (5, 4)


def test_sixteen_bits_are_reduced_and_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16)).save(tmp_path / "x.png")
    assert _pixel(tmp_path / "x.png") == (128, 128, 128)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "x.png")
    assert _pixel(tmp_path / "x.png") == (255, 255, 255)


def test_a_camera_held_upright_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "x.jpg", exif=exif)
    assert load_image(tmp_path / "x.jpg").size == (4, 8)


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert _pixel(tmp_path / "x.gif") == (255, 0, 0)


def test_a_wrong_extension_does_not_matter(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "blue").save(tmp_path / "x.gif", format="PNG")
    assert _pixel(tmp_path / "x.gif") == (0, 0, 255)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_what_is_no_picture_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UserError, match="is not a readable picture"):
        load_image(tmp_path / "x.png")


def test_a_cut_off_file_is_not_half_a_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "x.jpg")
    whole = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is not a readable picture"):
        load_image(tmp_path / "x.jpg")


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="20000 x 20000 pixels|not a readable"):
        load_image(tmp_path / "x.png")


@pytest.mark.parametrize("content", [b"P6 0 5 255\n", b"GIF89a" + b"\0" * 40])
def test_a_picture_without_pixels_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.ppm").write_bytes(content)
    with pytest.raises(UserError, match="is not a readable picture"):
        load_image(tmp_path / "x.ppm")


def test_documents_that_run_programs_are_no_pictures(tmp_path: Path) -> None:
    """PIL would hand PostScript to Ghostscript."""
    Image.new("RGB", (4, 4)).save(tmp_path / "x.jpg", format="EPS")
    with pytest.raises(UserError, match="no known format"):
        load_image(tmp_path / "x.jpg")


def test_a_photograph_in_printers_colours_is_not_inverted(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").convert("CMYK").save(tmp_path / "x.jpg", quality=100)
    red, green, blue = _pixel(tmp_path / "x.jpg")
    assert red > 240 and green < 15 and blue < 15


def test_a_transparent_colour_of_a_palette_is_white(tmp_path: Path) -> None:
    paletted = Image.new("P", (4, 4), 1)
    paletted.putpalette([0, 0, 0, 10, 20, 30])
    paletted.save(tmp_path / "x.png", transparency=1)
    assert _pixel(tmp_path / "x.png") == (255, 255, 255)


@pytest.mark.parametrize("form", ["WEBP", "PNG"])
def test_other_animations_give_their_first_frame(tmp_path: Path, form: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x", format=form, save_all=True, append_images=frames[1:], lossless=True)
    assert _pixel(tmp_path / "x") == (255, 0, 0)


@pytest.mark.filterwarnings("error")  # hundreds of such pictures must not be hundreds of warnings
def test_broken_camera_data_does_not_cost_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.new("RGB", (8, 4), "red").save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0")
    assert load_image(path).size == (8, 4)


def test_formats_that_pillow_loads_late_are_known_to_a_fresh_process(tmp_path: Path) -> None:
    """Image.open(formats=...) fails with a KeyError for all but five until Image.init() was called."""
    Image.new("RGB", (4, 4), "red").save(tmp_path / "x.webp")
    code = "from sys import argv; from embervlm.data.images import load_image; print(load_image(argv[1]).size)"
    ran = subprocess.run([sys.executable, "-c", code, tmp_path / "x.webp"], capture_output=True, text=True)
    assert ran.stdout.strip() == "(4, 4)", ran.stderr


def test_a_folder_or_a_device_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    with pytest.raises(UserError, match="is not a readable picture"):
        load_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("name", ["a\0b.jpg", "\ud800.jpg"])
def test_names_that_no_file_can_have_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="a name that no file can have"):
        resolve_image(tmp_path, name)


def test_official_folders_are_searched(tmp_path: Path) -> None:
    root = coco_pictures(tmp_path, [7])
    wanted = root / "train2014" / f"COCO_train2014_{7:012d}.jpg"
    assert resolve_image(root, f"{7:012d}.jpg") == wanted
    assert resolve_image(root, wanted.name) == wanted
    assert resolve_image(root, f"train2014/{wanted.name}") == wanted


def test_a_counter_below_another_folder_is_not_looked_for_among_cocos(tmp_path: Path) -> None:
    """A missing frame would be another picture, and nobody would be told."""
    root = coco_pictures(tmp_path, [12])
    picture(root / "train2017" / f"{12:012d}.jpg", "blue")
    for name in (f"ep1/{12:012d}.jpg", f"{12:012d}.jpg\n"):
        with pytest.raises(UserError, match="is not below"):
            resolve_image(root, name)
    assert resolve_image(root, f"val2017/{12:012d}.jpg") == root / "train2017" / f"{12:012d}.jpg"


def test_nothing_outside_the_root_is_read(tmp_path: Path) -> None:
    root = coco_pictures(tmp_path / "root", [7])
    secret = picture(tmp_path / "secret.jpg")
    (root / "link.jpg").symlink_to(secret)
    for name in ("../secret.jpg", str(secret), "link.jpg", "train2014/../../secret.jpg"):
        with pytest.raises(UserError, match="outside the image root"):
            resolve_image(root, name)
    with pytest.raises(UserError, match="is not below"):
        resolve_image(root, "none.jpg")


def test_a_name_without_a_file_says_just_that(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^there is no picture .*gone\.png$"):
        load_image(tmp_path / "gone.png")


def test_what_lies_outside_is_said_once(tmp_path: Path) -> None:
    """A UserError is a ValueError: it was caught as a name that no file can have, and said twice."""
    with pytest.raises(UserError, match="^the image '../x.png' lies outside the image root") as caught:
        resolve_image(tmp_path / "images", "../x.png")
    assert "no file can have" not in str(caught.value)


@pytest.mark.parametrize("mode", ["RGBA", "P", "I;16", "CMYK", "LA", "1", "F"])
def test_large_pictures_are_converted_in_bands_without_a_seam(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (37, 23, 3), dtype=np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257)
    elif mode == "F":
        picture = Image.fromarray(noise[:, :, 0].astype(np.float32) * 257)
    elif mode == "LA":
        picture = Image.merge("LA", [Image.fromarray(noise[:, :, i].copy()) for i in (0, 1)])
    else:
        picture = Image.fromarray(noise).convert(mode)
    if mode == "P":
        picture.info["transparency"] = 3
    if mode == "RGBA":
        picture.putalpha(Image.fromarray(noise[:, :, 2].copy()))
    whole = np.asarray(images.to_rgb(picture))
    monkeypatch.setattr(images, "_BAND", 100)
    assert np.array_equal(np.asarray(images.to_rgb(picture)), whole) and whole.std() > 10


@pytest.mark.parametrize("white", [1, 255, 65_535])
def test_floating_point_is_read_on_the_scale_that_holds_it(tmp_path: Path, white: int) -> None:
    """It was divided by 256 whatever it was: depth maps and masks of 0 to 1 came out black."""
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32) * white).save(tmp_path / "x.tif")
    assert np.asarray(load_image(tmp_path / "x.tif"))[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize("value", [-1.0, 1e6, float("inf"), float("nan")])
def test_floating_point_on_no_known_scale_is_a_sentence(tmp_path: Path, value: float) -> None:
    Image.fromarray(np.array([[0.0, value]], dtype=np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match="x.tif is not a readable picture .its values lie between .* expected 0 to 1"):
        load_image(tmp_path / "x.tif")


def test_a_large_picture_with_transparency_takes_less_than_a_gibibyte(tmp_path: Path) -> None:
    """As copies of every step it took 2.4 GB, times the loader's processes."""
    Image.new("RGBA", (6000, 6000), (10, 20, 30, 128)).save(tmp_path / "x.png", compress_level=1)
    before = 36e6 * 4 * 2  # the picture and the result
    code = (
        "import resource, sys; from embervlm.data.images import load_image; from pathlib import Path; "
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024; before = peak(); "
        "load_image(Path(sys.argv[1])); print(peak() - before)"
    )
    took = int(subprocess.check_output([sys.executable, "-c", code, tmp_path / "x.png"], text=True))
    assert took < before * 1.25


def test_a_picture_of_one_column_is_refused_for_its_side(tmp_path: Path) -> None:
    """A hundred million rows take nine bytes a pixel and more."""
    Image.new("1", (1, images.MAX_SIDE + 1)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="1 x 65536 pixels, a side longer than 65,535; reduce it"):
        load_image(tmp_path / "x.png")
