"""A tiny teacher in this process, the one that the stub serves, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embervlm.data.prepared import PreparedSet
from embervlm.teachers import server as served_server
from embervlm.teachers.hf import HFTeacher
from embervlm.teachers.registry import load_teacher
from tests.teachers.test_cache import make_prepared
from tests.tiny_teacher import draw_noise, make_tiny_teacher


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny_teacher(tmp_path_factory.mktemp("teacher"))
    draw_noise(folder, 2)
    return folder


@pytest.fixture(scope="module")
def local(root: Path) -> HFTeacher:
    loaded = load_teacher(str(root))
    assert isinstance(loaded, HFTeacher)
    return loaded


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_server, "LONGEST_WAIT", 0.01)
    monkeypatch.delenv(served_server.KEY, raising=False)


@pytest.fixture
def data(tmp_path: Path) -> PreparedSet:
    made = make_prepared(tmp_path / "data")
    (made.folder / "dataset.json").write_text(json.dumps({"image_root": "."}))
    return made
