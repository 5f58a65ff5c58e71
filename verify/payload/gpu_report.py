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
# Ours first: others have published another module of NVML's name; and what the bundle holds, by its
# own name, never from this script's folder.
sys.path[:] = [
    *([str(BUNDLE / "lib")] if (BUNDLE / "lib").is_dir() else []),
    str(BUNDLE),
    *(path for path in sys.path if path != str(Path(__file__).resolve().parent)),
]

from verify.payload import pci_bus  # noqa: E402
from verify.payload.reading import text_of as text_in  # noqa: E402

MARK = "GPUFLEET "
RECOVERY_ACTION = 230
"""Field of what the driver itself wants done about a GPU; 0 is nothing. Driver 570 and newer."""
MEMORY_TEMPERATURE = 82
NVLINK_MBPS = 90
"""Field of the raw speed of every link that is up (NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON)."""
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
            # A driver that is too old for a call or its layout does not have the value either.
            if error.value in (
                self.nvml.NVML_ERROR_NOT_SUPPORTED,
                self.nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
                self.nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
            ):
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
        "driver": None, "cuda": None, "count": None, "uptime_s": None, "gpus": [],
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
        found["uptime_s"] = uptime()
        for gpu in found["gpus"]:
            stage(f"device {gpu['index']}: bus")
            gpu["bus"] = pci_bus.bus(gpu["slot"])
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
    if values["physics"] is not None:
        values["physics"] |= bounds(values)
    return {
        **values,
        "lost": one.lost,
        "errors": one.errors,
        "unsupported": sorted(one.unsupported),
    }


def bounds(values: dict[str, Any]) -> dict[str, Any]:
    """What else bounds a GPU's figures and is read in other places: its links and its power."""
    links = {"nvlinks": (values["nvlinks"] or {}).get("up")}
    pcie, limits = values["pcie"] or {}, values["power"] or {}
    links |= {"pcie_gen": pcie.get("gen_max"), "pcie_width": pcie.get("width_max")}
    return {**links, "power_limit_w": limits.get("enforced")}


def uptime() -> float | None:
    """Seconds since boot: counters that begin with the driver are no older."""
    try:
        return float(text_in("/proc/uptime").split()[0])
    except (ValueError, IndexError):
        return None


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


def sram(nvml: Any, handle: Any, one: Device) -> dict[str, Any]:
    """Uncorrectable errors of the GPU's caches over its life, and its own verdict on them."""
    status = nvml.c_nvmlEccSramErrorStatus_v1_t()
    status.version = nvml.nvmlEccSramErrorStatus_v1
    nvml.nvmlDeviceGetSramEccErrorStatus(handle, ctypes.byref(status))
    return {
        "threshold_exceeded": bool(status.bThresholdExceeded),
        "uncorrected_ever": int(status.aggregateUncParity) + int(status.aggregateUncSecDed),
    }


def field(number: int) -> Callable[[Any, Any, Device], int]:
    """A reader of one of NVML's numbered fields, all of which here are unsigned 32-bit numbers."""

    def read(nvml: Any, handle: Any, one: Device) -> int:
        (value,) = nvml.nvmlDeviceGetFieldValues(handle, [number])
        if value.nvmlReturn == nvml.NVML_ERROR_INVALID_ARGUMENT:  # older than the field
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
        if value.nvmlReturn != nvml.NVML_SUCCESS:
            raise nvml.NVMLError(value.nvmlReturn)
        return int(value.value.uiVal)

    return read


def each(one: Device, prefix: str, calls: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Several values, each read by itself, under names with a common prefix."""
    return {name: one.get(f"{prefix}.{name}", call) for name, call in calls.items()}


def board(nvml: Any, handle: Any, one: Device) -> dict[str, Any]:
    """What a board is and runs, as texts: what a fleet compares and a replacement needs."""
    calls = {
        "vbios": lambda: nvml.nvmlDeviceGetVbiosVersion(handle),
        "gsp": lambda: worded(nvml.nvmlDeviceGetGspFirmwareVersion(handle)),
        "inforom_image": lambda: nvml.nvmlDeviceGetInforomImageVersion(handle),
        "inforom_ecc": lambda: nvml.nvmlDeviceGetInforomVersion(handle, nvml.NVML_INFOROM_ECC),
        "inforom_power": lambda: nvml.nvmlDeviceGetInforomVersion(handle, nvml.NVML_INFOROM_POWER),
        "board_part": lambda: nvml.nvmlDeviceGetBoardPartNumber(handle),
        "board_serial": lambda: nvml.nvmlDeviceGetSerial(handle),
        "board_id": lambda: f"{nvml.nvmlDeviceGetBoardId(handle):#x}",
    }
    place = one.get("board.platform", partial(platform, nvml, handle))
    return {**each(one, "board", calls), **(place or {})}


def platform(nvml: Any, handle: Any) -> dict[str, str]:
    """Place of a board in its chassis (rack-scale boards; driver 565 and newer)."""
    found = nvml.c_nvmlPlatformInfo_v2_t()
    nvml.nvmlDeviceGetPlatformInfo(handle, ctypes.byref(found))
    return {
        "chassis_serial": worded(found.chassisSerialNumber),
        "chassis_slot": str(ord(found.slotNumber)),
        "chassis_tray": str(ord(found.trayIndex)),
        "module": str(ord(found.moduleId)),
    }


def worded(value: Any) -> str:
    """Text of a C buffer, which nvidia-ml-py leaves as bytes in a few places."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def physics(nvml: Any, handle: Any, one: Device) -> dict[str, Any]:
    """What bounds a GPU's figures: clocks, width of memory, cores, links, power."""
    speed = one.get("physics.nvlink_gbs", partial(field(NVLINK_MBPS), nvml, handle, one))
    calls = {
        "sm_clock_max_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        "memory_clock_max_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM),
        "memory_bus_bits": lambda: nvml.nvmlDeviceGetMemoryBusWidth(handle),
        "cores": lambda: nvml.nvmlDeviceGetNumGpuCores(handle),
    }
    found = each(one, "physics", calls)
    if speed:
        found["nvlink_gbs"] = link_gbs(speed)
    return found


