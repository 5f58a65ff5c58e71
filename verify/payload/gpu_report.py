"""What NVML says of this host's GPUs, as one line `GPUFLEET {json}`; opens no CUDA context.

Each value is read by itself: one that cannot be read is null, and `errors` of its GPU says why in
NVML's words; one that this GPU does not have at all is null and named in `unsupported`. What it is
about to ask goes to standard error as `stage: device 3: ecc`, so that a driver that never answers
is known by its last stage.

Calls, their meaning and error codes: NVIDIA's NVML API reference, as nvidia-ml-py declares it.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).resolve().parents[2]
if (BUNDLE / "lib").is_dir():  # ours first: others have published another module of this name
    sys.path.insert(0, str(BUNDLE / "lib"))

MARK = "GPUFLEET "
RECOVERY_ACTION = 230
"""Field of what the driver itself wants done about a GPU; 0 is nothing. Driver 570 and newer."""
DRIVER_GPUS = "/proc/driver/nvidia/gpus"


class Device:
    """One GPU that is being read."""

    def __init__(self, nvml: Any, index: int) -> None:
        self.nvml = nvml
        self.index = index
        self.lost = False
        self.errors: dict[str, str] = {}
        self.unsupported: list[str] = []

    def get(self, field: str, read: Callable[[], Any]) -> Any:
        """One value; None when it cannot be read, with the reason kept."""
        stage(f"device {self.index}: {field}")
        try:
            return read()
        except self.nvml.NVMLError as error:
            if error.value == self.nvml.NVML_ERROR_NOT_SUPPORTED:
                self.unsupported.append(field)
            else:
                self.errors[field] = text_of(error)
                self.lost |= error.value == self.nvml.NVML_ERROR_GPU_IS_LOST
        except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
            # A field of another layout or an unknown code: this value is unknown, the rest is not.
            self.errors[field] = f"{type(error).__name__}: {error}"[:200]
        return None


def stage(text: str) -> None:
    """Say on standard error what comes next."""
    os.write(2, f"stage: {text}\n".encode())


def text_of(error: Any) -> str:
    """NVML's words for an error, and its code."""
    return f"{error} (NVML error {getattr(error, 'value', '?')})"[:200]


def report() -> dict[str, Any]:
    """Everything, or why there is nothing."""
    begun = time.monotonic()
    found: dict[str, Any] = {
        "state": "failed", "seconds": 0.0, "stage": "", "error": "",
        "driver": None, "cuda": None, "count": None, "gpus": [],
    }  # fmt: skip
    stage("library")
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError as error:
        found["error"] = f"nvidia-ml-py cannot be imported: {error}"
        return found
    try:
        stage("init")
        pynvml.nvmlInit()
        stage("system")
        found["driver"] = pynvml.nvmlSystemGetDriverVersion()
        number = pynvml.nvmlSystemGetCudaDriverVersion()
        found["cuda"] = f"{number // 1000}.{number % 1000 // 10}"
        found["count"] = pynvml.nvmlDeviceGetCount()
        found["gpus"] = [device(pynvml, index) for index in range(found["count"])]
        place_lost(found["gpus"], driver_slots())
        found["state"] = "ok"
        stage("shutdown")
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        absent = error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
        found["state"] = "absent" if absent else found["state"]
        found["error"] = text_of(error)
    found["seconds"] = round(time.monotonic() - begun, 3)
    return found


def device(nvml: Any, index: int) -> dict[str, Any]:
    """One GPU. A GPU that does not answer at all has nothing but its index, and is lost."""
    one = Device(nvml, index)
    handle = one.get("handle", lambda: nvml.nvmlDeviceGetHandleByIndex(index))
    values: dict[str, Any] = {"index": index}
    for field, read in FIELDS.items():
        values[field] = one.get(field, partial(read, nvml, handle, one)) if handle else None
    values["processes"] = values["processes"] or []
    return {
        **values,
        "lost": one.lost,
        "errors": one.errors,
        "unsupported": sorted(one.unsupported),
    }


def slot_of(text: str) -> str:
    """A PCI address as the kernel writes it: NVML's domain has eight digits and capitals."""
    domain, _, rest = text.lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"


def driver_slots() -> list[str]:
    """Slots of the GPUs that the kernel driver has, in its order."""
    try:
        return sorted(name.lower() for name in os.listdir(DRIVER_GPUS))
    except OSError:
        return []


def place_lost(gpus: list[dict[str, Any]], slots: list[str]) -> None:
    """Give GPUs that did not say their slot those that nobody else has, both in their order.

    Nothing is given when their numbers differ: then it cannot be told which is which.
    """
    free = [slot for slot in slots if slot not in {gpu["slot"] for gpu in gpus}]
    nameless = [gpu for gpu in gpus if gpu["slot"] is None]
    if len(free) == len(nameless):
        for gpu, slot in zip(nameless, free, strict=True):
            gpu["slot"] = slot


# ---- values that take more than one call ---------------------------------------------------------


def ecc(nvml: Any, handle: Any, one: Device) -> dict[str, Any]:
    """Mode, and errors since the driver was loaded; those of the GPU's life besides."""
    mode = bool(nvml.nvmlDeviceGetEccMode(handle)[0])

    def count(name: str, kind: int, period: int) -> Any:
        return one.get(name, lambda: nvml.nvmlDeviceGetTotalEccErrors(handle, kind, period))

    corrected, uncorrected = (
        nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
        nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
    )
    volatile, aggregate = nvml.NVML_VOLATILE_ECC, nvml.NVML_AGGREGATE_ECC
    return {
        "mode": mode,
        "corrected": count("ecc.corrected", corrected, volatile),
        "uncorrected": count("ecc.uncorrected", uncorrected, volatile),
        "corrected_ever": count("ecc.corrected_ever", corrected, aggregate),
        "uncorrected_ever": count("ecc.uncorrected_ever", uncorrected, aggregate),
    }


