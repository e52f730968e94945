"""The student that an inspection looks through: a checkpoint, or what a preset gives."""

from __future__ import annotations

from pathlib import Path

from embervlm.errors import UserError
from embervlm.model.modeling import EmberVLM


def open_student(preset: str, checkpoint: Path | None) -> tuple[EmberVLM, str]:
    """The model, and a word for people. UserError where the checkpoint has no processor."""
    if checkpoint is None:
        return EmberVLM.from_preset(preset), f"preset {preset}, not trained"
    model = EmberVLM.from_pretrained(checkpoint)
    if model.processor is None:
        raise UserError(f"{checkpoint} has no processor files; copy the whole checkpoint.")
    return model, str(checkpoint)


def positions(model: EmberVLM, max_length: int) -> int:
    """`max_length`, at most what the language model can read."""
    return min(max_length, model.config.text_config.max_position_embeddings)
