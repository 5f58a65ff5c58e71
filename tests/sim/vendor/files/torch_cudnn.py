"""torch.backends.cudnn of a simulated torch: the version of the library that is mapped."""

import ctypes

import torch


def version():
    """What the cuDNN that the loader found says of itself."""
    query = torch._library.cudnnGetVersion
    query.restype = ctypes.c_size_t
    return query()


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise torch._refused(f"torch.backends.cudnn.{name}")
