"""torch.cuda.nccl of a simulated torch: the version of the library that is mapped."""

import ctypes

import torch


def version():
    """What the NCCL that the loader found says of itself, as (2, 29, 7)."""
    number = ctypes.c_int()
    torch._library.ncclGetVersion(ctypes.byref(number))
    return number.value // 10000, number.value % 10000 // 100, number.value % 100


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise torch._refused(f"torch.cuda.nccl.{name}")
