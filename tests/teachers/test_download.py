"""`embervlm download-teacher`: the disk is looked at first, and what fails is said in words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from embervlm.errors import UserError
from embervlm.settings import DownloadSettings
from embervlm.teachers import download

GB = 10**9
FILES = {
    "config.json": 1000,
    "model-00001-of-00002.safetensors": 8 * GB,
    "model-00002-of-00002.safetensors": 6 * GB,
    "model.safetensors.index.json": 1000,
    "pytorch_model.bin": 14 * GB,
    "original/consolidated.00.pth": 14 * GB,
    "onnx/model.onnx": 14 * GB,
    "tokenizer.model": 500_000,
    "chat_template.jinja": 500,
    "README.md": 9000,
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict]:
    """A hub that answers, an empty cache, and the downloads that were asked for."""
    asked: list[dict] = []
    siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in FILES.items()]

    def snapshot_download(source: str, **options: object) -> str:
        asked.append({"source": source, **options})
        return str(tmp_path)

    info = SimpleNamespace(siblings=siblings, sha="abc")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *args, **options: info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(download.constants, "HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    return asked


def free(monkeypatch: pytest.MonkeyPatch, count: float) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=count))


def test_one_set_of_weights_is_fetched(
    hub: list[dict], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """14 GB, not the 56 GB of all formats."""
    free(monkeypatch, 100 * GB)
    download.run_download(DownloadSettings("llava-1.5-7b"))
    (asked,) = hub
    assert asked["source"] == "llava-hf/llava-1.5-7b-hf" and asked["revision"] == "abc"
    weights = [name for name in asked["allow_patterns"] if FILES[name] > GB]
    assert weights == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert {"config.json", "tokenizer.model", "chat_template.jinja"} < set(asked["allow_patterns"])
    assert "14.0 GB" in capsys.readouterr().out


def test_older_weights_are_fetched_where_there_are_no_others() -> None:
    sizes = {"config.json": 1, "pytorch_model.bin": 5, "pytorch_model.bin.index.json": 1, "tf_model.h5": 5}
    assert set(download.wanted(sizes)) == {"config.json", "pytorch_model.bin", "pytorch_model.bin.index.json"}


def test_full_disk_is_said_before_the_first_byte(hub: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 3 * GB)
    with pytest.raises(UserError, match=r"needs 14\.0 GB more .* 3\.0 GB free.*HF_HOME"):
        download.run_download(DownloadSettings("llava-1.5-7b"))
    assert not hub


def test_what_is_in_the_cache_needs_no_room(hub: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that was stopped continues on a disk that it nearly filled."""
    free(monkeypatch, 1000)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **options: "there")
    download.run_download(DownloadSettings("llava-1.5-7b"))
    assert hub


def hub_error(status: int) -> HfHubHTTPError:
    request = httpx.Request("GET", "https://huggingface.co")
    return HfHubHTTPError("no", response=httpx.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OfflineModeIsEnabled("offline"), "cannot be reached .*what was fetched is kept"),
        (httpx.ConnectError("no"), "cannot be reached"),
        (hub_error(404), "has no model llava-hf/llava-1.5-7b-hf"),
        (hub_error(403), "accept its terms"),
        (OSError(28, "No space left on device"), "could not be written: No space left"),
    ],
)
def test_failures_are_sentences(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    with pytest.raises(UserError, match=said):
        download.run_download(DownloadSettings("llava-1.5-7b"))


def test_an_unknown_name_is_not_downloaded(hub: list[dict]) -> None:
    with pytest.raises(UserError, match="did you mean"):
        download.run_download(DownloadSettings("llava-1.5"))
    assert not hub


def test_a_folder_is_there_already(hub: list[dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    download.run_download(DownloadSettings(str(tmp_path)))
    assert "nothing to download" in " ".join(capsys.readouterr().out.split()) and not hub
