"""EmberVLM: a tiny vision-language model, instruction-tuned with a teacher of another tokenizer.

The names are loaded when they are asked for, so that the command line can answer `--help` without torch. The first of
them, or `import embervlm.model`, also makes the student known to transformers' Auto classes.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embervlm.model import EmberVLM, EmberVLMConfig, EmberVLMProcessor

__all__ = ["EmberVLM", "EmberVLMConfig", "EmberVLMProcessor"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from embervlm import model

    return getattr(model, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