def link_gbs(raw: int) -> float:
    """GB/s of payload of one link, one way, from the raw speed in MB/s: NVLink 2 and 4 tell 25.78
    and 26.56 for 25, NVLink 5 53.13 for 50
    (stas00/ml-engineering, network/README.md)."""
    near = [known for known in (25.0, 50.0) if 1.0 <= raw / 1000 / known <= 1.07]
    return near[0] if near else raw / 1000


def pcie(nvml: Any, handle: Any, one: Device) -> dict[str, Any]:
    """The link to the host, now and at best; an idle GPU lowers the generation, not the width.

    gen_max is what GPU and slot can agree on, gen_gpu what the GPU alone is made for.
    """
    calls = {
        "gen": nvml.nvmlDeviceGetCurrPcieLinkGeneration,
        "gen_max": nvml.nvmlDeviceGetMaxPcieLinkGeneration,
        "gen_gpu": nvml.nvmlDeviceGetGpuMaxPcieLinkGeneration,
        "width": nvml.nvmlDeviceGetCurrPcieLinkWidth,
        "width_max": nvml.nvmlDeviceGetMaxPcieLinkWidth,
        "replays": nvml.nvmlDeviceGetPcieReplayCounter,
    }
    return each(one, "pcie", {name: partial(call, handle) for name, call in calls.items()})


def fabric(nvml: Any, handle: Any, one: Device) -> dict[str, Any]:
    """Registration with the NVSwitch fabric: state 3 is completed, status an NVML code; health is
    a mask and summary a verdict where the driver is new enough, else nothing."""
    for layout, health, summary in (
        (nvml.c_nvmlGpuFabricInfo_v3_t, True, True),
        (nvml.c_nvmlGpuFabricInfo_v2_t, True, False),
    ):
        found = layout()
        try:
            nvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(found))
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
                raise
            continue  # drivers refuse a layout that they do not know in several ways
        return {
            "state": int(found.state),
            "status": int(found.status),
            "health": int(found.healthMask) if health else None,
            "summary": int(found.healthSummary) if summary else None,
        }
    old = nvml.c_nvmlGpuFabricInfo_t()
    nvml.nvmlDeviceGetGpuFabricInfo(handle, ctypes.byref(old))
    return {"state": int(old.state), "status": int(old.status), "health": None, "summary": None}


def nvlinks(nvml: Any, handle: Any, one: Device) -> dict[str, Any]:
    """Links that this GPU has, which of them are down, where they lead, and what they counted."""
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
    up = [link for link, state in enumerate(states) if state]
    return {
        "count": len(states),
        "up": len(up),
        "down": [link for link, state in enumerate(states) if not state],
        "to": one.get("nvlinks.to", partial(ends_of, nvml, handle, up)),
        "errors": {
            name: one.get(f"nvlinks.{name}", partial(counted, nvml, handle, up, counter))
            for counter, name in enumerate(LINK_ERRORS)
        },
    }


LINK_ERRORS = ("replay", "recovery", "crc_flit", "crc_data")
"""Error counters of a link in NVML's order (nvmlNvLinkErrorCounter_t)."""
LINK_ENDS = {0: "gpu", 1: "cpu", 2: "switch"}
"""What a link leads to (nvmlIntNvLinkDeviceType_t)."""


def ends_of(nvml: Any, handle: Any, up: list[int]) -> list[str]:
    """Kinds of what the links that are up lead to."""
    kinds = {nvml.nvmlDeviceGetNvLinkRemoteDeviceType(handle, link) for link in up}
    return sorted(LINK_ENDS.get(kind, f"type {kind}") for kind in kinds)


def counted(nvml: Any, handle: Any, up: list[int], counter: int) -> dict[str, int]:
    """Link -> errors since the driver was loaded, of the links that are up and have any."""
    counts = {link: nvml.nvmlDeviceGetNvLinkErrorCounter(handle, link, counter) for link in up}
    return {str(link): int(count) for link, count in counts.items() if count}


