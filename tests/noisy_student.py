"""A student whose answers are far from uniform, without training."""

import torch

from embervlm import EmberVLM


def make_noisy_student(noise: float = 0.05, seed: int = 3) -> EmberVLM:
    """The `tiny` preset with noise on every parameter of its language model: what is likeliest is so by far."""
    torch.manual_seed(seed)
    model = EmberVLM.from_preset("tiny").eval()
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            parameter += noise * torch.randn_like(parameter)
    return model
