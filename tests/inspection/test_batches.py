"""The page and the screen show what is trained on: the cache's own targets, the cut tokens, every text as it is."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from embervlm import cli
from embervlm.batch.encode import IGNORE, encode
from embervlm.batch.teaching import cached_teaching
from embervlm.data.prepared import open_prepared
from embervlm.data.record import Record, write_records
from embervlm.distill.targets import NONE, tail_at
from embervlm.errors import UserError
from embervlm.inspection import page as pages
from embervlm.inspection.batches import run_inspect
from embervlm.inspection.expected import LISTED
from embervlm.inspection.marks import Names, visible
from embervlm.model.processing import build_processor
from embervlm.options import parse
from embervlm.settings import InspectSettings
from embervlm.teachers.store import TeacherCache
from tests.train.small_world import make_taught_world

PROCESSOR = build_processor("tiny")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Data, two teachers, and a folder with their caches; the second knows no record without a picture."""
    return make_taught_world(tmp_path_factory.mktemp("inspection"), ("train",), lambda teacher: teacher.name)


def settings(data, tmp_path, **changes):
    common = {"preset": "tiny", "data_dir": data, "output_dir": tmp_path / "outputs", "html": tmp_path / "page.html"}
    return InspectSettings(**{**common, **changes})


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.samples: list[list[dict]] = []  # attributes and texts of the tokens of each
        self.scripts: list[str] = []
        self._inside: list[str] = []
        self.feed(text)
        self.positions = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attributes):
        said = {name: value or "" for name, value in attributes}
        self.tags.append((tag, said))
        if tag == "section" and said.get("class") == "sample":
            self.samples.append([])
        if re.match(r"t( |$)", said.get("class", "")) and self.samples:
            self.samples[-1].append({"kind": said["class"].split(), "number": said.get("data-n"), "text": ""})
        if tag == "script":
            self.scripts.append("")
        self._inside.append(tag)

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if self._inside and self._inside[-1] == "script":
            self.scripts[-1] += data
        elif self.samples and self.samples[-1] and "bdi" in self._inside and "small" not in self._inside:
            self.samples[-1][-1]["text"] += data


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def ids_of(path: Path) -> list[str]:
    """The records of a page, in order."""
    return re.findall(r"<header><code>([^<]*)</code>", path.read_text(encoding="utf-8"))


def wanted(targets, j, label, temperature, names):
    """By hand: sorted (text, p, p at T) of all events, the rest at 1 and at T, the label's share at 1."""
    if targets.kinds[j] == NONE:
        return None
    filled = targets.ids[j] >= 0
    ids, logp = targets.ids[j][filled], targets.logprobs[j][filled].astype(float)
    both = []
    for at in (1.0, temperature):
        p, rest = np.exp(logp / at), np.exp(tail_at(targets.log_tail[j], at))
        both.append((p / (p.sum() + rest), rest / (p.sum() + rest)))
    (p, rest), (p_t, rest_t) = both
    events = sorted(zip(p, p_t, map(names, ids), strict=True), key=lambda event: -event[0])
    return events, (rest, rest_t), float(p[ids == label].sum())


