"""KL between student and teacher equals what the full distributions give."""

import math
from dataclasses import asdict, dataclass

import pytest
import torch

from embervlm import EmberVLM
from embervlm.batch.collate import Collator
from embervlm.batch.dataset import RecordDataset
from embervlm.batch.targets import TeacherTargets
from embervlm.distill.targets import build_token_map
from embervlm.evaluate.divergence import measure_divergence
from embervlm.processes import ALONE, Processes
from embervlm.tokens import fingerprint, token_bytes
from tests.evaluate.world import outputs_of


@pytest.fixture(scope="module")
def other() -> EmberVLM:
    torch.manual_seed(1)
    model = EmberVLM.from_preset("tiny").eval()
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3 * parameter.std().nan_to_num(0))
    return model


def _targets(teacher: EmberVLM, student: EmberVLM, records, root, top_k: int) -> TeacherTargets:
    said = outputs_of(teacher, records, root, top_k)
    tokenizer = student.processor.tokenizer
    words = token_bytes(tokenizer)
    token_map = build_token_map(words, fingerprint(tokenizer), tokenizer.eos_token_id, tokenizer)
    return TeacherTargets(lambda wanted: [said[record.id] for record in wanted], token_map, tokenizer)


def _logp(model: EmberVLM, records, root) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [N, V] at the labelled positions, and the labels, in fp64."""
    dataset = RecordDataset(records, root, model.processor, 256)
    rows, labels = [], []
    for at in range(len(dataset)):
        batch = Collator(model.processor)([dataset[at]])
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        kept = batch["shift_labels"][0] != -100
        with torch.inference_mode():
            rows.append(model(**inputs, use_cache=False).logits[0][kept].double().log_softmax(-1))
        labels.append(batch["shift_labels"][0][kept])
    return torch.cat(rows), torch.cat(labels)


def test_a_student_is_not_far_from_itself(student, prepared):
    records = prepared.records("val")
    targets = _targets(student, student, records, prepared.image_root, 16)
    found = measure_divergence(student, records, prepared.image_root, targets, batch_size=5, max_length=256)
    assert found.student_teacher == pytest.approx(0, abs=1e-4) and found.teacher_student == pytest.approx(0, abs=1e-4)
    assert found.top1_agreement == 1 and found.anchored == 1 and found.records == len(records)


def test_whole_vocabulary_gives_the_exact_kl_both_ways(student, other, prepared):
    """Were rows of labels and targets shifted against each other, or T applied to one side, this would not hold."""
    records, root = prepared.records("val")[:6], prepared.image_root
    vocabulary = student.get_output_embeddings().weight.shape[0]
    targets = _targets(other, student, records, root, vocabulary)
    found = measure_divergence(student, records, root, targets, temperature=2.0, batch_size=4, max_length=256)
    q, labels = _logp(student, records, root)
    p, _ = _logp(other, records, root)
    assert found.tokens == len(labels)
    assert found.teacher_student == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-3)
    assert found.student_teacher == pytest.approx(float((q.exp() * (q - p)).sum(1).mean()), rel=1e-3)
    p2, q2 = (p / 2).log_softmax(-1), (q / 2).log_softmax(-1)
    assert found.teacher_student_at_t == pytest.approx(float((p2.exp() * (p2 - q2)).sum(1).mean()), rel=1e-3)
    assert found.student_teacher_at_t == pytest.approx(float((q2.exp() * (q2 - p2)).sum(1).mean()), rel=1e-3)
    assert found.top1_agreement == pytest.approx(float((p.argmax(1) == q.argmax(1)).double().mean()))
    nats = -float(q.gather(1, labels[:, None]).sum())
    assert found.ce_per_token == pytest.approx(nats / len(labels), rel=1e-4)
    size = sum(len(answer.encode()) for record in records for _, answer in record.turns())
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-4)


def test_a_short_list_gives_a_lower_bound(student, other, prepared):
    records, root = prepared.records("val")[:6], prepared.image_root
    whole = measure_divergence(
        student, records, root, _targets(other, student, records, root, 2000), batch_size=6, max_length=256
    )
    short = measure_divergence(
        student, records, root, _targets(other, student, records, root, 8), batch_size=6, max_length=256
    )
    assert 0 < short.teacher_student < whole.teacher_student


def test_training_mode_is_left_as_it_was(student, prepared):
    records = prepared.records("val")[:2]
    targets = _targets(student, student, records, prepared.image_root, 4)
    student.train()
    measure_divergence(student, records, prepared.image_root, targets, max_length=256)
    assert student.training
    student.eval()


def test_two_processes_measure_what_one_does(student, other, prepared):
    records, root = prepared.records("val"), prepared.image_root
    targets = _targets(other, student, records, root, 16)

    @dataclass(frozen=True)
    class Told(Processes):
        """A process that is told what each of the two gathered."""

        parts: tuple = ()

        def gather(self, value):
            parts.append(value)
            return list(self.parts) or [value]

    def measure(processes):
        return measure_divergence(
            student, records, root, targets, temperature=2.0, batch_size=3, max_length=256, processes=processes
        )

    parts: list = []
    for rank in (0, 1):
        measure(Told(rank, 2))
    told = tuple(parts)
    both = [measure(Told(rank, 2, told)) for rank in (0, 1)]
    alone = asdict(measure(ALONE))
    for found in map(asdict, both):
        assert found.pop("most_different")[0] == alone["most_different"][0]
        assert found.pop("by_place")[0] == pytest.approx(alone["by_place"][0])
        assert found == pytest.approx({name: alone[name] for name in found})
