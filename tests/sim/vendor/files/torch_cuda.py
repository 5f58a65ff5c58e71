"""torch.cuda of a simulated torch: the GPUs that the host's NVML has, as torch counts them."""

import ctypes
import os
import types

import torch
from torch.cuda import nccl  # noqa: F401

_ARCHITECTURES = "@ARCHITECTURES@".split()  # noqa: SIM905 - one text, filled in


def _nvml():
    """The host's NVML, initialised; None when it does not answer, on which torch sees no GPU."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


def _handles():
    """A handle for each GPU that this process may see, in its order."""
    library = _nvml()
    if library is None:
        return None, []
    count = ctypes.c_uint()
    library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    every = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
        every.append(handle)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return library, every
    chosen = []
    for word in visible.split(","):
        if not word.strip().isdigit() or int(word) >= len(every):
            break
        chosen.append(every[int(word)])
    return library, chosen


def device_count():
    """How many GPUs there are, by NVML as in the real one."""
    return len(_handles()[1])


def is_available():
    """Whether there is a GPU."""
    return device_count() > 0


def get_arch_list():
    """What the real build of this name is compiled for; nothing without a GPU, as in the real
    one."""
    return list(_ARCHITECTURES) if is_available() else []


def get_device_properties(device):
    """Name, uuid, capability and memory; no more is simulated."""
    library, handles = _handles()
    handle = handles[int(device)]
    name, uuid = ctypes.create_string_buffer(96), ctypes.create_string_buffer(96)
    major, minor = ctypes.c_int(), ctypes.c_int()
    memory = (ctypes.c_ulonglong * 3)()
    for code in (
        library.nvmlDeviceGetName(handle, name, 96),
        library.nvmlDeviceGetUUID(handle, uuid, 96),
        library.nvmlDeviceGetCudaComputeCapability(
            handle, ctypes.byref(major), ctypes.byref(minor)
        ),
        library.nvmlDeviceGetMemoryInfo(handle, memory),
    ):
        if code:
            raise RuntimeError(f"CUDA error: NVML answers {code} (simulated)")
    return types.SimpleNamespace(
        name=name.value.decode(),
        uuid=uuid.value.decode().removeprefix("GPU-"),
        major=major.value,
        minor=minor.value,
        total_memory=memory[0],
    )


def get_device_name(device=0):
    """The name of a GPU."""
    return get_device_properties(device).name


def get_device_capability(device=0):
    """Compute capability as (9, 0)."""
    found = get_device_properties(device)
    return found.major, found.minor


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise torch._refused(f"torch.cuda.{name}")
