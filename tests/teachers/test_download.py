"""`embervlm download-teacher` against a hub on this machine: what was fetched stays, and is what the hub has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants

from embervlm.errors import UserError
from embervlm.settings import DownloadSettings, TeacherCheckSettings
from embervlm.teachers import download, fetch, registry
from embervlm.teachers import hub as known
from embervlm.teachers.check import run_test_teacher
from tests.teachers.stub_hub import StubHub, commit_of, digest, serve
from tests.tiny_teacher import make_tiny_teacher

MODEL = "own/tiny"
FILES = {
    "config.json": b'{"model_type": "none"}',
    "model-00001-of-00002.safetensors": os.urandom(600_000),
    "model-00002-of-00002.safetensors": os.urandom(40_000),
    "model.safetensors.index.json": b"{}",
    "pytorch_model.bin": b"the same in another format",
    "original/consolidated.00.pth": b"and in a third",
    "tokenizer.model": b"tokens",
    "README.md": b"# Tiny",
}
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
WANTED = {name for name in FILES if name not in ("pytorch_model.bin", "original/consolidated.00.pth", "README.md")}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A hub with one model, and an empty cache."""
    stub = StubHub()
    stub.add(MODEL, dict(FILES))
    with serve(stub) as url:
        visit(monkeypatch, url, tmp_path / "cache")
        yield stub


