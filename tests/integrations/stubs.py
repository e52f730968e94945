"""The parts of lmms-eval 0.7.3 that an adapter meets, as its own source has them, for machines without it."""

from __future__ import annotations

import abc
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest


class lmms(abc.ABC):
    """lmms_eval/api/model.py: what must exist, and what the evaluator fills."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.task_dict: dict[str, Any] = {}

    @property
    def rank(self) -> int:
        return self._rank

    @abc.abstractmethod
    def loglikelihood(self, requests: Any) -> Any: ...

    @abc.abstractmethod
    def generate_until(self, requests: Any) -> Any: ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests: Any) -> Any: ...


@dataclass(frozen=True)
class ModelManifest:
    """lmms_eval/models/registry_v2.py."""

    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass
class Instance:
    """lmms_eval/api/instance.py, as far as a model reads it."""

    args: tuple


@dataclass
class GenerationResult:
    """lmms_eval/api/instance.py."""

    text: Any
    token_counts: Any = None


def unwrap_generation_output(output: Any) -> tuple[Any, Any]:
    """lmms_eval/api/instance.py: the evaluator does this to every output; a bare pair becomes a string."""
    if isinstance(output, GenerationResult):
        return output.text, output.token_counts
    return str(output), None


class ConfigurableTask:
    """lmms_eval/api/task.py: takes the smallest of the choices' values."""

    def process_results(self, lls: list[float]) -> int:
        import numpy as np

        return int(np.argmin(lls))


class FollowingTask:
    """What a version that follows the interface would do."""

    def process_results(self, lls: list[float]) -> int:
        import numpy as np

        return int(np.argmax(lls))


def install(monkeypatch: pytest.MonkeyPatch, task: type = ConfigurableTask) -> None:
    """Put them where the adapter looks; an installed lmms-eval is put aside."""
    parts: dict[str, dict[str, Any]] = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.models": {},
        "lmms_eval.api.model": {"lmms": lmms},
        "lmms_eval.api.task": {"ConfigurableTask": task},
        "lmms_eval.api.instance": {
            "GenerationResult": GenerationResult,
            "unwrap_generation_output": unwrap_generation_output,
        },
        "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest},
    }
    for name, contents in parts.items():
        module = ModuleType(name)
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "embervlm.integrations.lmms_eval", raising=False)


def install_kit(monkeypatch: pytest.MonkeyPatch, base: type) -> None:
    """VLMEvalKit's modules that registering needs."""
    vlm, config, kit = ModuleType("vlmeval.vlm"), ModuleType("vlmeval.config"), ModuleType("vlmeval")
    vlm.__dict__.update(BaseModel=base)
    config.__dict__.update(supported_VLM={})
    kit.__dict__.update(vlm=vlm, config=config)
    for module in (kit, vlm, config):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys, "path", list(sys.path))
