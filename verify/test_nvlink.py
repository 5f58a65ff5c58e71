"""NVLinks: as many as the board has by design, and their errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from verify.applies import ASKED, COMPLETED, NEEDS, Scene
from verify.checks import Look, check
from verify.gpus import having, part
from verify.test_fabric import unit

WIRED = re.compile(r"SXM|HBM3|NVIDIA (H20|H200|B200|B300)\b(?! NVL)")
"""Boards whose links are wired to others on a baseboard, as NVML names them. The links of all other
boards end at bridges that a site may or may not have bought: no link there is no fault."""
DESIGN = (
    (re.compile(r"H100 NVL"), 12),
    (re.compile(r"A100|A800"), 12),
    (re.compile(r"H100 PCIe"), 12),
    (re.compile(r"V100"), 6),
    (re.compile(r"H20\b|H100|H200|H800|B200|B300"), 18),
)
"""Links that a product has by design, the first that fits (stas00/ml-engineering,
network/README.md; Azure/azurehpc-health-checks issue 162: 12 of the 18 that NVML lists for an
H100 NVL)."""


def by_design(name: str) -> int | None:
    """Links of a product; None for one that is not known."""
    return next((count for form, count in DESIGN if form.search(name)), None)


@check(
    "gpu.nvlink",
    component="gpu",
    needs=("nvml", "nvlinks"),
    action="reboot",
    source="NVML API: NVLink state; traps: leptonai/gpud issue 1085 (inactive links pass), "
    "NVIDIA/NVSentinel PR 1481 (a bridge that never was is a fault)",
    fault="nvml:7:nvlinks_down=1",
)
def test_nvlink(
    scene: Scene,
    gpus: list[dict[str, Any]],
    host: Any,
    look: Look,
    inform: Callable[[str], None],
) -> None:
    """Every NVLink that a GPU's board has by design is up; what no board has is no fault."""
    fabric = NEEDS["nvswitches"](scene) == ASKED
    stopped = fabric and not host.service(unit(scene)).is_running
    for gpu, links in having("nvlinks", "NVLinks", gpus, scene, look):
        wanted, why = expected(gpu, gpus, fabric)
        if gpu["mig"] and links["up"] < wanted:
            if not (scene.expected or {}).get("mig"):
                told = "MIG is on: a partitioned GPU uses none"
                look.unknown(part(gpu), "NVLinks that are up", why=told, because="gpu.mig")
                continue
            wanted, why = 0, "MIG is on: a partitioned GPU uses none"
        if not wanted and not links["up"]:
            inform(f"GPU {gpu['index']} ({gpu['name']}) uses no NVLink: {why}")
        unregistered = fabric and (gpu["fabric"] or {"state": COMPLETED})["state"] != COMPLETED
        look.at(
            part(gpu),
            "NVLinks that are up",
            found=links["up"],
            expected=f"{wanted}: {why}" if why else wanted,
            held=links["up"] >= wanted,
            baseline="physics",
            evidence=(
                f"down: {', '.join(map(str, links['down'])) or 'none'}",
                f"nvidia-smi nvlink -s -i {gpu['index']}",
            ),
            because="fabric.manager" if stopped or unregistered else "",
        )


def expected(gpu: dict[str, Any], gpus: list[dict[str, Any]], fabric: bool) -> tuple[int, str]:
    """How many links must be up, and why that many."""
    name, links = gpu["name"] or "", gpu["nvlinks"]
    equals = [one["nvlinks"] or {} for one in gpus if one["name"] == gpu["name"]]
    most = max(one.get("up", 0) for one in equals)
    design = by_design(name)
    if not WIRED.search(name):
        if not links["up"]:
            return 0, "no bridge is on it, which this board need not have"
        return min(design or links["count"], links["count"]), "all of a bridged board"
    if fabric:
        return max(design or 0, links["count"]), "all of the board, to NVSwitches"
    if len(gpus) == 1:
        return 0, "a single GPU has no other to talk to"
    if not most:
        return max(design or 0, links["count"]), "all of the board"
    # Without switches a baseboard need not wire every link; it wires equal GPUs alike.
    return most, "as many as its equal neighbours"


COUNTERS = {
    "replay": ("replays", "gpu.nvlink-replays"),
    "recovery": ("recoveries", "gpu.nvlink-recoveries"),
    "crc_flit": ("flits with a wrong checksum", "gpu.nvlink-crc-per-second"),
    "crc_data": ("data packets with a wrong checksum", "gpu.nvlink-crc-per-second"),
}


@check(
    "gpu.nvlink-errors",
    component="gpu",
    verdict="degraded",
    needs=("nvml", "nvlinks", "nvlink-errors"),
    action="drain",
    source="NVML API: NVLink error counters; NVIDIA/DCGM, DcgmHealthWatch MonitorNVLink4Fields; "
    "facebookresearch/gcm: none",
    fault="nvml:6:nvlink_recovery=2",
)
def test_nvlink_errors(
    scene: Scene,
    gpus: list[dict[str, Any]],
    threshold: Callable[[str], float],
    look: Look,
) -> None:
    """No NVLink has more errors since the driver was loaded than it may have."""
    seconds = scene.report["nvml"].get("uptime_s")
    for gpu, links in having("nvlinks", "errors of NVLinks", gpus, scene, look):
        for counter, (what, limit) in COUNTERS.items():
            counts = links["errors"][counter]
            if counts is None:
                error = gpu["errors"].get(f"nvlinks.{counter}")
                if error:
                    look.unknown(part(gpu), f"NVLink {what}", why=error)
                continue
            most, per_second = threshold(limit), limit.endswith("-per-second")
            if per_second and counts and not seconds:
                why = "it is not known since when they are counted"
                look.unknown(part(gpu), f"NVLink {what}", why=why)
                continue
            over = {
                link: count
                for link, count in counts.items()
                if (count / seconds if per_second else count) > most
            }
            look.at(
                part(gpu),
                f"NVLink {what} since the driver was loaded",
                found=", ".join(f"{count} on link {link}" for link, count in over.items())
                or "none too many",
                expected=f"at most {most:g}{' a second' if per_second else ''} on each link",
                held=not over,
                verdict="degraded",
                evidence=(f"nvidia-smi nvlink -e -i {gpu['index']}",),
            )
