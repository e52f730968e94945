"""What is read off single positions, against brute force."""

import numpy as np
import pytest
import torch

from embervlm.distill.loss import LossOptions, chunked_loss
from embervlm.distill.targets import Targets
from embervlm.evaluate.positions import Positions, by_place, calibration_error, compare, join, most_different


def random_targets(rng: np.random.Generator, n: int, vocabulary: int, sets: bool) -> Targets:
    width = 5
    ids = np.stack([rng.permutation(vocabulary)[:width] for _ in range(n)])
    ids[rng.random(ids.shape) < 0.2] = -1
    events = np.minimum(rng.integers(0, width, ids.shape), np.arange(width)) if sets else None
    mass = np.zeros(ids.shape)
    place = np.broadcast_to(np.arange(width), ids.shape) if events is None else events
    for row in range(n):
        for column in range(width):
            if ids[row, column] >= 0:
                mass[row, place[row, column]] += rng.random()
    total = mass.sum(1) + rng.random(n)
    has_target = rng.random(n) < 0.8
    return Targets(
        torch.from_numpy(ids),
        torch.from_numpy(mass / total[:, None]).float(),
        torch.from_numpy(1 - mass.sum(1) / total).float(),
        torch.from_numpy(has_target),
        None if events is None else torch.from_numpy(events),
    )


@pytest.mark.parametrize("sets", [False, True])
def test_the_sums_over_positions_are_those_of_the_loss(sets: bool):
    """Two ways to one number: what evaluation reports is what training minimises."""
    rng = np.random.default_rng(0)
    n, vocabulary, width = 60, 40, 8
    torch.manual_seed(0)
    head = torch.nn.Linear(width, vocabulary)
    hidden, labels = torch.randn(n, width), torch.randint(vocabulary, (n,))
    targets = random_targets(rng, n, vocabulary, sets)
    found = compare(hidden, head, labels, targets, None, 1.0)
    parts = chunked_loss(hidden, head.weight, head.bias, labels, targets, LossOptions(1.0, 1.0, 1.0))
    assert found["teacher_student"].sum() == pytest.approx(float(parts.kd_sum.detach()), rel=1e-4)
    assert found["student_teacher"].sum() == pytest.approx(float(parts.reverse_kd_sum.detach()), rel=1e-4)
    assert found["cross_entropy"].sum() == pytest.approx(float(parts.ce_sum.detach()), rel=1e-4)
    assert (found["best"] == labels.numpy()).sum() == int(parts.n_correct)
    assert not found["student_teacher"][~targets.has_target.numpy()].any()
    assert (found["teacher_best"] == -1).sum() == (~targets.has_target).sum()
    tempered = compare(hidden, head, labels, targets, targets, 3.0)
    at_three = chunked_loss(hidden, head.weight, head.bias, labels, targets, LossOptions(1.0, 1.0, 3.0))
    assert tempered["teacher_student_at_t"].sum() == pytest.approx(float(at_three.kd_sum.detach()), rel=1e-4)
    assert tempered["teacher_student"] == pytest.approx(found["teacher_student"])


def test_calibration_error_by_hand():
    sure = np.full(10, 0.9)
    assert calibration_error(sure, np.arange(10) < 9) == pytest.approx(0)
    assert calibration_error(sure, np.zeros(10, bool)) == pytest.approx(0.9)
    # Half of the positions too sure by 0.4, half too unsure by 0.2: their errors do not cancel out.
    mixed, right = np.array([0.9] * 10 + [0.3] * 10), np.array([1, 0] * 5 + [1, 0] * 5, bool)
    assert calibration_error(mixed, right) == pytest.approx(0.5 * 0.4 + 0.5 * 0.2)
    assert calibration_error(np.ones(4), np.ones(4, bool)) == 0


def test_calibration_error_by_brute_force():
    rng = np.random.default_rng(1)
    probability, right = rng.random(500), rng.random(500) < 0.5
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (probability >= low) & (probability < low + 1 / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - probability[inside].mean())
    assert calibration_error(probability, right) == pytest.approx(total)


def _positions(place: list[int], kl: list[float], record: list[int]) -> Positions:
    n = len(place)
    zeros, ints = np.zeros(n, np.float32), np.zeros(n, np.int32)
    return Positions(
        np.array(record), ints, np.array(place), ints, np.ones(n, bool), np.array(kl), 2 * np.array(kl), zeros, zeros,
        zeros, ints, zeros, ints, zeros,
    )  # fmt: skip


def test_lines_by_place_hold_every_position_once():
    found = by_place(_positions([0, 0, 1, 2, 3, 7, 30], [1, 3, 5, 6, 8, 9, 4], [0] * 7))
    assert [(line["place"], line["n"], line["student_teacher"]) for line in found] == [
        ("1", 2, 2), ("2", 1, 5), ("3 to 4", 2, 7), ("5 to 8", 1, 9), ("17 on", 1, 4),
    ]  # fmt: skip
    assert found[0]["teacher_student"] == 4


def test_the_worst_positions_come_first_one_of_each_record(student, prepared):
    records = prepared.records("val")[:3]
    positions = join([_positions([0, 0], [0.5, 2.0], [0, 1]), _positions([0, 1], [1.0, 3.0], [2, 1])])
    found = most_different(positions, records, student.processor.tokenizer)
    assert [row["record"] for row in found] == [records[1].id, records[2].id, records[0].id]
    first = student.processor.tokenizer(records[1].response)["input_ids"][:1]
    assert found[0]["so_far"] == student.processor.tokenizer.decode(first) and found[0]["question"] == "Is it red?"
