"""How a teacher's files become a teacher, by the `model_type` of its config.json. One module for each odd family."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import torch

from embervlm.errors import UserError
from embervlm.teachers.hf import HFTeacher

FAMILIES: dict[str, str] = {
    "qwen": "embervlm.teachers.qwen_vl.loading",
    "instructblip": "embervlm.teachers.instructblip",
}
"""`model_type` -> module with `load(name, source, files, weights) -> HFTeacher`. Any other type with a chat template is
read by transformers' Auto classes; one that only reads text is told what the picture shows."""

TEXT_ONLY = "embervlm.teachers.told"

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_family(name: str, source: str, files: dict[str, Any], weights: dict[str, Any]) -> HFTeacher:
    """A teacher read by its family's module.

    Args:
        source: a folder, or an id on the hub.
        files: keywords of every `from_pretrained`: trust_remote_code, local_files_only, revision, gguf_file.
        weights: `weight_options`, keywords of the model's `from_pretrained` only.

    Raises:
        UserError: something does not load.
    """
    from transformers import PreTrainedConfig

    try:
        config, _ = PreTrainedConfig.get_config_dict(source, **files)
        kind = config.get("model_type", "")
        module = FAMILIES.get(kind, TEXT_ONLY if _only_reads(kind) else "")
        return (importlib.import_module(module).load if module else load)(name, source, files, weights)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, AttributeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        hint = (
            "; if you trust the code on the hub, pass --trust_remote_code" if "trust_remote_code" in str(error) else ""
        )
        raise UserError(f"teacher {name}: {source} does not load: {lines[0]}{hint}") from error


def _only_reads(model_type: str) -> bool:
    from transformers.models.auto import modeling_auto as auto

    sees = model_type in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not sees


def load(name: str, source: str, files: dict[str, Any], weights: dict[str, Any]) -> HFTeacher:
    """Any AutoModelForImageTextToText whose processor has a chat template."""
    return HFTeacher(name, *read(name, source, files, weights))


def read(name: str, source: str, files: dict[str, Any], weights: dict[str, Any]) -> tuple[Any, Any]:
    """Model and processor by transformers' Auto classes."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(source, **files)
    if not hasattr(processor, "tokenizer"):
        raise UserError(f"teacher {name}: {source} has no processor for text and pictures together")
    return complete(name, AutoModelForImageTextToText, source, **files, **weights), processor


def read_tokenizer(source: str, **files: Any) -> Any:
    """The tokenizer alone, of a folder or an id on the hub.

    Raises:
        UserError: it does not load.
    """
    from transformers import AutoTokenizer
    from transformers.utils import cached_file

    from embervlm.teachers.qwen_vl.tokenizer import VOCABULARY, load_tokenizer

    try:
        own = {key: value for key, value in files.items() if key != "trust_remote_code"}
        if found := cached_file(source, VOCABULARY, _raise_exceptions_for_missing_entries=False, **own):
            return load_tokenizer(Path(found).parent)
        return AutoTokenizer.from_pretrained(source, **files)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, AttributeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"the tokenizer of {source} does not load: {lines[0]}; name its folder or hub id with --teacher_tokenizer"
        ) from error


def complete(name: str, kind: Any, source: str, **options: Any) -> Any:
    """`kind.from_pretrained`, each parameter from the files: what is missing would be made up, at random."""
    model, told = kind.from_pretrained(source, output_loading_info=True, **options)
    for what in ("missing_keys", "mismatched_keys"):
        if told[what]:
            names = [str(key) for key in told[what]]
            raise UserError(
                f"teacher {name}: {source} lacks {len(names)} of the model's tensors ({names[0]}, ...), or has them in "
                "another shape; download it again"
            )
    return model


def weight_options(device: torch.device, dtype: str, load_in: str, offload: bool) -> dict[str, Any]:
    """Keywords of a model's `from_pretrained`. Weights are put on the device tensor by tensor as they are read.

    Raises:
        UserError: quantised or offloaded loading where that cannot be.
    """
    accelerated = device.type != "cpu"
    picked = DTYPES[dtype] if dtype != "auto" else torch.bfloat16 if accelerated else torch.float32
    options: dict[str, Any] = {"dtype": picked, "device_map": "auto" if offload else {"": str(device)}}
    if offload and not accelerated:
        raise UserError("--teacher_offload keeps in main memory what a GPU has no room for, and this is a CPU: drop it")
    if load_in == "dtype":
        return options
    if not accelerated or importlib.util.find_spec("bitsandbytes") is None:
        why = "needs a GPU" if not accelerated else "needs bitsandbytes: pip install bitsandbytes"
        raise UserError(f"--teacher_load_in {load_in} {why}; or drop it, and pass --teacher_dtype bfloat16")
    from transformers import BitsAndBytesConfig

    quantised = (
        BitsAndBytesConfig(load_in_8bit=True)
        if load_in == "8bit"
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=picked)
    )
    return options | {"quantization_config": quantised}