def visit(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """What HF_ENDPOINT and HF_HOME do, for a client that is imported already."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)  # what the client writes at once
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", url)
    # transformers keeps a client of its own.
    monkeypatch.setattr("transformers.utils.hub.hf_api", lambda: huggingface_hub.HfApi(endpoint=url))


def get(model: str = MODEL, **options) -> None:
    download.run_download(DownloadSettings(model, **options))


def in_cache(commit: str = commit_of(0)) -> dict[str, bytes]:
    place = known.storage(MODEL) / "snapshots" / commit
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_one_set_of_weights_comes_and_is_listed_before(hub: StubHub, capsys) -> None:
    """Each file once, not the same weights in three formats."""
    get()
    assert in_cache() == {name: FILES[name] for name in WANTED}
    said = told(capsys)
    assert f"600 kB {FIRST}" in said and "5 files, 640 kB" in said and commit_of(0)[:12] in said
    assert "5 checksums right" in said and "test_teacher.py --model own/tiny" in said
    assert sorted(name for name, _ in hub.sent) == sorted(WANTED)
    hub.sent.clear()
    get()
    assert not hub.sent, "what is there and right does not come again"


def test_older_weights_are_fetched_where_there_are_no_others() -> None:
    names = ("config.json", "pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5")
    files = {name: known.Entry(1, "") for name in names}
    assert download.wanted(files) == list(names[:3])


def test_a_line_that_breaks_is_taken_up_where_it_broke(hub: StubHub, monkeypatch, capsys) -> None:
    """The client retries by itself; when it gives up, the next run continues, with the bytes that were there."""
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda seconds: None)
    hub.cut[FIRST] = 200_000
    with pytest.raises(UserError, match="what was fetched is kept"):
        get()
    kept = fetch.partial(MODEL, known.Entry(600_000, digest(FIRST, FILES[FIRST])))
    assert kept.stat().st_size == 200_000 and kept.read_bytes() == FILES[FIRST][:200_000]
    assert FIRST not in in_cache(), "half a file is never in the cache"
    hub.cut.clear()
    hub.sent.clear()
    get()
    assert (FIRST, 200_000) in hub.sent and (FIRST, 0) not in hub.sent
    assert in_cache() == {name: FILES[name] for name in WANTED} and not kept.exists()


def test_a_damaged_file_in_the_cache_is_named_and_fetched_again(hub: StubHub, capsys) -> None:
    """A bit that fell over on the disk would be a teacher that says slightly wrong things."""
    get()
    hub.sent.clear()
    place = known.storage(MODEL) / "snapshots" / commit_of(0) / FIRST
    data = bytearray(FILES[FIRST])
    data[300_000] ^= 1
    place.resolve().write_bytes(data)
    get(verify=False)
    assert not hub.sent
    get()
    assert f"{FIRST} has checksum" in told(capsys) and hub.sent == [(FIRST, 0)]
    assert in_cache()[FIRST] == FILES[FIRST]
    place.resolve().write_bytes(FILES[FIRST][:-5])
    get()
    assert "has 599,995 bytes, not 600,000: deleted" in told(capsys) and in_cache()[FIRST] == FILES[FIRST]


def test_a_small_file_is_checked_by_gits_checksum(hub: StubHub, capsys) -> None:
    get()
    (known.storage(MODEL) / "snapshots" / commit_of(0) / "config.json").resolve().write_bytes(b'{"model_type": "nine"}')
    get()
    assert "config.json has checksum" in told(capsys) and in_cache()["config.json"] == FILES["config.json"]


@pytest.mark.parametrize("times", [1, 2])
def test_what_arrives_damaged_never_enters_the_cache(hub: StubHub, times: int, capsys) -> None:
    hub.damaged[SECOND] = times
    if times == 1:
        get()
        assert in_cache()[SECOND] == FILES[SECOND]
    else:
        with pytest.raises(UserError, match=f"{SECOND} of own/tiny arrived damaged twice"):
            get()
        assert SECOND not in in_cache()
        assert not list((known.storage(MODEL) / "blobs").glob(f"{digest(SECOND, FILES[SECOND])}*"))
    assert f"{SECOND} arrived damaged and is fetched again" in told(capsys)


def test_a_full_disk_is_said_before_the_first_byte(hub: StubHub, monkeypatch) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=500_000))
    with pytest.raises(UserError, match=r"needs 640 kB more .* 500 kB free.*HF_HOME"):
        get()
    assert not hub.sent


def test_what_is_there_needs_no_room(hub: StubHub, monkeypatch) -> None:
    """A download that was stopped continues on a disk that it nearly filled."""
    part = fetch.partial(MODEL, known.Entry(600_000, digest(FIRST, FILES[FIRST])))
    part.parent.mkdir(parents=True)
    part.write_bytes(FILES[FIRST][:590_000])
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=download._SPARE + 51_000))
    get()
    assert (FIRST, 590_000) in hub.sent and in_cache()[FIRST] == FILES[FIRST]


def test_a_disk_that_fills_up_meanwhile_is_a_sentence(hub: StubHub, monkeypatch) -> None:
    def full(self, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch._Counted, "write", full)
    with pytest.raises(UserError, match="could not be written: No space left"):
        get()


@pytest.mark.parametrize(
    ("status", "model", "said"),
    [
        (401, MODEL, "accept its terms .*hf auth login"),
        (403, MODEL, "accept its terms"),
        (500, MODEL, "The hub answers 500"),
        (404, MODEL, "either it does not exist"),
        (0, "own/none", "either it does not exist"),
    ],
)
def test_refusals_are_sentences(hub: StubHub, monkeypatch, status: int, model: str, said: str) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.status[MODEL] = status
    with pytest.raises(UserError, match=said):
        get(model)


def test_without_network(hub: StubHub, monkeypatch, capsys) -> None:
    """What is complete can be used and is checked; what is not is a sentence with what to do."""
    nowhere = "http://127.0.0.1:9"
    visit(monkeypatch, nowhere, Path(constants.HF_HUB_CACHE))
    with pytest.raises(UserError, match="cannot be reached .*what was fetched is kept.*--teacher_model FOLDER"):
        get()
    visit(monkeypatch, hub.url, Path(constants.HF_HUB_CACHE))
    get()
    visit(monkeypatch, nowhere, Path(constants.HF_HUB_CACHE))
    get()
    assert "all 5 files of own/tiny at" in told(capsys)
    place = known.storage(MODEL) / "snapshots" / commit_of(0)
    place.joinpath(SECOND).resolve().write_bytes(b"x" * 40_000)
    place.joinpath("config.json").unlink()
    with pytest.raises(UserError, match=rf"Of 5 files 1 are missing. {SECOND} has checksum"):
        get()


def test_one_commit_stays_until_another_is_asked_for(hub: StubHub, monkeypatch, capsys) -> None:
    """Weights that change between two days of caching would be two teachers in one cache."""
    get()
    newer = hub.add(MODEL, {**FILES, "config.json": b"newer"})
    get()
    assert known.revision_of(MODEL, None) == commit_of(0) and not in_cache(newer)
    get(revision="main")
    assert known.revision_of(MODEL, None) == newer and in_cache(newer)["config.json"] == b"newer"
    assert known.revision_of(MODEL, commit_of(0)) == newer, "what a person chose wins over the registry"
    get()
    assert known.revision_of(MODEL, commit_of(0)) == newer, "also after the same download without the flag"
    with pytest.raises(UserError, match="no revision v9; pass --revision main"):
        get(revision="v9")


def test_the_registrys_commit_is_what_comes(hub: StubHub, monkeypatch, capsys) -> None:
    pinned = commit_of(0)
    hub.add(MODEL, {**FILES, "config.json": b"newer"})
    monkeypatch.setitem(registry.TEACHERS, "tiny", registry.TeacherSpec(MODEL, revision=pinned))
    get("tiny")
    assert in_cache(pinned) and not in_cache(commit_of(1))
    monkeypatch.setitem(registry.TEACHERS, "tiny", registry.TeacherSpec(MODEL, revision="f" * 40))
    with pytest.raises(UserError, match="no revision ffff.*--revision main"):
        get("tiny")


def test_pins_are_whole_commits() -> None:
    """A short hash or a branch would not be one and the same tomorrow."""
    pins = {name: spec.revision for name, spec in registry.TEACHERS.items() if name != "toy-llava"}
    assert all(pin is not None and len(pin) == 40 and set(pin) <= set("0123456789abcdef") for pin in pins.values())


def _heeds_ctrl_c() -> None:
    """A shell starts what runs in its background deaf to SIGINT, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_keeps_what_came_and_the_environment_is_honoured(tmp_path: Path) -> None:
    """The command itself, with HF_ENDPOINT and HF_HOME as a person sets them; stopped in the middle, then again."""
    stub, data = StubHub(), os.urandom(25_000_000)
    stub.add(MODEL, {**FILES, FIRST: data})
    with serve(stub) as url:
        environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-m", "embervlm.cli", "download-teacher", "--model", MODEL]
        stub.cut[FIRST], stub.hold = 15_000_000, threading.Event()  # it waits for the rest, so that it can be stopped
        part = tmp_path / "home/hub/models--own--tiny/blobs" / f"{digest(FIRST, data)}.partial"
        running = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, preexec_fn=_heeds_ctrl_c
        )
        waited = time.monotonic()
        while not (part.is_file() and part.stat().st_size) and time.monotonic() - waited < 120:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
        kept = part.stat().st_size
        assert 0 < kept <= 15_000_000
        stub.cut.clear()
        stub.hold.set()
        stub.sent.clear()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (FIRST, kept) in stub.sent and (FIRST, 0) not in stub.sent
        place = tmp_path / "home/hub/models--own--tiny/snapshots" / commit_of(0)
        assert (place / FIRST).read_bytes() == data


