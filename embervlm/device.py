"""The machine: `--device` in words -> torch.device, and the memory that a command took."""

from __future__ import annotations

import resource
import sys

import torch

from embervlm.errors import UserError


def pick_device(name: str) -> torch.device:
    """`auto` is a GPU, or the CPU where there is none.

    Raises:
        UserError: not a device, or one that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):
        raise UserError(f"This machine has no device {name!r}; --device takes auto, cpu, cuda, cuda:1, ...") from None


def peak_memory(device: torch.device) -> int:
    """Most bytes held at once so far: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # Linux counts kilobytes


def wait_for(device: torch.device) -> None:
    """Returns when all that a GPU was told to do is done; a clock read before would miss it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
