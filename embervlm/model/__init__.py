"""The student: vision tower -> projector -> language model, known to transformers' Auto classes."""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from embervlm.model.configuration import EmberVLMConfig
from embervlm.model.modeling import EmberVLM
from embervlm.model.processing import EmberVLMImageProcessor, EmberVLMProcessor

AutoConfig.register("embervlm", EmberVLMConfig)
AutoModelForImageTextToText.register(EmberVLMConfig, EmberVLM)
AutoProcessor.register(EmberVLMConfig, EmberVLMProcessor)
# One class for both backends: it works on PIL images, and transformers warns when the default backend is missing.
_BACKENDS: dict[str, type] = {"pil": EmberVLMImageProcessor, "torchvision": EmberVLMImageProcessor}
AutoImageProcessor.register(EmberVLMConfig, image_processor_classes=_BACKENDS)

__all__ = ["EmberVLM", "EmberVLMConfig", "EmberVLMProcessor"]