def remap(nvml: Any, handle: Any, one: Device) -> dict[str, Any]:
    """Rows of memory that were replaced by spare ones (Ampere and newer)."""
    corrected, uncorrected, pending, failed = nvml.nvmlDeviceGetRemappedRows(handle)
    return {
        "corrected": corrected,
        "uncorrected": uncorrected,
        "pending": bool(pending),
        "failed": bool(failed),
    }


def retired(nvml: Any, handle: Any, one: Device) -> dict[str, Any]:
    """Pages of memory taken out of use (before Ampere)."""
    pending = bool(nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle))

    def count(name: str, cause: int) -> Any:
        return one.get(name, lambda: len(nvml.nvmlDeviceGetRetiredPages(handle, cause)))

    single = nvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS
    double = nvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR
    return {
        "pending": pending,
        "single_bit": count("retired.single_bit", single),
        "double_bit": count("retired.double_bit", double),
    }


def sram_threshold(nvml: Any, handle: Any, one: Device) -> bool:
    """Whether the GPU itself counts more errors in its caches than it may have."""
    status = nvml.c_nvmlEccSramErrorStatus_v1_t()
    status.version = nvml.nvmlEccSramErrorStatus_v1
    nvml.nvmlDeviceGetSramEccErrorStatus(handle, ctypes.byref(status))
    return bool(status.bThresholdExceeded)


def recovery_action(nvml: Any, handle: Any, one: Device) -> int:
    """What the driver wants done about this GPU."""
    (value,) = nvml.nvmlDeviceGetFieldValues(handle, [RECOVERY_ACTION])
    if value.nvmlReturn != nvml.NVML_SUCCESS:
        raise nvml.NVMLError(value.nvmlReturn)
    return int(value.value.uiVal)


def pcie(nvml: Any, handle: Any, one: Device) -> dict[str, Any]:
    """The link to the host, now and at best; an idle GPU lowers the generation, not the width."""
    calls = {
        "gen": nvml.nvmlDeviceGetCurrPcieLinkGeneration,
        "gen_max": nvml.nvmlDeviceGetMaxPcieLinkGeneration,
        "width": nvml.nvmlDeviceGetCurrPcieLinkWidth,
        "width_max": nvml.nvmlDeviceGetMaxPcieLinkWidth,
        "replays": nvml.nvmlDeviceGetPcieReplayCounter,
    }
    return {name: one.get(f"pcie.{name}", partial(call, handle)) for name, call in calls.items()}


def fabric(nvml: Any, handle: Any, one: Device) -> dict[str, int]:
    """Registration with the NVSwitch fabric: state 3 is completed, status an NVML code."""
    found = nvml.c_nvmlGpuFabricInfo_t()
    nvml.nvmlDeviceGetGpuFabricInfo(handle, ctypes.byref(found))
    return {"state": int(found.state), "status": int(found.status)}


def nvlinks(nvml: Any, handle: Any, one: Device) -> dict[str, int]:
    """Links that this GPU has, and how many are up."""
    states = []
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            states.append(bool(nvml.nvmlDeviceGetNvLinkState(handle, link)))
        except nvml.NVMLError as error:
            ends = (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_INVALID_ARGUMENT)
            if error.value in ends and (states or error.value == ends[0]):
                break
            raise
    if not states:
        raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
    return {"count": len(states), "up": sum(states)}


def processes(nvml: Any, handle: Any, one: Device) -> list[dict[str, Any]]:
    """Processes with a CUDA context here; memory in MiB, null where the driver does not say."""
    return [
        {"pid": int(p.pid), "mib": None if p.usedGpuMemory is None else p.usedGpuMemory >> 20}
        for p in nvml.nvmlDeviceGetComputeRunningProcesses(handle)[:1000]
    ]


FIELDS: dict[str, Callable[[Any, Any, Device], Any]] = {
    "slot": lambda n, h, _: slot_of(n.nvmlDeviceGetPciInfo(h).busId),
    "name": lambda n, h, _: n.nvmlDeviceGetName(h),
    "uuid": lambda n, h, _: n.nvmlDeviceGetUUID(h),
    "serial": lambda n, h, _: n.nvmlDeviceGetSerial(h),
    "vbios": lambda n, h, _: n.nvmlDeviceGetVbiosVersion(h),
    "cc": lambda n, h, _: list(n.nvmlDeviceGetCudaComputeCapability(h)),
    "memory_mib": lambda n, h, _: n.nvmlDeviceGetMemoryInfo(h).total >> 20,
    "persistence": lambda n, h, _: bool(n.nvmlDeviceGetPersistenceMode(h)),
    "ecc": ecc,
    "remap": remap,
    "retired": retired,
    "sram_threshold_exceeded": sram_threshold,
    "recovery_action": recovery_action,
    "pcie": pcie,
    "mig": lambda n, h, _: bool(n.nvmlDeviceGetMigMode(h)[0]),
    "compute_mode": lambda n, h, _: n.nvmlDeviceGetComputeMode(h),
    "fabric": fabric,
    "nvlinks": nvlinks,
    "temperature": lambda n, h, _: n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU),
    "power_w": lambda n, h, _: round(n.nvmlDeviceGetPowerUsage(h) / 1000, 1),
    "clocks_event_reasons": lambda n, h, _: n.nvmlDeviceGetCurrentClocksEventReasons(h),
    "processes": processes,
}
"""What is read of each GPU, in this order."""


if __name__ == "__main__":
    print(MARK + json.dumps({"schema": 1, **report()}, separators=(",", ":")), flush=True)