@pytest.mark.parametrize("packed", [True, False])
def test_every_position_shows_what_the_cache_holds(world, tmp_path, packed):
    """Every label of every record, against the cache, its targets and the arithmetic written out."""
    data, _, caches = world
    cache = TeacherCache(caches / "a")
    chosen = settings(
        data, tmp_path, use_cached_teacher_outputs=(caches / "a",), batch_size=5, num_batches=3, pack=packed,
        distillation_temperature=2.0,
    )  # fmt: skip
    run_inspect(chosen)
    page = read(tmp_path / "page.html")
    records = {record.id: record for record in open_prepared(data / "stage2").records("train")}
    order = ids_of(tmp_path / "page.html")
    assert sorted(order) == sorted(records)
    teaching, names = cached_teaching(cache, PROCESSOR.tokenizer), Names(PROCESSOR.tokenizer)
    checked = told = 0
    for record_id, positions in zip(order, page.positions["samples"], strict=True):
        encoded = encode(records[record_id], PROCESSOR, 256)
        (answers,) = teaching.targets([records[record_id]], [encoded])
        wished = [(reply, targets, j) for reply, targets in zip(encoded.responses, answers, strict=True)
                  for j in range(len(reply.ids))]  # fmt: skip
        assert [position["at"] for position in positions] == np.flatnonzero(encoded.shift_labels != IGNORE).tolist()
        for (reply, targets, j), position in zip(wished, positions, strict=True):
            checked += 1
            assert position["id"] == reply.ids[j] == encoded.shift_labels[position["at"]]
            assert position["reads"] == visible(names(int(encoded.input_ids[position["at"]])))
            (said,) = position["said"]
            expected = wanted(targets, j, reply.ids[j], 2.0, names)
            if expected is None:
                assert said["kind"] == "none" and said["events"] == []
                continue
            told += 1
            events, rest, label = expected
            listed = said["events"]
            assert len(listed) == min(LISTED, len(events))
            np.testing.assert_allclose([e[1] for e in listed], [e[0] for e in events[:LISTED]], atol=2e-6)
            by_name = {visible(text): (p, p_t) for p, p_t, text in events}
            for text, p, p_t, is_label in listed:
                np.testing.assert_allclose((p, p_t), by_name[text], atol=2e-6)
                assert bool(is_label) == (text == visible(names(int(reply.ids[j]))))
            np.testing.assert_allclose(said["rest"], rest, atol=2e-6)
            assert said["label"][0] == pytest.approx(label, abs=2e-6)
            assert said["others"][0] == max(0, len(events) - LISTED)
            for at in (0, 1):
                together = sum(e[1 + at] for e in listed) + said["others"][1 + at] + said["rest"][at]
                assert together == pytest.approx(1.0, abs=2e-5)
    assert checked > 60 and told > checked / 2


