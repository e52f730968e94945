"""Names of shards: the same whoever builds, past those of other splits, and never one that is taken."""

from __future__ import annotations

import pytest

from embervlm.data.record import Record
from embervlm.teachers.plan import Shard, name_shards, plan_shards


def plan_of(**counts: int) -> list[Shard]:
    """Shards of one record each."""
    return plan_shards(
        {split: [Record(f"{split}{n}", None, "?", "!") for n in range(counts[split])] for split in counts}, 1
    )


def named(plan: list[Shard], **there: str) -> str:
    """Numbers of the plan's shards; `there`: a shard's record -> its number on the disk. A star: it is there."""
    placed = {
        (record.rstrip("0123456789"), record): f"other_batch_{number}.safetensors" for record, number in there.items()
    }
    names = name_shards(plan, placed)
    assert len({name for name, _ in names} | set(placed.values())) == len(
        set(placed) | {(s.split, s.records[0].id) for s in plan}
    )
    return " ".join(name.removeprefix("other_batch_").removesuffix(".safetensors") + "*" * here for name, here in names)


@pytest.mark.parametrize(
    ("there", "names"),
    [
        ({}, "0 1 2 3 4"),
        ({"train0": "0", "train2": "2"}, "0* 1 2* 3 4"),  # two processes, killed
        ({"val1": "4"}, "0 1 2 3 4*"),
        ({"train0": "0", "train1": "1", "train2": "2"}, "0* 1* 2* 3 4"),
        ({"val0": "0", "val1": "1"}, "2 3 4 0* 1*"),  # val was built first
        ({"val1": "1"}, "2 3 4 0 1*"),
        ({"train0": "7", "val0": "8"}, "7* 1 2 8* 9"),
    ],
)
def test_shards_that_are_missing_are_numbered_past_the_others(there: dict[str, str], names: str) -> None:
    assert named(plan_of(train=3, val=2), **there) == names


def test_the_shards_of_another_split_are_not_taken_for_ones_own() -> None:
    train = {f"train{n}": str(n) for n in range(3)}
    assert named(plan_of(val=5), **train) == "3 4 5 6 7"
    assert named(plan_of(val=5), **train, val2="5") == "3 4 5* 6 7"
    assert named(plan_of(train=3), **train) == "0* 1* 2*"
