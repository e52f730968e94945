"""Loading a saved student whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError
from transformers.utils import cached_file

from embervlm.errors import UserError
from embervlm.model.processing import EmberVLMProcessor

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def load(cls: type, from_pretrained: Callable[..., Any], source: Any, *args: Any, **kwargs: Any) -> Any:
    """What `EmberVLM.from_pretrained` does around transformers' own, which would fill gaps with random weights."""
    with_info = kwargs.pop("output_loading_info", False)
    hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
    if source is not None:
        _check_folder(source, hub.get("subfolder", ""))
    try:
        model, info = from_pretrained(source, *args, output_loading_info=True, **kwargs)
        model.unfreeze_vision(model.config.unfreeze_vision)
    except UserError:
        raise
    except UnpicklingError as error:
        raise UserError(f"The weights in '{source}' hold more than tensors, so they are not opened.") from error
    except SafetensorError as error:
        raise UserError(f"The weights in '{source}' are damaged or cut off ({error}); copy them again.") from error
    except Exception as error:  # on a damaged config.json the classes behind it raise what they like
        raise UserError(f"The model '{source}' cannot be loaded: {_said(error)}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if info.get(kind):
            first = sorted(map(str, info[kind]))[0]
            raise UserError(
                f"The weights in '{source}' do not fit its configuration: {len(info[kind])} {kind.replace('_', ' ')}, "
                f"the first is {first}. The folder mixes files of different models; take another checkpoint."
            )
    if source is not None:
        model.processor = _processor(source, hub)
        if model.processor is not None:
            check_fit(model, model.processor, str(source))
    return (model, info) if with_info else model


def check_fit(model: Any, processor: EmberVLMProcessor, source: str) -> None:
    """UserError when a processor's vocabulary or pictures are not the model's."""
    config = model.config
    facts = [
        ("tokens", len(processor.tokenizer), model.get_input_embeddings().weight.shape[0]),
        ("as the id of <image>", processor.image_token_id, config.image_token_id),
        ("visual tokens a picture", processor.num_image_tokens, config.num_image_tokens),
        ("pixels a side", processor.image_processor.image_size, config.image_size),
    ]
    for what, found, expected in facts:
        if found != expected:
            raise UserError(
                f"The processor in '{source}' has {found} {what}, the model {expected}: the vocabulary or preset "
                "does not fit the model. Copy the processor's files from the checkpoint that the weights come from."
            )


def _check_folder(source: Any, subfolder: str) -> None:
    """Sentences for the usual mistakes; what looks like a hub id goes to the hub."""
    folder = Path(source) / subfolder
    if not folder.is_dir():
        if folder.exists():
            raise UserError(f"'{source}' is a file; expected a checkpoint folder with config.json.")
        looks_like_hub_id = str(source).count("/") == 1 and not str(source).startswith((".", "/"))
        if not looks_like_hub_id or Path(source).parent.is_dir():
            raise UserError(f"There is no checkpoint folder '{source}'.")
        return
    path = folder / "config.json"
    if not path.is_file():
        inside = sorted(found.parent.name for found in folder.glob("*/config.json"))
        hint = f"; it holds {', '.join(inside[:3])}: name one of them" if inside else ""
        raise UserError(f"The folder '{folder}' has no config.json: it is not a checkpoint{hint}.")
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"'{path}' cannot be read as a configuration: {error}.") from error
    if kind != "embervlm":
        raise UserError(f"'{path}' says model_type '{kind}', expected 'embervlm': this is another kind of model.")


def _processor(source: Any, hub: dict[str, Any]) -> EmberVLMProcessor | None:
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    if cached_file(source, "processor_config.json", **hub, **quiet) is None:
        return None
    try:
        return EmberVLMProcessor.from_pretrained(source, **hub)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"The processor in '{source}' cannot be loaded: {_said(error)}. Copy the files of the processor and of the "
            "tokenizer again from where the checkpoint comes from."
        ) from error


def _said(error: Exception) -> str:
    kind = "" if isinstance(error, (OSError, RuntimeError, ValueError)) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())[:400]
