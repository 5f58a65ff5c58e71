"""The links of GPUs to their host: width, generation, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from verify.applies import Scene
from verify.checks import Look, check
from verify.gpus import answering, part, told


@check(
    "gpu.pcie-width",
    component="gpu",
    verdict="degraded",
    needs=("nvml",),
    action="service",
    source="NVML API: current and maximum link width (an idle GPU lowers the generation, not the "
    "width); NVIDIA/DCGM asks for x16, of a T4 for x8: the maximum says what a part is made for",
    fault="pcie-width:6:8",
)
def test_pcie_width(scene: Scene, gpus: list[dict[str, Any]], look: Look) -> None:
    """Every GPU's link to the host is as wide as it can be."""
    slots = {one["slot"].partition(".")[0]: one for one in scene.report["pci"]["gpus"]}
    for gpu in answering(gpus, scene, look):
        pcie, bus = gpu["pcie"] or {}, slots.get((gpu["slot"] or "").partition(".")[0], {})
        seen = {
            "NVML": (pcie.get("width"), pcie.get("width_max")),
            "sysfs": (bus.get("width"), bus.get("width_max")),
        }
        known = {where: pair for where, pair in seen.items() if None not in pair and pair[1]}
        if not known:
            errors = [text for name, text in gpu["errors"].items() if name.startswith("pcie")]
            why = "; ".join(errors) or "neither NVML nor sysfs tells it"
            look.unknown(part(gpu), "width of the link", why=why)
            continue
        width, most = min(known.values(), key=lambda pair: pair[0] / pair[1])
        look.at(
            part(gpu),
            "width of the link to the host",
            found=f"x{width}",
            expected=f"x{most}",
            verdict="degraded",
            baseline="physics",
            evidence=[f"{name}: x{pair[0]} of x{pair[1]}" for name, pair in known.items()],
        )


@check(
    "gpu.pcie-gen",
    component="gpu",
    verdict="degraded",
    needs=("nvml", "pcie-gen"),
    action="service",
    source="NVML API: maximum link generation of GPU and system, and of the GPU; sysfs "
    "max_link_speed of the port above",
    fault="nvml:4:pcie_gen_max=3",
)
def test_pcie_gen(
    scene: Scene, gpus: list[dict[str, Any]], look: Look, inform: Callable[[str], None]
) -> None:
    """Every GPU can talk to its slot in the newest PCIe generation that both are made for."""
    for gpu in answering(gpus, scene, look):
        can = told(gpu, "pcie.gen_max", "generation of the link", look)
        if can is None:
            continue
        bus = gpu["bus"] or {}
        made = (gpu["pcie"] or {}).get("gen_gpu") or bus.get("gen_max")
        if made is None:
            why = "neither NVML nor sysfs tells what the GPU is made for"
            look.unknown(part(gpu), "generation of the link", why=why)
            continue
        port = bus.get("port_gen_max")
        if port is not None and port < made:
            inform(f"GPU {gpu['index']} is made for PCIe generation {made}, its slot for {port}")
        # What neither end is made for is no fault: a generation 5 card in a generation 4 server.
        best = min(made, port or made)
        look.at(
            part(gpu),
            "PCIe generation that GPU and slot can agree on",
            found=can,
            expected=f"at least {best}",
            held=can >= best,
            verdict="degraded",
            baseline="physics",
            evidence=(
                f"the GPU is made for generation {made}, its slot for {port or 'what is not told'}",
                "the firmware's setting of the slot's speed is the usual cause",
            ),
        )


@check(
    "gpu.pcie-errors",
    component="gpu",
    needs=("nvml", "pcie-errors"),
    action="service",
    source="kernel: aer_dev_fatal and aer_dev_nonfatal; NVML API: PCIe replay counter; "
    "NVIDIA/DCGM, dcgm_gpu_hardware_limits.h",
    fault="aer:5:nonfatal:MalfTLP=2",
)
def test_pcie_errors(
    scene: Scene,
    gpus: list[dict[str, Any]],
    threshold: Callable[[str], float],
    look: Look,
) -> None:
    """No link to the host had errors that the hardware could not correct, nor many replays."""
    for gpu in answering(gpus, scene, look):
        aer = (gpu["bus"] or {}).get("aer")
        if aer is not None:
            _uncorrected(gpu, aer, look)
        replays = told(gpu, "pcie.replays", "replays", look)
        if replays is not None:
            _replays(gpu, replays, scene, threshold("gpu.pcie-replays-per-minute"), look)


HARMLESS = ("UnsupReq", "Unsupported Request")
"""A request that a device does not know: probing of the bus makes them on healthy hosts, and they
say nothing of the link (PCI Express Base Specification: Unsupported Request)."""


def _uncorrected(gpu: dict[str, Any], aer: dict[str, Any], look: Look) -> None:
    for kind in ("fatal", "nonfatal"):
        counts = aer[kind]
        if counts is None:
            look.unknown(part(gpu), f"{kind} errors of the link", why="the kernel does not tell")
            continue
        real = {name: count for name, count in counts.items() if name not in HARMLESS}
        corrected = ", ".join(f"{n} {c}" for n, c in (aer["correctable"] or {}).items())
        look.at(
            part(gpu),
            f"{kind} errors of the link since boot",
            found=", ".join(f"{name} {count}" for name, count in real.items()) or "none",
            expected="none",
            evidence=(f"corrected by the hardware: {corrected or 'none'}",),
        )


def _replays(gpu: dict[str, Any], replays: int, scene: Scene, most: float, look: Look) -> None:
    seconds = scene.report["nvml"].get("uptime_s")
    if replays and not seconds:
        look.unknown(part(gpu), "replays", why="it is not known since when they are counted")
        return
    minutes = max((seconds or 0) / 60, 1)
    look.at(
        part(gpu),
        "packets that were sent again",
        found=f"{replays} in {minutes:.0f} min since boot",
        expected=f"at most {most:g} a minute",
        held=replays / minutes <= most,
        verdict="degraded",
    )
