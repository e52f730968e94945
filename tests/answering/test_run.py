"""`embervlm answer` with the embedded teacher: it writes what the teacher said, and that trains like any data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embervlm.answering.run import run_answer
from embervlm.data.prepare import run_prepare
from embervlm.data.prepared import PreparedSet, open_prepared
from embervlm.data.record import Record, write_records
from embervlm.data.settings import PrepareSettings
from embervlm.data.toyworld import write_toy
from embervlm.demo import prepare_words
from embervlm.errors import UserError
from embervlm.options import parse
from embervlm.settings import AnswerSettings, CacheSettings
from embervlm.teachers.cache import run_cache
from embervlm.teachers.hf import HFTeacher
from embervlm.teachers.registry import load_teacher
from embervlm.train.run import run_train
from tests.tiny_teacher import make_tiny_teacher
from tests.train.small_world import settings as train_settings

TOY = "toy-llava"
DRAWN = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 40}


@pytest.fixture(scope="module")
def drawn_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stage2/ with eight records of train, questions and conversations, one without its picture; and ten of val."""
    folder = tmp_path_factory.mktemp("drawn")
    write_toy(folder / "toy", 4, 2, seed=3)
    run_prepare(parse(PrepareSettings, prepare_words(folder / "toy", folder)))
    prepared = open_prepared(folder / "stage2")
    train = sorted(prepared.records("train"), key=lambda record: sum(len(text) for _, text in record.turns()))
    talks = [record for record in train if record.conversations]
    short = [record for record in train if not record.conversations and record.answers]
    told = [record for record in train if not record.conversations and not record.answers]
    chosen = [*short[:: len(short) // 4][:4], *talks[:2], told[0], replace(told[-1], image=None)]
    write_records(prepared.path("train"), chosen)
    write_records(prepared.path("val"), prepared.records("val")[:10])
    return folder


@pytest.fixture
def world(drawn_world: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(drawn_world, tmp_path / "data"))


def answer(world: Path, teacher_model: str = TOY, **changed) -> PreparedSet:
    small = {"max_new_tokens": 96, "min_agreement": 0.0, "references": "fill", "device": "cpu", "batch_size": 2}
    small |= {"teacher_model": teacher_model, "dataset_path": world / "stage2", "output_dir": world / "answered"}
    settings = AnswerSettings(**{**small, **changed})
    run_answer(settings)
    return open_prepared(settings.output_dir / settings.dataset_path.name)


def answered(prepared: PreparedSet, split: str = "train") -> list[Record]:
    return [record for record in prepared.records(split) if "answered_by" in record.metadata]


def content(prepared: PreparedSet) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in prepared.folder.iterdir()}


def test_the_answers_are_the_teachers_own(world: Path) -> None:
    """Greedy, each turn asked with the teacher's earlier answers, not the references, before it."""
    made, teacher = answer(world), load_teacher(TOY)
    asked = {record.id: record for record in open_prepared(world / "stage2").records("train")}
    found = answered(made)
    assert {len(record.turns()) for record in found} == {1, 3, 4}
    for record in found:
        said: list[str] = []
        for question, _ in asked[record.id].turns():
            turns = (*zip([q for q, _ in record.turns()], said, strict=False), (question, "unread"))
            (one,) = teacher.answer([replace(record, conversations=turns)], made.image_root, 96)
            said.append(one.text)
        assert [text for _, text in record.turns()] == said and all(said)
        assert record.response == said[0] == teacher.generate([asked[record.id]], made.image_root, 96)[0]
        assert record.answers == asked[record.id].answers and record.image == asked[record.id].image
        assert record.metadata["answered_by"] == TOY
        references = [text for _, text in asked[record.id].turns()]
        assert record.metadata["reference"] == (references if len(references) > 1 else references[0])
        assert 0 <= record.metadata["agreement"] <= 1


def test_every_answer_is_kept_or_counted(world: Path, capsys) -> None:
    made = answer(world, samples=3, **DRAWN, references="none", min_agreement=0.3)
    told = made.info["answered"]["splits"]["train"]
    reasons = ("kept", "filtered", "duplicates", "empty", "cut")
    assert told["asked"] == 24 == sum(told[reason] for reason in reasons)
    assert min(told["kept"], told["filtered"], told["duplicates"]) > 0
    assert told["kept"] == told["records"] == len(made.records("train")) and told["references"] == 0
    assert "mean agreement" in capsys.readouterr().out


def test_val_is_carried_over_to_the_byte_and_the_pictures_are_found(world: Path) -> None:
    """An evaluation on other references would compare with nobody's numbers."""
    made, before = answer(world), open_prepared(world / "stage2")
    assert made.path("val").read_bytes() == before.path("val").read_bytes()
    assert made.image_root == before.image_root
    assert not Path(json.loads((made.folder / "dataset.json").read_text())["image_root"]).is_absolute()


def test_it_trains_and_caches_like_any_data(world: Path, tmp_path: Path) -> None:
    made, cache = answer(world), tmp_path / "cache"
    run_cache(CacheSettings(teacher_model=TOY, dataset_path=made.folder, output_dir=cache, device="cpu"))
    run = train_settings(
        made.folder.parent,
        tmp_path,
        disable_distillation=False,
        use_cached_teacher_outputs=(cache,),
        max_steps=2,
    )
    assert run_train(run) == 0
    assert (tmp_path / "stage2/checkpoint-final").is_dir()


def test_the_filter_leaves_out_what_disagrees_and_fill_takes_the_reference(world: Path) -> None:
    everything = answered(answer(world))
    agreements = sorted(record.metadata["agreement"] for record in everything)
    limit = agreements[-1]
    assert limit > agreements[0], "this world cannot tell a filter from none"
    some = answered(answer(world, min_agreement=limit))
    assert some == [record for record in everything if record.metadata["agreement"] >= limit]
    filled = answer(world, min_agreement=limit).records("train")
    before = open_prepared(world / "stage2").records("train")
    assert [record.id for record in filled] == [record.id for record in before]
    assert [r for r in filled if "answered_by" not in r.metadata] == [
        r for r in before if r.id not in {kept.id for kept in some}
    ]
    both = answer(world, references="all").records("train")
    assert [record for record in both if "answered_by" not in record.metadata] == before
    assert len(both) == len(before) + len(everything)


def test_how_sure_the_teacher_is_of_an_answer_is_what_it_scores_it_with(world: Path) -> None:
    """Asked and scored in different ways: word by word, and all at once."""
    made = answer(world)
    alone = [replace(record, conversations=None) for record in answered(made) if len(record.turns()) == 1]
    scored = load_teacher(TOY).score(alone, made.image_root, 4)
    for record, (turn,) in zip(alone, scored, strict=True):
        assert record.metadata["confidence"] == pytest.approx(np.exp(turn.realised_logprobs.sum()), abs=2e-3)
    assert len({record.metadata["confidence"] for record in alone}) > 1


def test_answers_that_the_teacher_is_unsure_of_are_left_out(world: Path, capsys) -> None:
    everything = answered(answer(world))
    limit = sorted(record.metadata["confidence"] for record in everything)[len(everything) // 2] - 1e-4  # is rounded
    made = answer(world, min_confidence=limit, references="none")
    sure = [record for record in everything if record.metadata["confidence"] >= limit]
    assert answered(made) == sure and 0 < len(sure) < len(everything)
    told = made.info["answered"]["splits"]["train"]
    assert told["unsure"] == len(everything) - len(sure) and told["kept"] == len(sure)
    reached = [r.metadata["agreement"] for r in everything if r.metadata["confidence"] >= 0.5]
    assert told["confidence"]["0.5"]["share"] == round(len(reached) / len(everything), 4)
    if reached:
        assert told["confidence"]["0.5"]["agreement"] == pytest.approx(sum(reached) / len(reached), abs=1e-4)
    assert told["confidence"]["0"]["share"] == 1
    out = capsys.readouterr().out
    assert "nothing was asked" in out and "the teacher is unsure of" in out and "how sure" in out
    lines = (world / "answered/stage2.answers.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    without = [{name: value for name, value in row.items() if name != "logprob"} for row in rows]
    (world / "answered/stage2.answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in without))
    assert [record.response for record in answered(answer(world))] == [record.response for record in everything]
    with pytest.raises(UserError, match="has no probability beside it.*--min_confidence"):
        answer(world, min_confidence=limit)


def test_a_teacher_that_tells_no_probability_is_told_of_before_it_is_asked_on(world: Path, monkeypatch) -> None:
    """After hours of asking nothing of it could have been used."""
    really, asked = HFTeacher.answer, []

    def silent(self, records, *words):
        asked.append(len(records))
        return [replace(one, logprob=None) for one in really(self, records, *words)]

    monkeypatch.setattr(HFTeacher, "answer", silent)
    with pytest.raises(UserError, match="the teacher's server tells none"):
        answer(world, min_confidence=0.5)
    assert sum(asked) < 8 and len((world / "answered/stage2.answers.jsonl").read_text().splitlines()) == 1
    assert len(answered(answer(world, min_confidence=0.0))) == 8


def test_a_run_about_one_split_goes_on_with_the_other(world: Path, monkeypatch) -> None:
    first = answered(answer(world))
    really, asked = HFTeacher.answer, set()

    def heard(self, records, *words):
        asked.update(record.id for record in records)
        return really(self, records, *words)

    monkeypatch.setattr(HFTeacher, "answer", heard)
    made = answer(world, splits=("train", "val"))
    assert answered(made) == first
    assert asked == {record.id for record in open_prepared(world / "stage2").records("val")}


def test_no_answer_left_is_a_sentence(world: Path) -> None:
    speechless = str(make_tiny_teacher(world / "tiny"))
    with pytest.raises(UserError, match="of 8 answers to train none is left.* 8 are cut off"):
        answer(world, speechless, max_new_tokens=3, references="none")
    assert not (world / "answered" / "stage2").exists()


def test_samples_depend_on_the_seed_and_on_nothing_else(world: Path, tmp_path: Path) -> None:
    """Drawn from torch's generator they would depend on the batch, and on where a run was stopped."""

    def drawn(name: str, **changed) -> list[Record]:
        return answered(answer(world, output_dir=tmp_path / name, samples=2, **{**DRAWN, **changed}))

    first = drawn("a")
    assert first == drawn("b", batch_size=5)
    assert first != drawn("c", seed=1)
    ids = [record.id for record in first]
    assert len(set(ids)) == len(ids) and {text.partition("/")[2] for text in ids} == {f"answer-{n}" for n in (1, 2)}
    said = [(record.id.partition("/")[0], record.turns()) for record in first]
    assert len(set(said)) == len(said), "equal answers to one record are kept once"
    assert len({turns for _, turns in said}) > len({name for name, _ in said})


@contextmanager
def killed_after(batches: int) -> Iterator[None]:
    """The process dies in the middle of writing."""
    with pytest.MonkeyPatch.context() as patch:
        real, count = HFTeacher.answer, iter(range(batches))

        def dying(self, *arguments):
            if next(count, None) is None:
                raise KeyboardInterrupt
            return real(self, *arguments)

        patch.setattr(HFTeacher, "answer", dying)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.mark.parametrize("sampled", [{}, {"samples": 2, **DRAWN}])
def test_a_killed_run_goes_on_and_ends_the_same(world: Path, sampled: dict, capsys) -> None:
    whole = content(answer(world, **sampled, output_dir=world / "new"))
    said = world / "answered" / "stage2.answers.jsonl"
    with killed_after(8):
        answer(world, **sampled)
    assert not (world / "answered" / "stage2").exists()
    lines = said.read_bytes().splitlines(keepends=True)
    assert 2 < len(lines) < 9
    said.write_bytes(b"".join(lines[:-1]) + lines[-1][:-9])  # and the last line is half-written
    capsys.readouterr()
    again = content(answer(world, **sampled))
    assert f"({len(lines) - 2} were there)" in capsys.readouterr().out
    assert again == whole


def test_another_threshold_or_more_samples_ask_for_no_more_than_is_missing(world: Path, capsys) -> None:
    answer(world, samples=2, **DRAWN)
    answer(world, samples=2, **DRAWN, references="all")
    assert "nothing was asked" in capsys.readouterr().out
    answer(world, samples=3, **DRAWN)
    assert "24 answers (16 were there)" in capsys.readouterr().out


def test_answers_of_another_run_are_not_mixed_in(world: Path, tmp_path: Path) -> None:
    answer(world)
    with pytest.raises(UserError, match="max_new_tokens 96 there, 9 now.*--output_dir"):
        answer(world, max_new_tokens=9)
    with pytest.raises(UserError, match="teacher weights"):
        answer(world, str(make_tiny_teacher(tmp_path / "other")))
    write_records(world / "stage2/train.jsonl", open_prepared(world / "stage2").records("train")[:-1])
    with pytest.raises(UserError, match="data train"):
        answer(world)


def test_what_nobody_labelled_is_answered_and_refused_elsewhere(world: Path, tmp_path: Path) -> None:
    """Trained on as it is, an empty response teaches to say nothing."""
    before = open_prepared(world / "stage2").records("train")
    bare = [
        replace(
            record,
            response="",
            answers=None,
            conversations=record.conversations and tuple((question, "") for question, _ in record.conversations),
        )
        for record in before
    ]
    write_records(world / "stage2/train.jsonl", bare)
    cache = CacheSettings(teacher_model=TOY, dataset_path=world / "stage2", output_dir=tmp_path / "cache")
    for command in (lambda: run_train(train_settings(world, tmp_path)), lambda: run_cache(cache)):
        with pytest.raises(UserError, match="8 of 8 records .* have no response; .*embervlm answer"):
            command()
    made = answer(world, min_agreement=0.9)  # there is nothing to agree with
    assert made.records("train") and len(answered(made)) == len(made.records("train"))
    assert all(not {"reference", "agreement"} & set(record.metadata) for record in made.records("train"))
    assert run_train(train_settings(made.folder.parent, tmp_path, max_steps=2)) == 0
    write_records(world / "stage2/val.jsonl", bare)
    with pytest.raises(UserError, match="--splits val"):
        answer(world, output_dir=tmp_path / "x")


def test_an_answer_that_the_limit_cut_is_left_out(world: Path) -> None:
    """A student would learn to stop in the middle of a sentence."""
    short, teacher = answer(world, max_new_tokens=3), load_teacher(TOY)
    told = short.info["answered"]["splits"]["train"]
    assert told["cut"] == told["references"] == 4 and told["kept"] == 4
    for record in open_prepared(world / "stage2").records("train"):
        (one,) = teacher.answer([replace(record, conversations=None)], short.image_root, 3)
        assert one.finished == (record.id in {kept.id for kept in answered(short)})


def test_mistakes_are_told_before_the_teacher_is_loaded(world: Path) -> None:
    nowhere = "no-such-teacher"
    with pytest.raises(UserError, match="add --do_sample"):
        answer(world, nowhere, samples=2)
    with pytest.raises(UserError, match="would replace"):
        answer(world, nowhere, output_dir=world)
    next((world / "toy").rglob("COCO_train2014_000000000001.jpg")).unlink()
    with pytest.raises(UserError, match="pictures cannot be shown to the teacher.*000000000001"):
        answer(world, nowhere)


def test_answering_answers_again_keeps_ids_apart(world: Path) -> None:
    made = answer(world, references="all")
    with pytest.raises(UserError, match="which another record has"):
        answer(world, dataset_path=made.folder, output_dir=world / "twice", references="all")


def test_only_what_nobody_answered_is_asked(world: Path) -> None:
    """`--ask unlabelled`: few labels, each as it is, and the teacher's answers for the rest."""
    prepared = open_prepared(world / "stage2")
    records = prepared.records("train")
    mute = [replace(r, response="", answers=None) if r.answers and n % 2 else r for n, r in enumerate(records)]
    write_records(prepared.path("train"), mute)
    made = answer(world, ask="unlabelled").records("train")
    labels = [record for record in mute if record.labelled]
    assert 0 < len(labels) < len(mute) == len(made)
    assert made[: len(labels)] == labels
    rest, teacher = made[len(labels) :], load_teacher(TOY)
    assert {record.id for record in rest} == {record.id for record in mute if not record.labelled}
    assert [record.response for record in rest] == teacher.generate(rest, prepared.image_root, 96)


def test_what_is_kept_is_counted_apart_from_what_was_asked(world: Path) -> None:
    prepared = open_prepared(world / "stage2")
    first, *others = prepared.records("train")
    write_records(prepared.path("train"), [replace(first, response="", conversations=None), *others])
    told = answer(world, ask="unlabelled").info["answered"]["splits"]["train"]
    assert (told["asked"], told["kept"], told["references"], told["records"]) == (1, 1, len(others), len(others) + 1)


def test_a_set_without_gaps_has_nothing_to_ask(world: Path) -> None:
    with pytest.raises(UserError, match="every record of train .* has an answer, so --ask unlabelled asks nothing"):
        answer(world, ask="unlabelled")
