"""Frozen features: the same training as on pixels, made once, never half a file, and off where they would be wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from embervlm.batch import features as files
from embervlm.batch.collate import Collator
from embervlm.batch.dataset import RecordDataset
from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.model.modeling import EmberVLM
from embervlm.train import encode_pictures, run
from embervlm.train import features as module
from embervlm.train.features import Pictures, find_missing, open_store, use_frozen_features
from tests.train.small_world import make_world, settings

CPU, QUIET = torch.device("cpu"), Console(quiet=True)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures, two of them the same."""
    folder = tmp_path / "images"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for n in range(4):
        noise = (torch.rand(12, 12, 3, generator=generator) * 255).to(torch.uint8).numpy()
        Image.fromarray(noise).resize((70, 60)).save(folder / f"{n}.png")
    shutil.copy(folder / "0.png", folder / "again.png")
    return folder


NAMES = ("0.png", "1.png", "2.png", "3.png", "again.png")
RECORDS = [
    *(Record(f"r{n}", name, "What is it?", f"noise number {n}") for n, name in enumerate(NAMES)),
    Record("more", "2.png", "Why?", "because"),
    Record("text", None, "Say yes.", "yes"),
]


def student(unfreeze: int) -> EmberVLM:
    torch.manual_seed(0)
    return EmberVLM.from_preset("tiny", unfreeze_vision=unfreeze).train()


def use(model, photos, out, looks=5.0, **changes):
    asked = settings(photos, out, frozen_features="on", **changes)
    return use_frozen_features(asked, model, Pictures.of(photos, RECORDS, looks), CPU, QUIET)


def gradients(model, photos, features):
    data = RecordDataset(RECORDS, photos, model.processor, 256, features=features)
    batch = Collator(model.processor, pack_length=256)([data[at] for at in range(len(data))])
    assert (batch["pixel_values"] is None) == (features is not None)
    loss = model(**{name: value for name, value in batch.items() if name != "labels"}).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("unfreeze", [0, 1, 2])
@pytest.mark.parametrize("workers", [0, 1])
def test_loss_and_gradients_are_those_of_pixels(photos: Path, tmp_path: Path, unfreeze: int, workers: int) -> None:
    """With 2 blocks open, the cut is inside the tower; open blocks train, with BatchNorm over the same pictures."""
    features, notes = use(student(unfreeze), photos, tmp_path / "out", dataloader_workers=workers)
    assert features is not None and len(features) == 5 and "5 pictures, 5 of them new" in notes[0]
    loss, exact = gradients(student(unfreeze), photos, None)
    again, found = gradients(student(unfreeze), photos, features)
    assert again == pytest.approx(loss, rel=1e-3)
    assert found.keys() == exact.keys()
    assert any(name.startswith("vision") for name in found) == (unfreeze > 0)
    for name, grad in exact.items():
        assert (found[name] - grad).norm() <= 5e-3 * grad.norm() + 1e-7, name


def test_a_picture_is_encoded_once_whatever_it_is_called(photos: Path, tmp_path: Path, monkeypatch) -> None:
    """By name, a copied data set would be encoded again, and a picture that was replaced would not be."""
    model = student(0)
    first, _ = use(model, photos, tmp_path / "out")
    assert first is not None and torch.equal(first["0.png"], first["again.png"])
    (folder,) = (tmp_path / "out/features").iterdir()
    assert sum(len(files.map_arrays(part)["keys"]) for part in folder.glob("*.safetensors")) == 4

    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    decoded = []
    real = encode_pictures.load_image
    monkeypatch.setattr(encode_pictures, "load_image", lambda path: (decoded.append(path.name), real(path))[1])
    Image.new("RGB", (70, 60), "red").save(moved / "3.png")
    second, _ = use(model, moved, tmp_path / "out")
    assert decoded == ["3.png"] and second is not None
    assert torch.equal(second["1.png"], first["1.png"]) and not torch.equal(second["3.png"], first["3.png"])

    hashed = []
    monkeypatch.setattr(encode_pictures, "content_key", lambda path: hashed.append(path))
    third, notes = use(model, moved, tmp_path / "out")
    assert third is not None and not hashed and "new" not in notes[0]  # nothing changed: nothing is read


def test_other_weights_or_another_boundary_have_other_features(photos: Path, tmp_path: Path) -> None:
    folders = set()
    for unfreeze in (0, 1):
        model = student(unfreeze)
        folders.add(open_store(tmp_path, model)[0].folder)
        for name, tensor in model.vision.frozen_part().state_dict().items():
            if name.endswith("running_mean"):
                tensor += 1e-3
                break
        folders.add(open_store(tmp_path, model)[0].folder)
        model.processor.image_processor.image_mean = [0.1, 0.1, 0.1]
        folders.add(open_store(tmp_path, model)[0].folder)
    assert len(folders) == 6
    open_blocks = student(1)
    with torch.no_grad():
        open_blocks.vision.blocks()[-1].token_mixer.conv.c.weight.add_(1)
    assert open_store(tmp_path, open_blocks)[0].folder in folders  # what is trained does not count