def test_a_teacher_from_the_hub_loads_the_commit_that_was_taken(
    hub: StubHub, tmp_path: Path, monkeypatch, capsys
) -> None:
    """Downloaded, looked at, and loaded from the cache alone; the hub has moved on meanwhile."""
    folder = make_tiny_teacher(tmp_path / "teacher")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    first = hub.add("own/llava", files)
    get("own/llava")
    hub.add("own/llava", {**files, "config.json": b"{}"})
    told(capsys)
    assert run_test_teacher(TeacherCheckSettings("own/llava", max_new_tokens=4, device="cpu", samples=1000)) in (0, 1)
    said = told(capsys)
    assert "of 1,000 samples" in said and f"commit {first}" in said
    visit(monkeypatch, "http://127.0.0.1:9", Path(constants.HF_HUB_CACHE))
    here = registry.load_teacher("own/llava")
    assert here.fingerprint()["weights"] == registry.load_teacher(str(folder)).fingerprint()["weights"]


def test_an_id_without_a_pin_stays_at_the_commit_it_was_first_loaded_at(hub: StubHub, tmp_path, monkeypatch) -> None:
    folder = make_tiny_teacher(tmp_path / "teacher")
    first = hub.add("own/llava", {path.name: path.read_bytes() for path in folder.iterdir()})
    before = registry.load_teacher("own/llava").fingerprint()
    other = make_tiny_teacher(tmp_path / "other", seed=3)
    hub.add("own/llava", {path.name: path.read_bytes() for path in other.iterdir()})
    assert known.revision_of("own/llava", None) == first
    assert registry.load_teacher("own/llava").fingerprint() == before


def test_another_commit_in_the_cache_is_offered_without_network(hub: StubHub, tmp_path, monkeypatch) -> None:
    """The pinned one is missing: nobody is given another in silence, or left alone with 20 GB that would do."""
    hub.add("own/llava", {"config.json": b"{}", "model.safetensors": b"x"})
    get("own/llava")
    monkeypatch.setitem(registry.TEACHERS, "tiny", registry.TeacherSpec("own/llava", revision="f" * 40))
    visit(monkeypatch, "http://127.0.0.1:9", Path(constants.HF_HUB_CACHE))
    with pytest.raises(UserError, match=rf"not its revision ffffffffffff, but another .*{commit_of(0)}"):
        registry.load_teacher("tiny")


def test_an_unknown_name_is_not_downloaded(hub: StubHub) -> None:
    with pytest.raises(UserError, match="did you mean"):
        get("llava-1.5")
    assert not hub.sent


def test_a_folder_is_there_already(hub: StubHub, tmp_path: Path, capsys) -> None:
    (tmp_path / "config.json").write_text("{}")
    get(str(tmp_path))
    assert "nothing to download" in told(capsys) and not hub.sent
