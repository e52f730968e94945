"""The order of an epoch and its shares: nothing lost, nothing twice, and the same whoever asks and whenever."""

from collections import Counter

import pytest
import torch

from embervlm.batch.collate import Collator
from embervlm.batch.dataset import RecordDataset
from embervlm.batch.sampler import NOTHING, ImageMajorSampler, RankBatches, parse_weights
from embervlm.data.record import Record
from embervlm.errors import UserError
from embervlm.model.modeling import EmberVLM


def records(**counts: int) -> list[Record]:
    """So many records of each source, three to a picture; sources share pictures."""
    return [
        Record(f"{source}-{n}", f"{n // 3}.jpg", "q", "a", metadata={"source": source})
        for source, count in counts.items()
        for n in range(count)
    ]


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 2, 5, 8, 13, 24])
def test_processes_share_an_epoch_without_overlap_or_loss(ranks: int, batch_size: int, count: int) -> None:
    """Padding the last step with the first samples, as is usual, reads those twice an epoch."""
    order = ImageMajorSampler(records(vqa=count), seed=1)
    shares = [list(RankBatches(order, batch_size, rank, ranks)) for rank in range(ranks)]
    assert {len(share) for share in shares} == {len(RankBatches(order, batch_size, 0, ranks))}
    together = list(RankBatches(order, batch_size * ranks))
    for step, batches in enumerate(zip(*shares, strict=True)):
        read = [index for batch in batches for index in batch if index != NOTHING]
        assert read == together[step], "a step of several processes is the step of one with the whole batch"
        sizes = [sum(index != NOTHING for index in batch) for batch in batches]
        assert max(sizes) - min(sizes) <= 1 and max(sizes) <= batch_size
        assert all(batches), "a process without a batch would leave the others waiting"
    assert sorted(index for batch in together for index in batch) == list(range(count))


def test_a_sample_of_nothing_changes_no_gradient_but_has_one() -> None:
    """A process whose share is empty still takes part in the step of all."""
    model = EmberVLM.from_preset("tiny", unfreeze_vision=0).train()
    data = RecordDataset([Record("a", None, "q", "a")], __file__, model.processor, 64)
    batch = Collator(model.processor)([data[NOTHING]])
    outputs = model(**{name: value for name, value in batch.items() if name != "labels"}, num_items_in_batch=7)
    outputs.loss.backward()
    assert outputs.loss.item() == 0 and int(outputs.parts.n_labels) == 0
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(grad is not None and not grad.any() for grad in gradients)


def test_weights_give_each_source_its_share_and_each_record_its_turn() -> None:
    """A fixed half would leave the other half of a source unread for ever."""
    data = records(vqa=9, llava=6, okvqa=5)
    weights = {"vqa": 0.5, "okvqa": 2.0}
    order = ImageMajorSampler(data, seed=4, weights=weights)
    assert order.taken == {"vqa": (4, 9), "llava": (6, 6), "okvqa": (10, 5)} and len(order) == 20
    seen: Counter[str] = Counter()
    for epoch in range(9):
        order.set_epoch(epoch)
        read = [data[index] for index in order]
        assert len(read) == 20 == len(list(order))
        assert Counter(r.metadata["source"] for r in read) == {"vqa": 4, "llava": 6, "okvqa": 10}
        seen.update(r.id for r in read)
    assert {seen[f"vqa-{n}"] for n in range(9)} == {4}
    assert {seen[f"llava-{n}"] for n in range(6)} == {9}
    assert {seen[f"okvqa-{n}"] for n in range(5)} == {18}
    again = ImageMajorSampler(data, seed=4, weights=weights)
    again.set_epoch(8)
    assert list(again) == list(order)


def test_weights_keep_the_samples_of_a_picture_together() -> None:
    """Drawn one by one, half of the questions would need nearly all of the pictures."""
    data = records(vqa=300)
    pictures = {data[index].image for index in ImageMajorSampler(data, seed=0, weights={"vqa": 0.5})}
    assert 50 <= len(pictures) <= 51


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vqa"], "takes NAME=TIMES"),
        (["vqa=-1"], "0 or more"),
        (["vqa=nan"], "0 or more"),
        (["vqav2=1"], "the sources of this data are llava, vqa"),
        (["vqa=0", "llava=0"], "nothing to read"),
    ],
)
def test_weights_that_mean_nothing_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_weights(words, records(vqa=1, llava=1))


def test_the_default_weights_nothing() -> None:
    assert parse_weights(None, records(vqa=1)) is None
    assert parse_weights(("vqa=0.5",), records(vqa=1)) == {"vqa": 0.5}


def test_skipping_reads_nothing() -> None:
    """transformers skips over the list of batches; a sampler that made samples would decode all of them again."""
    from accelerate import skip_first_batches
    from accelerate.data_loader import prepare_data_loader

    class Data(torch.utils.data.Dataset[int]):
        read: list[int] = []

        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int) -> int:
            self.read.append(index)
            return index

    order = ImageMajorSampler(records(vqa=24), seed=1)
    loader = prepare_data_loader(
        torch.utils.data.DataLoader(Data(), batch_sampler=RankBatches(order, 4)), num_processes=1, process_index=0
    )
    left = [batch.tolist() for batch in skip_first_batches(loader, 4)]
    assert left == list(RankBatches(order, 4))[4:]
    assert Data.read == [index for batch in left for index in batch]
