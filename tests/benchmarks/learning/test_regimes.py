"""A regime that has other labels than it says would make every comparison in it wrong, and nobody would notice."""

from dataclasses import replace

import pytest

from benchmarks.learning.arms import ARMS
from benchmarks.learning.regimes import READS, REGIMES, data_name, few, fill, make_data, one_annotator, wrong
from benchmarks.learning.world import Scale, World, halves
from embervlm.data.images import resolve_image
from embervlm.data.prepare import run_prepare
from embervlm.data.prepared import open_prepared
from embervlm.data.settings import PrepareSettings
from embervlm.data.toyworld import write_toy
from embervlm.data.writing import write_prepared
from embervlm.demo import prepare_words
from embervlm.evaluate.answers import normalise
from embervlm.options import parse


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("regimes")
    write_toy(folder / "toy", 120, 24, seed=0)
    run_prepare(parse(PrepareSettings, prepare_words(folder / "toy", folder / "data")))
    return open_prepared(folder / "data" / "stage2")


@pytest.fixture(scope="module")
def train(prepared):
    return [record for record in prepared.records("train") if record.metadata["source"] == "vqa_v2"]


def changed(train, labelled):
    return [(old, new) for old, new in zip(train, labelled, strict=True) if old.response != new.response]


def test_further_pictures_are_new_and_their_folder_shows_the_known_ones_too(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.learning.world.read_by_teacher", lambda *words: None)
    world = World(tmp_path, Scale(train_images=6, val_images=4))
    world.make()
    further, base = world.further(2), world.base
    asked = further.records("train", unlabelled=True)
    known, new = ({r.image for r in records} for records in (base.records("train"), asked))
    assert not any(record.labelled for record in asked)
    assert len(new) == 12 and not new & known
    assert {r.id for r in asked}.isdisjoint(r.id for r in base.records("train"))
    borrowing = world.borrowing(2)
    lent = {record.id: record.instruction for record in base.records("train")}
    of = {record.image.rpartition("/")[2] for record in borrowing.records("train", unlabelled=True)}
    assert of == {name.rpartition("/")[2] for name in new}
    for record in borrowing.records("train", unlabelled=True):
        assert not record.labelled and record.instruction == lent[record.metadata["borrowed_from"]]
        assert resolve_image(borrowing.image_root, record.image).is_file()
    for split in ("train", "val"):
        for name in {record.image for record in base.records(split)}:
            here, there = (resolve_image(some.image_root, name).read_bytes() for some in (base, further))
            assert here == there


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_so_many_labels_are_wrong(train, share):
    spoilt = changed(train, wrong(share)(train))
    assert len(spoilt) == pytest.approx(share * len(train), abs=2)
    for old, new in spoilt:
        assert normalise(new.response) != normalise(old.response)
        heard = {normalise(answer) for answer in old.answers}
        same = {normalise(r.response) for r in train if r.metadata["question_type"] == old.metadata["question_type"]}
        assert normalise(new.response) not in heard or same <= heard  # of yes and no, both are often heard


def test_wrong_labels_are_answers_to_such_a_question(train):
    """A color for "how many" would be seen through at once."""
    for old, new in changed(train, wrong(0.4)(train)):
        same = {r.response for r in train if r.metadata["question_type"] == old.metadata["question_type"]}
        assert new.response in same


@pytest.mark.parametrize("share", [0.25, 0.05])
def test_so_many_pictures_have_labels_and_the_others_nothing_of_them(train, share):
    labelled = few(share)(train)
    pictures = {record.image for record in train}
    assert len({r.image for r in labelled if r.labelled}) == round(share * len(pictures))
    for old, new in zip(train, labelled, strict=True):
        assert (old.id, old.image, old.instruction) == (new.id, new.image, new.instruction)
        if new.labelled:
            assert new == old
        else:
            assert new.response == "" and new.answers is None
    with_some = {r.image for r in labelled if r.labelled}
    assert all(r.labelled for r in labelled if r.image in with_some)  # all questions of such a picture


def test_one_annotator_gives_each_answer_as_often_as_people_did(train):
    drawn = one_annotator(train)
    assert all(new.response in new.answers for new in drawn)
    agreed = sum(r.answers.count(r.response) / len(r.answers) for r in train) / len(train)
    kept = 1 - len(changed(train, drawn)) / len(train)
    assert kept == pytest.approx(agreed, abs=0.05) and kept < 0.95


def test_what_has_no_label_is_filled_with_what_the_teacher_is_sure_of(train):
    """Labels stay, nothing is there twice, and what nobody is sure of is left out."""
    said = [
        replace(r, response="said", metadata=r.metadata | {"confidence": (n % 10) / 10}) for n, r in enumerate(train)
    ]
    further = [replace(r, id=f"further-{r.id}") for r in said]
    for name in ("few5", "few5-sure", "more", "sure"):
        regime = REGIMES[name]
        records = regime.label(train)
        labels = [record for record in records if record.labelled]
        there = [*said, *further] if regime.more else said
        filled = fill(regime, records, there, "taught")
        assert [record for record in filled if record.response != "said"] == labels
        assert len({record.id for record in filled}) == len(filled)
        known = {record.id for record in labels}
        sure = [r for r in there if r.id not in known and r.metadata["confidence"] >= regime.min_confidence]
        assert {r.id for r in filled} - known == {r.id for r in sure} and len(filled) == len(labels) + len(sure)
        assert fill(regime, records, [], "labels") == labels
        assert {r.id for r in fill(regime, records, there, "answers")} >= {r.id for r in sure}


def test_sure_answers_look_at_no_label_and_agreed_ones_at_all(train):
    said = [
        replace(r, response=r.response if n % 3 else "said", metadata=r.metadata | {"confidence": (n % 10) / 10})
        for n, r in enumerate(train)
    ]
    sure = [record for record in said if record.metadata["confidence"] >= 0.75]
    for name in ("all", "wrong40", "few5"):
        records = REGIMES[name].label(train)
        labels = {record.id: record.response for record in records if record.labelled}
        assert fill(REGIMES[name], records, said, "sure-answers") == sure
        agreed = fill(REGIMES[name], records, said, "agreed")
        assert agreed == [record for record in sure if labels.get(record.id, record.response) == record.response]
        assert 0 < len(agreed) < len(sure)


def test_the_blind_arm_reads_the_same_labels_and_no_picture(tmp_path, train):
    world = World(tmp_path, Scale())
    write_prepared(tmp_path / "base" / "stage2", tmp_path, {"train": train, "val": train[:5]}, {})
    write_prepared(tmp_path / "report" / "stage2", tmp_path, {"train": train, "val": train[5:9]}, {})
    blind = make_data(world, REGIMES["wrong40"], "blind")
    wrong = REGIMES["wrong40"].label(train)
    assert [(r.id, r.response) for r in blind.records("train")] == [(r.id, r.response) for r in wrong]
    seen = [*blind.records("train"), *blind.records("val"), *world.blind_report.records("val")]
    assert len(seen) == len(train) + 9 and all(record.image is None for record in seen)


def test_regimes_are_the_same_whenever_they_are_made(train):
    """Cells that were trained on different days must have read the same labels."""
    for regime in REGIMES.values():
        assert regime.label(train) == regime.label(train)


def test_the_two_halves_of_val_share_no_picture(prepared):
    records = prepared.records("val")
    stop, report = halves(records)
    assert {r.image for r in stop}.isdisjoint(r.image for r in report)
    assert sorted(r.id for r in stop + report) == sorted(r.id for r in records)
    assert abs(len({r.image for r in stop}) - len({r.image for r in report})) <= 1


def test_only_what_looks_at_no_label_is_shared_among_regimes():
    names = {(regime.name, reads): data_name(regime, reads) for regime in REGIMES.values() for reads in READS}
    own = {name for (_, reads), name in names.items() if reads == "taught"}
    assert len(own) == len(REGIMES)  # no two regimes teach the same
    assert names["more", "labels"] == names["sure", "labels"] == names["all", "labels"] == names["all", "taught"]
    assert names["few5-sure", "labels"] == names["few5", "labels"] == "few5"
    assert {arm.reads for arm in ARMS.values()} <= set(READS)
