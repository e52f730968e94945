"""EmberVLM: a tiny vision-language model, instruction-tuned with a teacher of another tokenizer."""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from embervlm.model.configuration import EmberVLMConfig
from embervlm.model.modeling import EmberVLM
from embervlm.model.processing import EmberVLMImageProcessor, EmberVLMProcessor

AutoConfig.register("embervlm", EmberVLMConfig)
AutoModelForImageTextToText.register(EmberVLMConfig, EmberVLM)
AutoProcessor.register(EmberVLMConfig, EmberVLMProcessor)
AutoImageProcessor.register(EmberVLMConfig, image_processor_classes={"pil": EmberVLMImageProcessor})

__all__ = ["EmberVLM", "EmberVLMConfig", "EmberVLMProcessor"]
