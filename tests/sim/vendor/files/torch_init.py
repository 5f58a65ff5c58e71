"""Simulated torch @VERSION@: it says what it is and sees the host's GPUs, and computes nothing."""

import ctypes
import os

__version__ = "@VERSION@"


class SimulatedTorchError(NotImplementedError):
    """Raised for everything that a stub cannot answer."""


class version:  # noqa: N801 - its name in torch
    __version__ = "@VERSION@"
    cuda = "@CUDA@"
    hip = None


def _refused(name):
    return SimulatedTorchError(
        f"{name}: this torch is simulated by gpufleet and computes nothing; "
        'install the CPU build (torch_build = "cpu") where something has to run'
    )


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise _refused(f"torch.{name}")


# The loader finds and maps the CUDA libraries, as for the real one; without one, no import.
_library = ctypes.CDLL(os.path.join(os.path.dirname(__file__), "lib", "libtorch_cuda.so"))

import torch.backends  # noqa: E402
import torch.cuda  # noqa: E402, F401
