"""Whole runs of a few steps: what they leave on disk, that they continue exactly, and what stops them."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from embervlm import EmberVLM
from embervlm.batch.dataset import RecordDataset
from embervlm.errors import UserError
from embervlm.train import build, checkpoint, interrupt, run
from tests.train.small_world import NAN, evaluations_say, make_world, settings

GUIDE_FILES = {"pytorch_model.bin", "optimizer.pt", "scheduler.pt", "config.json", "training_args.json"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world") / "data")


def history(folder, name):
    """{step: value} of one metric in metrics.json."""
    entries = json.loads((folder / "metrics.json").read_text())["history"]
    return {entry["step"]: entry[name] for entry in entries if name in entry}


def same(one, other):
    """To the bit; kernels of a GPU add up in any order, so that no two runs agree there."""
    if torch.cuda.is_available():
        assert one == pytest.approx(other, rel=1e-4)
    else:
        assert one == other


def test_both_stages_leave_what_the_guide_says(data, tmp_path, capsys):
    assert run.run_train(settings(data, tmp_path, stages=(1, 2), max_steps=2, save_steps=1, warmup_steps=1000)) == 0
    for stage in (1, 2):
        folder = tmp_path / f"stage{stage}"
        names = {path.name for path in folder.iterdir()}
        assert names == {"checkpoint-1", "checkpoint-2", "checkpoint-final", "metrics.json"}
        for checkpoint_name in ("checkpoint-1", "checkpoint-final"):
            files = {path.name for path in (folder / checkpoint_name).iterdir()}
            assert GUIDE_FILES | {"trainer_state.json", "rng_state.pth", "tokenizer.json"} <= files
            assert "training_args.bin" not in files
            assert ("model.safetensors" in files) == (checkpoint_name == "checkpoint-final")
        assert set(history(folder, f"stage{stage}/sft_loss")) == {1, 2}
        assert history(folder, f"stage{stage}/learning_rate")[1] > 0
    written = json.loads((tmp_path / "stage2/checkpoint-2/training_args.json").read_text())
    assert written["stage"] == 2 and written["settings"]["batch_size"] == 3
    assert (written["settings"]["warmup_steps"], written["warmup_steps"]) == (1000, 0)  # asked for, done
    assert set(history(tmp_path / "stage2", "stage2/vqa_accuracy")) == {2}
    out = capsys.readouterr().out
    assert "language model" in out and "1,087,916" in out  # the parameter table
    assert "student reads" in out
    assert "Warm-up: 0 steps instead of 1000" in out
    assert f"Weights: {tmp_path}/stage1/checkpoint-final (Stage 1, step 2)" in out
    assert "Stage 2 done" in out


def test_the_two_weight_files_of_the_best_checkpoint_agree(data, tmp_path):
    """from_pretrained prefers model.safetensors: a stale one would win over pytorch_model.bin without a word."""
    run.run_train(settings(data, tmp_path, max_steps=2, eval_steps=1))
    final = tmp_path / "stage2/checkpoint-final"
    loaded = EmberVLM.from_pretrained(final).state_dict()
    kept = torch.load(final / "pytorch_model.bin", weights_only=True)
    assert {value.device.type for value in kept.values()} == {"cpu"}  # also after training on a GPU
    assert loaded.keys() == kept.keys()
    assert all(torch.equal(loaded[name], kept[name]) for name in kept)
    assert EmberVLM.from_pretrained(tmp_path / "stage2/checkpoint-2").processor is not None


@pytest.mark.parametrize("at", [3, 4])
def test_a_resumed_run_is_bit_equal_to_a_straight_one(data, tmp_path, at):
    """An epoch has 4 steps here: 3 is in the middle of one, 4 on the border."""
    run.run_train(settings(data, tmp_path / "straight", max_steps=6, save_steps=at, eval_steps=2))
    resume = tmp_path / "straight/stage2" / f"checkpoint-{at}"
    run.run_train(settings(data, tmp_path / "resumed", max_steps=6, save_steps=at, eval_steps=2, resume_from=resume))
    for name in ("sft_loss", "grad_norm", "learning_rate", "eval_loss"):
        straight, resumed = (history(tmp_path / way / "stage2", f"stage2/{name}") for way in ("straight", "resumed"))
        same(straight, resumed)
    one, two = (
        torch.load(tmp_path / way / "stage2/checkpoint-6/pytorch_model.bin", weights_only=True)
        for way in ("straight", "resumed")
    )
    near = dict(rtol=1e-3, atol=1e-4) if torch.cuda.is_available() else dict(rtol=0, atol=0)
    for name in one:
        torch.testing.assert_close(one[name], two[name], **near)


def test_a_resumed_run_reads_only_what_is_left(data, tmp_path, monkeypatch):
    """Decoding every batch before the step takes as long as the training did, on a large set."""
    read: list[int] = []
    real = RecordDataset.__getitem__
    monkeypatch.setattr(RecordDataset, "__getitem__", lambda self, at: (read.append(at), real(self, at))[1])
    for name in ("announce", "summarise"):
        monkeypatch.setattr(run, name, lambda *args: None)
    monkeypatch.setattr(build, "build_evaluation", lambda *args: lambda model, step: {"eval_loss": 1.0})
    run.run_train(settings(data, tmp_path / "a", max_steps=6, save_steps=3))
    straight, read[:] = list(read), []
    run.run_train(settings(data, tmp_path / "b", max_steps=6, resume_from=tmp_path / "a/stage2/checkpoint-3"))
    # An epoch has 4 steps of 3; the loader is one batch ahead.
    assert straight[9:18] == read[:9] and len(read) == 12


def test_sources_are_weighted_and_the_time_spent_waiting_is_told(data, tmp_path, capsys):
    run.run_train(settings(data, tmp_path, max_steps=-1, epochs=1, source_weights=("llava_instruct=0.5",)))
    out = capsys.readouterr().out
    assert "An epoch reads 4 of 4 vqa_v2 (50%), 4 of 8 llava_instruct (50%)." in out
    assert "3 steps of 3 samples" in out and "Waiting for data took" in out and "wait " in out
    assert all(0 <= share <= 1 for share in history(tmp_path / "stage2", "stage2/data_wait_share").values())
    speeds = (history(tmp_path / "stage2", f"stage2/{what}_per_second") for what in ("samples", "tokens"))
    for samples, tokens in zip(*(speed.values() for speed in speeds), strict=True):
        assert 0 < samples < tokens  # a sample has several tokens


def test_looking_does_not_change_the_training(data, tmp_path):
    for way, every in (("often", 1), ("never", 100)):
        run.run_train(settings(data, tmp_path / way, max_steps=3, eval_steps=every))
    often, never = (history(tmp_path / way / "stage2", "stage2/sft_loss") for way in ("often", "never"))
    same(often, never)


def test_stage_2_takes_weights_only_from_any_stage_1_checkpoint(data, tmp_path, capsys):
    run.run_train(settings(data, tmp_path / "a", stages=(1,), max_steps=2, save_steps=1))
    first = tmp_path / "a/stage1/checkpoint-1"
    run.run_train(settings(data, tmp_path / "b", resume_from=first, max_steps=1, learning_rate=0.0))
    assert f"Weights: {first} (Stage 1, step 1)" in capsys.readouterr().out
    before = torch.load(first / "pytorch_model.bin", weights_only=True)
    after = torch.load(tmp_path / "b/stage2/checkpoint-1/pytorch_model.bin", weights_only=True)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert all("running_" in name or "num_batches" in name for name in moved)  # BatchNorm counts, nothing is learnt
    assert json.loads((tmp_path / "b/stage2/checkpoint-1/trainer_state.json").read_text())["global_step"] == 1


def test_accumulated_batches_are_one_big_batch(data, tmp_path, monkeypatch):
    """Dividing each micro-batch by its own labels would weigh short answers more than long ones."""
    real = build.build_model

    def frozen_vision(*args):
        model = real(*args)
        model.unfreeze_vision(0)  # BatchNorm in training mode would see other batches
        return model

    monkeypatch.setattr(run, "build_model", frozen_vision)
    for way, size, accumulate in (("one", 6, 1), ("two", 2, 3)):
        run.run_train(
            settings(data, tmp_path / way, max_steps=2, batch_size=size, gradient_accumulation_steps=accumulate)
        )
    one, two = (history(tmp_path / way / "stage2", "stage2/total_loss") for way in ("one", "two"))
    close = 1e-4 if torch.cuda.is_available() else 1e-5
    assert one == pytest.approx(two, rel=close)
    one, two = (history(tmp_path / way / "stage2", "stage2/sft_loss") for way in ("one", "two"))
    assert one == pytest.approx(two, rel=close)


@pytest.mark.parametrize(
    ("metric", "measured"),
    [
        ("vqa_accuracy", {"eval_loss": (0.3, 0.5, 0.8), "vqa_accuracy": (0.4, 0.6, 0.5)}),
        (
            "instruct_score",
            {"eval_loss": (0.3, 0.5, 0.8), "vqa_accuracy": (0.4, 0.6, 0.7), "instruct_score": (1, 2, 1)},
        ),
        ("eval_loss", {"eval_loss": (0.8, 0.3, 0.5), "vqa_accuracy": (0.4, 0.5, 0.6)}),
        ("vqa_accuracy", {"eval_loss": (0.8, 0.3, 0.5)}),  # nothing but long answers in val
        ("vqa_accuracy", {"eval_loss": (0.3, 0.2, 0.8), "vqa_accuracy": (0.6, 0.6, 0.6)}),  # of equals the lower loss
        ("vqa_accuracy", {"eval_loss": (0.3, 0.3, 0.3), "vqa_accuracy": (0.6, 0.6, 0.5)}),  # or the later
        ("vqa_accuracy", {"eval_loss": (0.3, 0.5, 0.8), "vqa_accuracy": (NAN, 0.6, NAN)}),
    ],
)
def test_checkpoint_final_is_the_best_not_the_last(data, tmp_path, monkeypatch, metric, measured):
    evaluations_say(monkeypatch, **measured)
    asked = settings(data, tmp_path, max_steps=3, eval_steps=1, save_steps=1, metric_for_best_model=metric)
    run.run_train(asked)
    final, second, last = (
        torch.load(tmp_path / f"stage2/checkpoint-{name}/pytorch_model.bin", weights_only=True)
        for name in ("final", 2, 3)
    )
    assert all(torch.equal(final[name], second[name]) for name in final)
    assert not all(torch.equal(final[name], last[name]) for name in final)
    told = json.loads((tmp_path / "stage2/metrics.json").read_text())
    assert told["best_step"] == 2
    assert told["summary"]["best_by"] == (metric if metric in measured else "eval_loss")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "No space left on device; [0-9,]+ MB are free"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), "the write ended early; "),
    ],
)
def test_a_write_that_fails_in_the_middle_leaves_whole_checkpoints_only(data, tmp_path, monkeypatch, error, said):
    real, calls = torch.save, []

    def fails_at_last(content, path, **options):
        calls.append(path)
        if "checkpoint-2" in str(path) and "optimizer" in str(path):
            with open(path, "wb") as file:
                file.write(b"half")
            raise error
        return real(content, path, **options)

    monkeypatch.setattr(torch, "save", fails_at_last)
    with pytest.raises(UserError, match=f"checkpoint-2 could not be written.*{said}"):
        run.run_train(settings(data, tmp_path, save_steps=1))
    assert {path.name for path in (tmp_path / "stage2").glob("*checkpoint*")} == {"checkpoint-1"}
    assert checkpoint.open_checkpoint(tmp_path / "stage2/checkpoint-1").resumable


def test_no_steps_are_refused(data, tmp_path):
    """Not taken for "after the epochs", as -1 is."""
    with pytest.raises(UserError, match="--max_steps 0 would train nothing"):
        run.run_train(settings(data, tmp_path, max_steps=0))


def test_a_loss_that_is_no_number_stops_the_run_and_saves_nothing(data, tmp_path, monkeypatch):
    real = build.build_model

    def broken(*args):
        model = real(*args)
        with torch.no_grad():
            model.projector.narrow.bias.fill_(float("nan"))
        return model

    monkeypatch.setattr(run, "build_model", broken)
    with pytest.raises(UserError, match="loss became nan at step 1.*--learning_rate"):
        run.run_train(settings(data, tmp_path, save_steps=1))
    assert not list(tmp_path.rglob("checkpoint-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(data, tmp_path, monkeypatch, capsys, number):
    def press(self, args, state, control, **kwargs):
        if state.global_step == 1:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(run.ProgressBar, "on_step_begin", press)
    before = signal.getsignal(number)
    assert run.run_train(settings(data, tmp_path, max_steps=5)) == 130
    assert signal.getsignal(number) is before
    stopped = tmp_path / "stage2/checkpoint-2"
    assert f"--stages 2 --resume_from {stopped}" in capsys.readouterr().out
    monkeypatch.undo()
    assert run.run_train(settings(data, tmp_path, max_steps=5, resume_from=stopped)) == 0
    assert set(history(tmp_path / "stage2", "stage2/sft_loss")) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(("stages", "code"), [((2,), 0), ((1, 2), 130)])
def test_a_signal_in_the_last_evaluation_finds_the_run_complete(data, tmp_path, monkeypatch, capsys, stages, code):
    """It was told to go on from the last step, where nothing is left to train."""

    def press(self, args, state, control, **kwargs):
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(run.ProgressBar, "on_evaluate", press)
    assert run.run_train(settings(data, tmp_path, max_steps=2, stages=stages)) == code
    out = " ".join(capsys.readouterr().out.split())
    first = tmp_path / f"stage{stages[0]}"
    assert (first / "checkpoint-final").is_dir() and "--resume_from" not in out
    assert ("Stage 1 is complete; go on with --stages 2" in out) is (code == 130)


def test_a_run_with_loading_processes_comes_to_its_end(data, tmp_path):
    """They outlive the first SIGTERM; python, when it ends, sends one to each and waits."""
    words = ["--preset", "tiny", "--data_dir", str(data), "--output_dir", str(tmp_path), "--disable_distillation"]
    words += ["--max_steps", "2", "--batch_size", "3", "--dataloader_workers", "2"]
    subprocess.run([sys.executable, "-m", "embervlm.cli", "train", *words], check=True, timeout=240)
    assert (tmp_path / "stage2/checkpoint-final").is_dir()


def test_one_press_that_arrives_twice_is_one_press(monkeypatch, capfd):
    """The terminal and torchrun both deliver it; taken for two, it would end the run without a checkpoint."""
    clock = [100.0]
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: clock[0])
    with interrupt.StopOnSignal(speaks=True) as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.stopped
        assert capfd.readouterr().err.count("Stopping after this step") == 1
        clock[0] += 10
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_torn_picture_is_one_sentence_from_any_process(tmp_path, workers):
    """torch would hand over the traceback of the loader's process as the message."""
    data = make_world(tmp_path / "data")
    for picture in (data / "images").iterdir():
        picture.write_bytes(picture.read_bytes()[:50])
    with pytest.raises(UserError) as caught:
        run.run_train(settings(data, tmp_path / "out", dataloader_workers=workers))
    said = str(caught.value)
    assert said.startswith("Record train-") and ".png" in said
    assert "Traceback" not in said and "\n" not in said


