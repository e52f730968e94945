"""How good is it: VQA accuracy, instruction score, divergence from the teacher, baselines, and the report."""

from embervlm.evaluate.answers import normalise
from embervlm.evaluate.vqa import vqa_accuracy

__all__ = ["normalise", "vqa_accuracy"]
