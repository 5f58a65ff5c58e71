"""torch.backends of a simulated torch: cudnn only."""

import torch
from torch.backends import cudnn  # noqa: F401


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise torch._refused(f"torch.backends.{name}")