def test_a_file_that_is_not_whole_is_made_again(photos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(files, "PART_BYTES", 2 * 2 * 36 * 96)  # two pictures a part
    monkeypatch.setattr(encode_pictures, "BATCH", 2)
    model = student(0)
    first, _ = use(model, photos, tmp_path / "out")
    parts = sorted(tmp_path.rglob("*.safetensors"))
    assert first is not None and len(parts) == 2
    whole = parts[0].read_bytes()
    parts[0].write_bytes(whole[:-100])
    (parts[0].with_name("half.safetensors.7.tmp")).write_bytes(whole[:50])
    index = next(tmp_path.rglob("files-0.jsonl"))
    index.write_text(index.read_text()[:-20])
    second, notes = use(model, photos, tmp_path / "out")
    assert second is not None and "5 pictures" in notes[0] and "new" in notes[0]
    assert all(torch.equal(first[name], second[name]) for name in NAMES)


def test_what_was_made_before_ctrl_c_is_kept(photos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(encode_pictures, "BATCH", 1)
    real, calls = encode_pictures.load_image, []

    def pressed(path):
        calls.append(path.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(encode_pictures, "load_image", pressed)
    model = student(0)
    with pytest.raises(KeyboardInterrupt):
        use(model, photos, tmp_path / "out")
    calls[:] = ["", "", ""]
    features, _ = use(model, photos, tmp_path / "out")
    assert features is not None and len(features) == 5
    assert calls[3:] == ["2.png", "3.png"]


def test_processes_make_their_shares_and_use_all(photos: Path, tmp_path: Path) -> None:
    """Each rank takes every n-th file; what one wrote the other reads."""
    model = student(0)
    store, about = open_store(tmp_path, model)
    pictures = Pictures.of(photos, RECORDS, 5.0)
    todo = find_missing(store, pictures).files
    store.describe(about)
    for rank in range(3):
        encode_pictures.fill(
            store, model.vision.frozen_part(), model.processor.image_processor, 0, CPU, QUIET, todo[rank::3], rank
        )
    store.refresh()
    found = find_missing(store, pictures)
    assert not found.files and set(found.keys) == set(NAMES)
    alone, _ = use(student(0), photos, tmp_path / "alone")
    together = store.features_of(found.keys)
    for name in NAMES:
        torch.testing.assert_close(together[name], alone[name], rtol=2e-3, atol=2e-3)


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(photos: Path, tmp_path: Path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=module.SPARE + 5 * 2 * 36 * 96 - 1)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(UserError, match=r"5 pictures take 0.0 GB \(6,912 bytes each\).*--features_dir"):
        use(student(0), photos, tmp_path / "out")
    auto = settings(photos, tmp_path / "out")
    features, notes = use_frozen_features(auto, student(0), Pictures.of(photos, RECORDS, 5.0), CPU, QUIET)
    assert features is None and notes[0].startswith("Frozen features are off: The features of 5 pictures")
    assert not (tmp_path / "out").exists()


def test_they_are_off_where_they_do_not_pay_or_cannot_be(photos: Path, tmp_path: Path) -> None:
    def auto(model, looks):
        return use_frozen_features(
            settings(photos, tmp_path / "out"), model, Pictures.of(photos, RECORDS, looks), CPU, QUIET
        )

    assert auto(student(0), 1.0) == (None, [])  # each picture once
    assert auto(student(-1), 9.0) == (None, [])  # all blocks are trained
    features, notes = auto(student(6), 9.0)  # only the stem is frozen
    assert features is None and "not smaller" in notes[0]
    assert auto(student(0), 2.0)[0] is not None
    assert auto(student(0), 1.0)[0] is not None  # they are there
    with pytest.raises(UserError, match="every block of the vision encoder is trained"):
        use(student(-1), photos, tmp_path / "out")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_torn_picture_is_named(photos: Path, tmp_path: Path, workers: int) -> None:
    (photos / "1.png").write_bytes((photos / "1.png").read_bytes()[:60])
    with run.one_sentence(), pytest.raises(UserError) as caught:
        use(student(0), photos, tmp_path / "out", dataloader_workers=workers)
    assert "Record r1: " in str(caught.value) and "1.png is not a readable picture" in str(caught.value)


def test_numbers_beyond_fp16_are_refused(photos: Path, tmp_path: Path) -> None:
    """They would become infinite, and the loss with them."""
    model = student(0)
    with torch.no_grad():
        model.vision.blocks()[-1].channel_mixer.conv2.bn.bias.fill_(1e6)
    with pytest.raises(UserError, match="beyond fp16"):
        use(model, photos, tmp_path / "out")


def test_a_run_trains_on_them_and_gives_the_losses_of_pixels(tmp_path: Path, capsys) -> None:
    """Both stages share them; the evaluation on val uses them, too."""
    data = make_world(tmp_path / "data")
    said = {}
    for way in ("on", "off"):
        asked = settings(
            data, tmp_path / way, stages=(1, 2), epochs=2, max_steps=-1, unfreeze_vision=0, frozen_features=way
        )
        assert run.run_train(asked) == 0
        said[way] = " ".join(capsys.readouterr().out.split())
    assert "4 pictures, 4 of them new" in said["on"] and said["on"].count("of them new") == 1
    assert "Frozen features" not in said["off"]
    assert len(list((tmp_path / "on/features").iterdir())) == 1 and not (tmp_path / "off/features").exists()
    for stage in (1, 2):
        logs = [json.loads((tmp_path / way / f"stage{stage}/metrics.json").read_text())["history"] for way in said]
        for name in ("sft_loss", "eval_loss"):
            on, off = (
                [entry[f"stage{stage}/{name}"] for entry in log if f"stage{stage}/{name}" in entry] for log in logs
            )
            assert on == pytest.approx(off, rel=2e-3) and on != off


def test_unfreeze_vision_0_freezes_a_tower_that_its_preset_opens(tmp_path: Path) -> None:
    data = make_world(tmp_path / "data")
    run.run_train(settings(data, tmp_path / "out", max_steps=1, unfreeze_vision=0))
    config = json.loads((tmp_path / "out/stage2/checkpoint-1/config.json").read_text())
    assert config["unfreeze_vision"] == 0
