"""Samples what NVML says of every GPU while a load runs, into FOLDER/load.json; opens no CUDA.

    python3 gpu_load.py FOLDER SECONDS

Counters are read before and after, clocks, power, temperature and the PCIe link in between, until
FOLDER/load.stop is there or the seconds are over. The file is written anew again and again, so that
what was seen stays when this ends early. A value that cannot be read is null. Calls and their
meaning: NVIDIA's NVML API reference, as nvidia-ml-py declares it. Standard library and the bundle's
nvidia-ml-py; Python 3.10 must do.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).resolve().parents[2]
if (BUNDLE / "lib").is_dir():
    sys.path.insert(0, str(BUNDLE / "lib"))

EVERY_S = 0.25
KEPT_EVERY = 8
"""Samples between two times that counters are read and all is written down."""
MOST_SAMPLES = 400
PR_SET_PDEATHSIG = 1
NVLINK = 2
"""NVML_P2P_CAPS_INDEX_NVLINK."""
ANCESTORS = {0: "INT", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}
"""nvmlGpuTopologyLevel_t in the words of `nvidia-smi topo -m`."""
LINK_ERRORS = {"nvlink_replay": 0, "nvlink_recovery": 1, "nvlink_crc_flit": 2, "nvlink_crc_data": 3}
"""nvmlNvLinkErrorCounter_t."""

Record = dict[str, Any]


class Reader:
    """NVML, asked so that one value that cannot be read costs no other."""

    def __init__(self, nvml: Any) -> None:
        self.nvml = nvml
        nvml.nvmlInit()
        self.handles = [
            nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())
        ]
        self.links = [self.links_up(handle) for handle in self.handles]
        """Of each GPU, the NVLinks that are up, and the slot that each ends at."""

    def get(self, read: Callable[..., Any], *words: Any) -> Any:
        """A value, or None."""
        try:
            return read(*words)
        except (self.nvml.NVMLError, ValueError, TypeError, AttributeError, OSError):
            return None

    def links_up(self, handle: Any) -> dict[int, str]:
        """NVLinks that are up -> slot of what is at the other end."""
        found = {}
        for link in range(getattr(self.nvml, "NVML_NVLINK_MAX_LINKS", 18)):
            state = self.get(self.nvml.nvmlDeviceGetNvLinkState, handle, link)
            if state is None:
                break
            if state:
                pci = self.get(self.nvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)
                found[link] = str(getattr(pci, "busId", "")).lower()
        return found

    def identity(self, index: int, handle: Any) -> Record:
        """What tells this GPU from others, and what its PCIe link can do."""
        nvml = self.nvml
        slot = self.get(lambda: nvml.nvmlDeviceGetPciInfo(handle).busId)
        return {
            "index": index,
            "uuid": self.get(lambda: nvml.nvmlDeviceGetUUID(handle)) or "",
            "name": self.get(lambda: nvml.nvmlDeviceGetName(handle)) or "",
            "slot": str(slot or "").lower(),
            "gen_max": self.get(lambda: nvml.nvmlDeviceGetMaxPcieLinkGeneration(handle)),
            "width_max": self.get(lambda: nvml.nvmlDeviceGetMaxPcieLinkWidth(handle)),
        }

    def counters(self, index: int) -> dict[str, int | None]:
        """What must not grow while a healthy GPU works."""
        nvml, handle = self.nvml, self.handles[index]

        def ecc(kind: int) -> Any:
            return self.get(nvml.nvmlDeviceGetTotalEccErrors, handle, kind, nvml.NVML_VOLATILE_ECC)

        rows = self.get(lambda: nvml.nvmlDeviceGetRemappedRows(handle))
        found: dict[str, int | None] = {
            "pcie_replays": self.get(lambda: nvml.nvmlDeviceGetPcieReplayCounter(handle)),
            "ecc_corrected": ecc(nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            "ecc_uncorrected": ecc(nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
            "remapped_corrected": None if rows is None else int(rows[0]),
            "remapped_uncorrected": None if rows is None else int(rows[1]),
        }
        for name, kind in LINK_ERRORS.items():
            values = [
                self.get(nvml.nvmlDeviceGetNvLinkErrorCounter, handle, link, kind)
                for link in self.links[index]
            ]
            read = [int(one) for one in values if one is not None]
            found[name] = sum(read) if read else None
        return found

    def sample(self, handle: Any) -> list[float | int | None]:
        """Temperature in C, power in W, SM clock in MHz, clock event reasons, link now."""
        nvml = self.nvml
        power = self.get(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        return [
            self.get(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            None if power is None else power / 1000,
            self.get(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            self.get(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)),
            self.get(lambda: nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle)),
            self.get(lambda: nvml.nvmlDeviceGetCurrPcieLinkWidth(handle)),
        ]

    def relation(self, one: int, other: int, slots: list[str]) -> str:
        """How two GPUs are joined: NV and the number of links, else the common ancestor."""
        nvml, here, there = self.nvml, self.handles[one], self.handles[other]
        if self.get(lambda: nvml.nvmlDeviceGetP2PStatus(here, there, NVLINK)) == 0:
            ends = list(self.links[one].values())
            # Through NVSwitch every link leads to every GPU, and none ends at another GPU.
            return f"NV{ends.count(slots[other]) or len(ends)}" if ends else "unknown"
        level = self.get(lambda: nvml.nvmlDeviceGetTopologyCommonAncestor(here, there))
        return ANCESTORS.get(level, "unknown") if level is not None else "unknown"


def sample_until(folder: Path, seconds: float) -> int:
    """Sample until told to stop; exit status."""
    until = time.monotonic() + seconds
    found: Record = {"state": "failed", "error": "", "relations": {}, "gpus": []}
    keep(folder, found)
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError as error:
        found["error"] = f"nvidia-ml-py cannot be imported: {error}"[:200]
        keep(folder, found)
        return 0
    try:
        reader = Reader(pynvml)
    except (pynvml.NVMLError, OSError) as error:
        found["error"] = str(error)[:200]
        keep(folder, found)
        return 0
    gpus = [reader.identity(index, handle) for index, handle in enumerate(reader.handles)]
    for gpu in gpus:
        gpu |= {"before": reader.counters(gpu["index"]), "after": None, "samples": []}
    found |= {"state": "ok", "gpus": gpus}
    keep(folder, found)
    slots = [gpu["slot"] for gpu in gpus]
    pairs = [(a, b) for a in range(len(gpus)) for b in range(len(gpus)) if a != b]
    found["relations"] = {f"{a}-{b}": reader.relation(a, b, slots) for a, b in pairs[:4032]}
    turn = 0
    while time.monotonic() < until and not (folder / "load.stop").exists():
        for gpu, handle in zip(gpus, reader.handles, strict=True):
            if len(gpu["samples"]) < MOST_SAMPLES:
                gpu["samples"].append([round(time.monotonic(), 3), *reader.sample(handle)])
        if turn % KEPT_EVERY == 0:
            remember(folder, found, reader)
        turn += 1
        time.sleep(EVERY_S)
    remember(folder, found, reader)
    return 0


def remember(folder: Path, found: Record, reader: Reader) -> None:
    """Read the counters once more and write all down."""
    for gpu in found["gpus"]:
        gpu["after"] = reader.counters(gpu["index"])
    keep(folder, found)


def keep(folder: Path, found: Record) -> None:
    """Write down what was seen so far."""
    part = folder / "load.part"
    part.write_text(json.dumps(found))
    part.replace(folder / "load.json")


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(5)
    sys.exit(sample_until(Path(sys.argv[1]), float(sys.argv[2])))
