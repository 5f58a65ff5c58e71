"""Figures that checks compare with, each with its default, unit, meaning and source.

The inventory key `thresholds` replaces them per host or group. Travels: standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Threshold:
    """One figure that a site may have another opinion of."""

    default: float
    unit: str
    meaning: str
    source: str


_DISK = "ours: journals, packages, checkpoints' and compilers' temporary files; \
facebookresearch/gcm and Imbue's cluster-health take 80 to 95 % of the size, which on disks of \
terabytes says nothing"

THRESHOLDS: dict[str, Threshold] = {
    "train.memlock-mib": Threshold(
        math.inf,
        "MiB",
        "least memory that a training process may lock where there is RDMA; unlimited does always",
        "Red Hat networking guide 13.5.3 and rdma-core's limits.d/rdma.conf: unlimited",
    ),
    "nodes.bandwidth-gbs": Threshold(
        0,
        "GB/s",
        "least bus bandwidth of the largest all_reduce across hosts; 0: measured, not judged",
        "none that fits all networks: the site's own",
    ),
    "gpu.sram-uncorrected": Threshold(
        4,
        "errors",
        "uncorrectable errors of a GPU's caches over its life that are no reason to replace it",
        "stas00/ml-engineering compute/accelerator/nvidia/debug.md (2026-08): RMA above 4",
    ),
    "gpu.remapped-rows": Threshold(
        512,
        "rows",
        "rows remapped for uncorrectable errors up to which spares do not run out",
        "limit of Azure/azurehpc-health-checks azure_gpu_ecc.nhc (2026-05) and of OCI's "
        "oci-hpc; stas00/ml-engineering: an A100 has 640 spare rows",
    ),
    "gpu.retired-pages": Threshold(
        62,
        "pages",
        "retired pages from which on a board before Ampere is replaced",
        "Azure/azurehpc-health-checks (2026-05): from 62 on, or with one pending",
    ),
    "gpu.margin-c": Threshold(
        3,
        "C",
        "least distance of a GPU's temperature from the one at which it slows itself down",
        "ours: its slowdown begins there by itself, and a sensor moves by a degree or two",
    ),
    "gpu.pcie-replays-per-minute": Threshold(
        8,
        "1/min",
        "packets that a PCIe link may have to send again, on average since boot",
        "NVIDIA/DCGM, dcgm_gpu_hardware_limits.h: 8 per minute, the driver makers' own figure",
    ),
    "gpu.nvlink-replays": Threshold(
        0,
        "replays",
        "replays of one NVLink since the driver was loaded",
        "NVIDIA/DCGM, DcgmHealthWatch MonitorNVLink4Fields: one fails; Meta's gcm: 0",
    ),
    "gpu.nvlink-recoveries": Threshold(
        0,
        "recoveries",
        "recoveries of one NVLink since the driver was loaded",
        "NVIDIA/DCGM, DcgmHealthWatch MonitorNVLink4Fields: one fails; Meta's gcm: 0",
    ),
    "gpu.nvlink-crc-per-second": Threshold(
        100,
        "1/s",
        "packets of one NVLink with a wrong checksum, on average since boot",
        "NVIDIA/DCGM, dcgm_gpu_hardware_limits.h: they only matter from 100 a second on",
    ),
    "gpu.leaked-mib": Threshold(
        15,
        "MiB",
        "memory of a GPU that may be in use while no process is on it",
        "facebookresearch/gcm (2025-12): 15 MiB; the driver's own reserve is not counted",
    ),
    "disk.root-mib": Threshold(512, "MiB", "least free space at /", _DISK),
    "disk.tmp-mib": Threshold(256, "MiB", "least free space at /tmp", _DISK),
    "disk.var-mib": Threshold(256, "MiB", "least free space at /var/lib", _DISK),
    "disk.prefix-mib": Threshold(
        64,
        "MiB",
        "least free space at the prefix, whose environment is in place and grows no more",
        "ours: room for one more record",
    ),
    "disk.inodes": Threshold(
        2000,
        "files",
        "least free inodes where space matters",
        "ours: what a compiler's cache and a job's temporary files need",
    ),
    "disk.scarce": Threshold(
        4, "times", "below this many times the least it is said before it fails", "ours"
    ),
    "network.losses-per-day": Threshold(
        5,
        "losses of the link in 24 h",
        "from this many on a port flaps",
        "Azure/azurehpc-health-checks (2026-05): 5 carrier losses in 24 h",
    ),
    "network.symbol-ber": Threshold(
        1e-12,
        "errors per bit",
        "symbol errors of a port since boot over what its rate could carry",
        "NVIDIA, ibdiagnet User Manual, Bit Error Rate: its threshold is 10^-12",
    ),
    "stuck.seconds": Threshold(
        300,
        "s",
        "uninterruptible sleep from which on a process counts as stuck",
        "leptonai/gpud components/os (2026-08): 5 min, of processes named after NVIDIA",
    ),
    "memory.loss-percent": Threshold(
        2,
        "%",
        "memory less than in the last good run that is no lost module",
        "ours: one module of 32 is 3.1 %; a kernel's own share moves by less; Azure takes 5 %",
    ),
    "soak.sag-percent": Threshold(
        10,
        "%",
        "most that throughput may fall from the first to the last third of a soak",
        "ours: a GPU reaches its temperature within minutes, and within its power limit its clock "
        "falls by a few per cent until then",
    ),
    "soak.sag-cpu-percent": Threshold(
        95,
        "%",
        "the same on the CPU, whose cores others share: only a standstill counts",
        "ours",
    ),
    **{
        f"perf.{claim}-percent": Threshold(
            10,
            "%",
            f"least deviation of {what} from its equals, or from its own past, that counts",
            "stas00/ml-engineering: 5 % and more between GPUs of one sound host is normal; "
            "NVIDIA/Megatron-LM gpu_sniff_test.py and huggingface/gpu-fryer: 10 %; SuperBench: 5 %",
        )
        for claim, what in (
            ("compute", "a GPU's matrix products"),
            ("memory", "a GPU's memory"),
            ("host-link", "a GPU's copies from and to the host"),
            ("peer", "copies between GPUs"),
            ("collectives", "a host's collectives"),
            ("training", "a GPU's training"),
        )
    },
}
"""Name -> figure; a name is a family, a dot, the subject and its unit."""


def unknown(given: Mapping[str, float]) -> list[str]:
    """Names among the given ones that no check reads, in order."""
    return sorted(given.keys() - THRESHOLDS.keys())


def value(name: str, given: Mapping[str, float]) -> float:
    """The inventory's figure, else the default. Raises KeyError for a name that is not here."""
    known = THRESHOLDS[name]
    return float(given.get(name, known.default))
