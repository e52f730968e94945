"""Teachers by name: what does not load is a sentence, never a silent zero."""

from __future__ import annotations

import pytest

from embervlm.errors import UserError
from embervlm.teachers.hf import HFTeacher
from embervlm.teachers.registry import TEACHERS, load_teacher, resolve_teacher
from tests.tiny_teacher import make_tiny_teacher


def test_the_names_of_the_guide_are_registered():
    sources = {
        "qwen-vl-chat": "Qwen/Qwen-VL-Chat",
        "qwen-vl-base": "Qwen/Qwen-VL",
        "llava-1.5-7b": "llava-hf/llava-1.5-7b-hf",
        "instructblip": "Salesforce/instructblip-vicuna-7b",
    }
    assert {name: TEACHERS[name].source for name in sources} == sources


def test_the_guides_llava_id_is_redirected_and_says_so(capsys):
    assert resolve_teacher("liuhaotian/llava-v1.5-7b").source == "llava-hf/llava-1.5-7b-hf"
    assert "not in transformers' format" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, near", [("llava-1.5", "llava-1.5-7b"), ("qwen-chat", "qwen-vl-chat"), ("?", "known are")]
)
def test_unknown_name_names_the_nearest(name: str, near: str):
    with pytest.raises(UserError, match=near):
        resolve_teacher(name)


def test_a_folder_and_a_hub_id_are_taken_as_they_are(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert resolve_teacher(str(tmp_path)).source == str(tmp_path)
    assert resolve_teacher("some-one/Their.Model-2B").source == "some-one/Their.Model-2B"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no config.json"):
        resolve_teacher(str(tmp_path / "empty"))


def test_without_network_and_cache_a_hub_teacher_is_refused(monkeypatch, tmp_path):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)
    with pytest.raises(UserError, match="smolvlm-256m.*cannot be reached.*toy-llava"):
        load_teacher("smolvlm-256m")


def test_a_local_folder_loads(tmp_path):
    teacher = load_teacher(str(make_tiny_teacher(tmp_path)))
    assert isinstance(teacher, HFTeacher)
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


def test_a_broken_folder_is_a_sentence(tmp_path):
    make_tiny_teacher(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(UserError, match="does not load"):
        load_teacher(str(tmp_path))
