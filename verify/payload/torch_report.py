"""What an environment's own torch says of itself, as one line `GPUFLEET {json}`.

Run by the environment's Python, with what a login of this host gets, as a user without rights.
Makes no CUDA context: devices are counted through NVML (PyTorch's own switch for that), their
names and architectures come from NVML too, where torch would have to open each of them.
What it is about to do goes to standard error as `stage: ...`.

Libraries: `mapped` is what this process has mapped after `import torch`; `in_front` is what would
be taken instead of the wheel's own file when a library opens it later by name. cuDNN opens most of
itself so, at the first convolution, and goes by LD_LIBRARY_PATH before its own folder.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
LIBRARIES = HERE.parents[2] / "lib"
sys.path[:] = [place for place in sys.path if place != str(HERE.parent)]

MARK = "GPUFLEET "
WATCHED = ("libcudnn", "libnccl", "libcublas", "libcudart", "libnvrtc", "libcuda")
"""Libraries of which a process must have one set, by the beginning of the file's name."""
BY_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""torch.cuda.is_available() then asks NVML and leaves CUDA alone (torch/cuda/__init__.py)."""


def stage(text: str) -> None:
    """Say on standard error what comes next."""
    os.write(2, f"stage: {text}\n".encode())


def report() -> dict[str, Any]:
    """Everything, or how far it came."""
    found: dict[str, Any] = {
        "state": "failed", "stage": "", "error": "",
        "python": platform.python_version(), "executable": sys.executable,
        "version": None, "cuda": None, "cudnn": None, "nccl": None, "arch_list": None,
        "available": None, "count": None, "devices": [], "mapped": {}, "in_front": {},
        "wheels": {}, "visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "user": "",
    }  # fmt: skip
    found["user"] = "root" if os.geteuid() == 0 else os.environ.get("USER", str(os.geteuid()))
    os.environ[BY_NVML] = "1"
    stage("wheels")
    found["wheels"] = wheels()
    stage("import torch")
    try:
        import torch
    except Exception as error:  # whatever it does, it is the finding
        found["error"] = f"import torch: {type(error).__name__}: {error}"[:400]
        return found
    found["version"] = str(torch.__version__)
    found["cuda"] = torch.version.cuda
    problems = of_cuda_build(torch, found) if found["cuda"] else []
    found["mapped"] = mapped()
    found["in_front"] = in_front(found["mapped"])
    found["state"] = "failed" if problems else "ok"
    found["error"] = "; ".join(problems)[:400]
    return found


def of_cuda_build(torch: Any, found: dict[str, Any]) -> list[str]:
    """Fill in what only a build for CUDA can say; returns what could not be read, and why."""
    reads: dict[str, Callable[[], Any]] = {
        "cudnn": lambda: cudnn_version(torch.backends.cudnn.version()),
        "nccl": lambda: ".".join(str(part) for part in torch.cuda.nccl.version()),
        "available": lambda: bool(torch.cuda.is_available()),
        "count": lambda: int(torch.cuda.device_count()),
        # An empty list means that torch saw no GPU, not that it has code for none.
        "arch_list": lambda: list(torch.cuda.get_arch_list()) or None,
        "devices": lambda: devices(found["count"] or 0, found["visible"]),
    }
    problems = []
    for field, read in reads.items():
        stage(field)
        try:
            found[field] = read()
        except Exception as error:  # torch raises anything; the other fields are still read
            problems.append(f"{field}: {type(error).__name__}: {error}")
    return problems


def cudnn_version(number: int | None) -> str | None:
    """cudnnGetVersion() as text: 92000 is 9.20.0 since 9.0, 8907 was 8.9.7 before."""
    if number is None:
        return None
    base = 10000 if number >= 90000 else 1000
    return f"{number // base}.{number % base // 100}.{number % 100}"


def devices(count: int, visible: str | None) -> list[dict[str, Any]]:
    """The GPUs that torch counts, by NVML: all of them, or those that CUDA_VISIBLE_DEVICES names.

    Raises RuntimeError when NVML has not the GPUs that torch counts.
    """
    if not count:
        return []
    if importlib.util.find_spec("pynvml") is None:
        sys.path.append(str(LIBRARIES))
    import pynvml  # type: ignore[import-untyped]

    pynvml.nvmlInit()
    every = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            every.append(
                {
                    "name": pynvml.nvmlDeviceGetName(handle),
                    "uuid": pynvml.nvmlDeviceGetUUID(handle),
                    "cc": list(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
                }
            )
        except pynvml.NVMLError as error:
            every.append({"name": "", "uuid": "", "cc": None, "error": str(error)})
    chosen = every if visible is None else named(visible, every)
    if len(chosen) < count:
        raise RuntimeError(f"torch counts {count} GPUs, NVML has {len(chosen)} of them")
    return [{"index": index, **one} for index, one in enumerate(chosen[:count])]


def named(visible: str, every: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The GPUs of a CUDA_VISIBLE_DEVICES, up to its first entry that is none (CUDA C++ programming
    guide, environment variables); numbers are NVML's order here."""
    chosen = []
    for word in visible.split(","):
        word = word.strip()
        if re.fullmatch(r"\d+", word) and int(word) < len(every):
            chosen.append(every[int(word)])
        elif word.startswith("GPU-") and (one := [e for e in every if e["uuid"].startswith(word)]):
            chosen.append(one[0])
        else:
            break
    return chosen


def mapped() -> dict[str, str]:
    """Name -> real path of every watched library that this process has mapped."""
    found = {}
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            path = line[line.find("/") :].rstrip("\n") if "/" in line else ""
            name = path.rpartition("/")[2]
            if name.startswith(WATCHED):
                found[soname(name)] = path
    return found


def soname(name: str) -> str:
    """libcudnn.so.9.20.0 -> libcudnn.so.9: a file's name up to its major version."""
    return re.sub(r"(\.so\.\d+).*", r"\1", name)


def in_front(have: dict[str, str]) -> dict[str, str]:
    """Watched libraries beside the wheel's own that a search by name would find before them."""
    own = {
        path.name
        for directory in {os.path.dirname(path) for path in have.values()}
        if "/site-packages/nvidia/" in directory
        for path in Path(directory).glob("lib*.so*")
    }
    found: dict[str, str] = {}
    settled: set[str] = set()
    for place in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
        there = {name for name in own - settled if place and os.path.exists(f"{place}/{name}")}
        settled |= there
        if "/site-packages/nvidia/" not in f"{os.path.realpath(place)}/":
            watched = sorted(name for name in there if name.startswith(WATCHED))
            found.update({name: os.path.realpath(f"{place}/{name}") for name in watched})
    return found


def wheels() -> dict[str, str]:
    """Normalised name -> version of every distribution in this environment."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            key = re.sub(r"[-_.]+", "-", str(name)).lower()
            found.setdefault(key, str(distribution.version))
    return found


if __name__ == "__main__":
    print(MARK + json.dumps({"schema": 1, **report()}, separators=(",", ":")), flush=True)