def test_a_finished_run_says_that_there_is_nothing_left(data, tmp_path):
    run.run_train(settings(data, tmp_path, max_steps=1))
    with pytest.raises(UserError, match="1 steps behind it.*--epochs"):
        run.run_train(settings(data, tmp_path, max_steps=1, resume_from=tmp_path / "stage2/checkpoint-1"))


def test_epochs_give_the_announced_steps(data, tmp_path, capsys):
    run.run_train(settings(data, tmp_path, max_steps=-1, epochs=1, batch_size=5))
    assert "3 steps of 5 samples" in capsys.readouterr().out
    assert max(history(tmp_path / "stage2", "stage2/sft_loss")) == 3


def test_each_part_has_its_own_learning_rate(data, tmp_path):
    run.run_train(settings(data, tmp_path, max_steps=1, vision_learning_rate=1e-5, projector_learning_rate=3e-4))
    groups = torch.load(tmp_path / "stage2/checkpoint-1/optimizer.pt", weights_only=True)["param_groups"]
    assert sorted({group["initial_lr"] for group in groups}) == [1e-5, 3e-4, 1e-3]
    assert {group["weight_decay"] for group in groups} == {0.0, 0.01}


def test_half_precision_without_a_gpu_is_said(data, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    run.run_train(settings(data, tmp_path, max_steps=1, fp16=True, max_length=512))
    out = capsys.readouterr().out
    assert "--fp16 needs a GPU; float32 is used" in out
    assert "max_length 512 becomes 256" in out