def test_a_page_is_one_file_with_its_pictures(world, tmp_path, capsys):
    data, _, caches = world
    run_inspect(settings(data, tmp_path, use_cached_teacher_outputs=(caches / "a",), num_batches=2))
    out = capsys.readouterr().out
    assert "Batch 2: 4 samples" in out and "packed" in out and "24 x 24 -> 96 x 96" in out
    page = read(tmp_path / "page.html")
    assert len(page.samples) == 8 and list(tmp_path.iterdir()) == [tmp_path / "page.html"]
    pictures = [said["src"] for tag, said in page.tags if tag == "img"]
    assert pictures and all(source.startswith("data:image/") for source in pictures)
    assert not [tag for tag, said in page.tags if tag in ("link", "iframe", "object") or "href" in said]
    (policy,) = (said["content"] for tag, said in page.tags if said.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text
    assert "http" not in text.replace("http-equiv", "")
    assert "text only" in text


def test_the_screen_has_the_probabilities(world, tmp_path, capsys, monkeypatch):
    data, _, caches = world
    monkeypatch.setenv("COLUMNS", "160")
    run_inspect(settings(data, tmp_path, use_cached_teacher_outputs=(caches / "a",), num_batches=3))
    page, out = read(tmp_path / "page.html"), capsys.readouterr().out
    lines = [re.split(r" {2,}", line.strip("│ \n")) for line in out.splitlines()]
    lines = [line for line in lines if len(line) > 4 and line[0].isdigit()]
    every = [position for sample in page.positions["samples"] for position in sample]
    assert len(lines) == len(every)
    for (at, reads, label, number, kind, *more), position in zip(lines, every, strict=True):
        (said,) = position["said"]
        assert (int(at), reads, label, int(number)) == (
            position["at"], position["reads"], position["label"], position["id"]
        )  # fmt: skip
        assert kind == said["kind"]
        if said["events"]:
            best = said["events"][0]
            assert more[1].startswith(f"{best[0]} ") and more[1].endswith("%") and more[-1].endswith("%")
    assert "│ at" in out and "likeliest" in out and "rest" in out


HOSTILE = Record(
    "<script>alert('id')</script>\x1b[2J\u202e",
    "red.png",
    "</script><script>alert(1)</script> \u202eback <img src=x onerror=alert(2)> {{ 7 * 7 }}",
    "<b>bold</b> </script>\u2066",
    metadata={"source": '"><script>alert(3)</script>\u202e'},
)


def test_hostile_text_is_only_text(world, tmp_path, capsys):
    """In questions, answers, ids, sources and the teacher's tokens: neither markup nor what turns writing around."""
    data, (teacher, _), _ = world
    home = tmp_path / "set"
    home.mkdir()
    write_records(home / "train.jsonl", [HOSTILE])
    (home / "dataset.json").write_text(json.dumps({"image_root": str(data / "images")}))
    run_inspect(settings(data, tmp_path, dataset_path=home, teacher_model=(str(teacher),)))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page, out = read(tmp_path / "page.html"), capsys.readouterr().out
    assert [tag for tag, _ in page.tags].count("script") == 2 and [tag for tag, _ in page.tags].count("img") == 1
    assert not [said for _, said in page.tags if any(name.startswith("on") for name in said)]
    assert not {"\x1b", "\u202e", "\u2066"} & set(text + out)
    (tokens,) = page.samples
    row = "".join(token["text"] for token in tokens)
    assert (
        "</script><script>alert(1)</script>\\x20\\xe2\\x80\\xaeback·<img·src=x·onerror" in row and "{{·7·*·7·}}" in row
    )
    assert "␛[2J⟨U+202E⟩" in text and "⟨U+202E⟩" in out
    asked = [position["label"] for position in page.positions["samples"][0]]
    assert "".join(asked).startswith("<b>bold</b>·</script>")


@pytest.mark.parametrize("packed", [True, False])
def test_what_was_cut_is_shown_with_its_count(world, tmp_path, capsys, packed):
    data, _, caches = world
    whole = {record.id: encode(record, PROCESSOR, 1000) for record in open_prepared(data / "stage2").records("train")}
    length = 60
    run_inspect(settings(
        data, tmp_path, use_cached_teacher_outputs=(caches / "a",), max_length=length, batch_size=12, pack=packed
    ))  # fmt: skip
    page, out = read(tmp_path / "page.html"), capsys.readouterr().out
    names, cut_samples, lost = Names(PROCESSOR.tokenizer), 0, 0
    for record_id, tokens in zip(ids_of(tmp_path / "page.html"), page.samples, strict=True):
        full = whole[record_id]
        ids = [*full.input_ids.tolist(), int(full.shift_labels[-1])]
        asked = full.shift_labels[:length][-1] != IGNORE
        kept = min(length, len(full.input_ids)) + int(asked)
        struck = [token["text"] for token in tokens if "cut" in token["kind"]]
        assert struck == [visible(names(token)) for token in ids[kept:]], record_id
        labels = [token for token in tokens if token["number"] is not None]
        assert len(labels) == (full.shift_labels[:length] != IGNORE).sum()
        cut_samples += bool(struck)
        lost += int((full.shift_labels[length:] != IGNORE).sum())
        if struck:
            text = (tmp_path / "page.html").read_text(encoding="utf-8")
            assert f"{len(struck)} tokens, " in text and f"{len(struck)} tokens, " in out
    assert cut_samples and lost
    said = " ".join(out.split())
    assert f"{cut_samples} of 12 samples" in said and f"and {lost} of " in said and "Raise --max_length" in said


def test_a_picture_that_cannot_be_read_is_shown_as_such(world, tmp_path, capsys):
    """The page is opened when training stopped at it."""
    data, _, caches = world
    images = tmp_path / "images"
    images.mkdir()
    for picture in (data / "images").iterdir():
        (images / picture.name).write_bytes(b"no picture" if picture.name == "red.png" else picture.read_bytes())
    run_inspect(settings(
        data, tmp_path, image_root=images, use_cached_teacher_outputs=(caches / "a",), batch_size=12
    ))  # fmt: skip
    text, out = (tmp_path / "page.html").read_text(encoding="utf-8"), " ".join(capsys.readouterr().out.split())
    assert "1 picture cannot be read" in out and "prepare --check_images" in out
    assert "1 picture cannot be read" in text and 'class="blank bad"' in text and text.count('class="sample"') == 12


def test_no_teacher_one_beside_and_one_about_other_data(world, tmp_path, capsys):
    data, (teacher, _), caches = world
    run_inspect(settings(data, tmp_path))
    assert "No teacher: there is no cache in" in " ".join(capsys.readouterr().out.split())
    page = read(tmp_path / "page.html")
    assert all(position["said"] == [] for sample in page.positions["samples"] for position in sample)
    (tmp_path / "outputs/stage2").mkdir(parents=True)
    (tmp_path / "outputs/stage2/teacher_outputs").symlink_to(caches / "a")
    run_inspect(settings(data, tmp_path))
    assert f"Teacher: {teacher}, from" in capsys.readouterr().out.replace("\n", "")
    assert read(tmp_path / "page.html").positions["facts"]["teachers"] == [[str(teacher), 1.0]]
    run_inspect(settings(data, tmp_path, disable_distillation=True))
    assert read(tmp_path / "page.html").positions["facts"]["teachers"] == []
    capsys.readouterr()
    run_inspect(settings(data, tmp_path, split="val"))
    assert "Not used: " in capsys.readouterr().out


def test_stage_1_has_a_teacher_only_where_its_training_has_one(world, tmp_path, capsys):
    data, (teacher, _), _ = world
    words = ["--stage", "1", "--preset", "tiny", "--data_dir", str(data), "--html", str(tmp_path / "page.html")]
    words += ["--teacher_model", str(teacher)]
    with_teacher = tmp_path / "taught.yaml"
    with_teacher.write_text("stage1: {distillation: {enabled: true}}")
    for more, teachers in (
        ([], []),
        (["--no_pack"], []),
        (["--no_disable_distillation"], [[str(teacher), 1.0]]),
        (["--config", str(with_teacher)], [[str(teacher), 1.0]]),
    ):
        run_inspect(parse(InspectSettings, [*words, *more]))
        alone = "Stage 1 has one with --no_disable_distillation" in " ".join(capsys.readouterr().out.split())
        page = read(tmp_path / "page.html")
        assert len(page.samples) == 4 and page.positions["facts"]["teachers"] == teachers
        assert alone is (teachers == [])


def test_a_live_teacher_says_what_its_cache_says(world, tmp_path):
    data, (teacher, _), caches = world
    found = []
    for given in ({"teacher_model": (str(teacher),)}, {"use_cached_teacher_outputs": (caches / "a",)}):
        run_inspect(settings(data, tmp_path, batch_size=12, **given))
        found.append(read(tmp_path / "page.html").positions["samples"])
    compared = 0
    for live, cached in zip(*map(sum_up, found), strict=True):
        assert (live["at"], live["id"]) == (cached["at"], cached["id"])
        one, other = live["said"][0], cached["said"][0]
        if one["events"] and other["events"]:
            compared += 1
            assert one["label"][0] == pytest.approx(other["label"][0], abs=0.02)  # the cache is quantised
    assert compared > 20


def sum_up(samples):
    return [position for sample in samples for position in sample]


@pytest.mark.parametrize("how", ["names", "folder", "settings file"])
def test_two_teachers_side_by_side(world, tmp_path, capsys, monkeypatch, how):
    """By the same flags as in training; where one says nothing it is shown as such."""
    data, (a, b), caches = world
    monkeypatch.setenv("COLUMNS", "200")
    words = ["inspect", "--data_dir", str(data), "--preset", "tiny", "--batch_size", "12"]
    words += ["--html", str(tmp_path / "page.html"), "--output_dir", str(tmp_path / "outputs")]
    if how == "names":
        words += ["--teacher_model", f"{a}:0.6", f"{b}:0.4", "--use_cached_teacher_outputs", str(caches)]
    elif how == "folder":
        words += [
            "--use_cached_teacher_outputs",
            str(caches / "a"),
            str(caches / "b"),
            "--teacher_weights",
            "0.6",
            "0.4",
        ]
    else:
        (tmp_path / "outputs/stage2").mkdir(parents=True)
        (tmp_path / "outputs/stage2/teacher_outputs").symlink_to(caches)
        block = {"distillation": {"teacher_model": [str(a), str(b)], "teacher_weights": [3, 2], "temperature": 4.0}}
        (tmp_path / "run.yaml").write_text(json.dumps({"stage2": {**block, "learning_rate": 0.1}}))
        words += ["--config", str(tmp_path / "run.yaml")]
    assert cli.main(words) == 0
    facts = read(tmp_path / "page.html").positions["facts"]
    assert facts["teachers"] == [[str(a), 0.6], [str(b), 0.4]]
    assert facts["temperature"] == (4.0 if how == "settings file" else 2.0)
    records = {record.id: record for record in open_prepared(data / "stage2").records("train")}
    speaks = 0
    page = read(tmp_path / "page.html")
    for record_id, positions in zip(ids_of(tmp_path / "page.html"), page.positions["samples"], strict=True):
        for position in positions:
            first, second = position["said"]
            speaks += bool(first["events"]) and bool(second["events"]) and first["events"] != second["events"]
            assert records[record_id].image is not None or second["events"] == []
    assert speaks > 10
    out = capsys.readouterr().out
    assert out.count("teacher") and "60% Teacher:" in out


def test_ranks_of_uld_are_not_called_tokens(world, tmp_path):
    data, _, caches = world
    run_inspect(settings(
        data, tmp_path, use_cached_teacher_outputs=(caches / "a",), distillation_targets="uld"
    ))  # fmt: skip
    page = read(tmp_path / "page.html")
    assert page.positions["facts"]["ranks"] is True
    said = [position["said"][0] for position in sum_up(page.positions["samples"])]
    assert all(one["events"][0][0] == "rank·1" and not one["events"][0][3] for one in said if one["events"])


def test_batches_are_those_of_the_training(world, tmp_path, capsys):
    """The order of the seed; a later batch by its number, also in the next epoch, which has another order."""
    from embervlm.batch.sampler import ImageMajorSampler

    data, _, _ = world
    records = open_prepared(data / "stage2").records("train")
    order = ImageMajorSampler(records, 7)
    epochs = []
    for epoch in range(2):
        order.set_epoch(epoch)
        epochs.append([records[at].id for at in order])
    assert epochs[0] != epochs[1]
    run_inspect(settings(data, tmp_path, seed=7, first_batch=2, num_batches=2))
    assert ids_of(tmp_path / "page.html") == epochs[0][4:12]
    run_inspect(settings(data, tmp_path, seed=7, first_batch=4))
    assert ids_of(tmp_path / "page.html") == epochs[1][:4]
    assert "Batch 4" in (tmp_path / "page.html").read_text(encoding="utf-8")
    capsys.readouterr()
    run_inspect(settings(data, tmp_path, num_batches=9, batch_size=8))
    assert "has no more than 2 batches" in capsys.readouterr().out


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    place = tmp_path / "deep/page.html"
    pages.write_page(place, "old")
    assert place.read_text() == "old" and list(place.parent.iterdir()) == [place]

    def full(self, text, **options):
        with open(self, "w") as file:
            file.write(text[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="could not be written.*No space"):
        pages.write_page(place, "new and longer")
    assert place.read_text() == "old"


def test_pictures_of_a_page_are_bounded():
    """A page of large photographs must still open."""
    noise = np.random.default_rng(0).integers(0, 256, (900, 600, 3), dtype=np.uint8)
    picture = pages.Image.fromarray(noise)
    made = pages.Pictures()(picture)
    assert made is not None and made.startswith("data:image/jpeg") and len(made) < 400_000
    small = pages.Pictures()(pages.Image.new("RGB", (96, 96)))
    assert small is not None and small.startswith("data:image/png")
    full = pages.Pictures(room=len(made))
    assert [full(picture) is None for _ in range(3)] == [False, True, True] and full.left_out == 2
