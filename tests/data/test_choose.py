"""Subsets keep the shares of the answer types, and are the same for the same seed."""

from collections import Counter

import pytest

from embervlm.data.choose import picture_of, subset, val_pictures

KINDS = ["other"] * 494 + ["yes/no"] * 376 + ["number"] * 130


@pytest.mark.parametrize("wanted", [1, 7, 100, 333, 999])
def test_every_answer_type_keeps_its_share(wanted: int) -> None:
    kept = subset(KINDS, wanted, 42, "vqa")
    assert len(kept) == len(set(kept)) == wanted and kept == sorted(kept)
    counts = Counter(KINDS[i] for i in kept)
    for kind, share in (("other", 0.494), ("yes/no", 0.376), ("number", 0.130)):
        assert abs(counts[kind] - share * wanted) < 1


def test_the_seed_and_nothing_else_decides() -> None:
    assert subset(KINDS, 100, 1, "vqa") == subset(KINDS, 100, 1, "vqa") != subset(KINDS, 100, 2, "vqa")


def test_zero_and_too_many_keep_all() -> None:
    assert subset([None] * 5, 0, 1, "llava") == subset([None] * 5, 9, 1, "llava") == [0, 1, 2, 3, 4]
    assert len(subset([None] * 5, 3, 1, "llava")) == 3


def test_val_gets_at_least_one_picture_and_only_then() -> None:
    assert len(val_pictures("abc", 0.01, 1)) == 1 and val_pictures("abc", 0.0, 1) == set()
    assert val_pictures("abcab", 0.5, 1) == val_pictures("cba", 0.5, 1)


def test_pictures_are_the_same_under_all_of_cocos_names() -> None:
    names = ("COCO_train2014_000000000007.jpg", "coco/train2017/000000000007.jpg", "converted/000000000007.jpg")
    assert {picture_of("x", name) for name in names} == {"000000000007"} and picture_of("x", None) == "text:x"