def clocks(nvml: Any, handle: Any, one: Device) -> dict[str, Any]:
    """Why clocks are not at their most, as NVML's masks, and the clocks now in MHz."""
    calls = {
        "reasons": nvml.nvmlDeviceGetCurrentClocksEventReasons,
        "supported": nvml.nvmlDeviceGetSupportedClocksEventReasons,
    }
    now = {
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
    }
    return {
        **each(one, "clocks", {name: partial(call, handle) for name, call in calls.items()}),
        **each(one, "clocks", now),
    }


def heat(nvml: Any, handle: Any, one: Device) -> dict[str, Any]:
    """Temperatures and what the device itself takes for too hot, in degrees Celsius; margin is
    what is left until it slows down, which newer boards tell in place of thresholds."""

    def limit(kind: int) -> Callable[[], Any]:
        return lambda: nvml.nvmlDeviceGetTemperatureThreshold(handle, kind)

    calls = {
        "gpu": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        "slowdown": limit(nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
        "shutdown": limit(nvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN),
        "margin": lambda: nvml.nvmlDeviceGetMarginTemperature(handle),
        "memory": lambda: field(MEMORY_TEMPERATURE)(nvml, handle, one),
        "memory_max": limit(nvml.NVML_TEMPERATURE_THRESHOLD_MEM_MAX),
    }
    return each(one, "heat", calls)


def power(nvml: Any, handle: Any, one: Device) -> dict[str, Any]:
    """Draw and limits in W; time in which power or heat held the clocks down, in ns since the
    driver was loaded."""
    watts = {
        "draw": nvml.nvmlDeviceGetPowerUsage,
        "enforced": nvml.nvmlDeviceGetEnforcedPowerLimit,
        "default": nvml.nvmlDeviceGetPowerManagementDefaultLimit,
    }
    held = {
        "held_by_power_ns": nvml.NVML_PERF_POLICY_POWER,
        "held_by_heat_ns": nvml.NVML_PERF_POLICY_THERMAL,
    }
    return {
        **each(one, "power", {k: partial(watt, call, handle) for k, call in watts.items()}),
        **each(one, "power", {k: partial(violation, nvml, handle, of) for k, of in held.items()}),
    }


def watt(call: Callable[[Any], int], handle: Any) -> float:
    return round(call(handle) / 1000, 1)


def violation(nvml: Any, handle: Any, policy: int) -> int:
    return int(nvml.nvmlDeviceGetViolationStatus(handle, policy).violationTime)


def memory(nvml: Any, handle: Any, one: Device) -> dict[str, int]:
    """MiB of memory: in use by programs, kept by the driver for itself, and all."""
    found = nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)
    return {
        "used_mib": found.used >> 20,
        "reserved_mib": found.reserved >> 20,
        "total_mib": found.total >> 20,
    }


def processes(nvml: Any, handle: Any, one: Device) -> list[dict[str, Any]]:
    """Processes that compute or draw here; memory in MiB, null where the driver does not say."""
    calls = (
        nvml.nvmlDeviceGetComputeRunningProcesses,
        nvml.nvmlDeviceGetGraphicsRunningProcesses,
    )
    found = {
        int(p.pid): None if p.usedGpuMemory is None else p.usedGpuMemory >> 20
        for call in calls
        for p in call(handle)[:1000]
    }
    return [{"pid": pid, "mib": mib} for pid, mib in sorted(found.items())]


FIELDS: dict[str, Callable[[Any, Any, Device], Any]] = {
    "slot": lambda n, h, _: slot_of(n.nvmlDeviceGetPciInfo(h).busId),
    "name": lambda n, h, _: n.nvmlDeviceGetName(h),
    "uuid": lambda n, h, _: n.nvmlDeviceGetUUID(h),
    "serial": lambda n, h, _: n.nvmlDeviceGetSerial(h),
    "cc": lambda n, h, _: list(n.nvmlDeviceGetCudaComputeCapability(h)),
    "memory_mib": lambda n, h, _: n.nvmlDeviceGetMemoryInfo(h).total >> 20,
    "memory": memory,
    "board": board,
    "physics": physics,
    "persistence": lambda n, h, _: bool(n.nvmlDeviceGetPersistenceMode(h)),
    "ecc": ecc,
    "remap": remap,
    "retired": retired,
    "sram": sram,
    "recovery_action": field(RECOVERY_ACTION),
    "pcie": pcie,
    "mig": lambda n, h, _: bool(n.nvmlDeviceGetMigMode(h)[0]),
    "compute_mode": lambda n, h, _: n.nvmlDeviceGetComputeMode(h),
    "fabric": fabric,
    "nvlinks": nvlinks,
    "heat": heat,
    "power": power,
    "clocks": clocks,
    "processes": processes,
}
"""What is read of each GPU, in this order."""


if __name__ == "__main__":
    print(MARK + json.dumps({"schema": 1, **report()}, separators=(",", ":")), flush=True)
