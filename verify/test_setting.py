"""How the GPUs of a host are attached and set: width of the link, persistence, MIG."""

from __future__ import annotations

from typing import Any

from verify.applies import Scene
from verify.checks import Component, Look, check
from verify.gpus import answering, part


@check(
    "gpu.pcie-width",
    component="gpu",
    verdict="degraded",
    needs=("nvml",),
    action="service",
    source="NVML API: current and maximum link width; research: verification 1.6 (an idle GPU "
    "lowers the generation, not the width; a part made for x8 has 8 as its maximum)",
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
    "gpu.persistence",
    component="gpu",
    verdict="degraded",
    needs=("persistence",),
    source="docs.nvidia.com, Driver Persistence; research: verification 1.2",
    fault="persistence-off",
)
def test_persistence(scene: Scene, gpus: list[dict[str, Any]], host: Any, look: Look) -> None:
    """The driver keeps its state while no process uses a GPU."""
    stopped = False
    for service in (scene.expected or {}).get("services", []):
        if "persistenced" in service:
            stopped = not look.at(
                Component(kind="service", name=service),
                "service",
                found="running" if host.service(service).is_running else "not running",
                expected="running",
                verdict="degraded",
                evidence=(f"systemctl status {service}",),
            )
    for gpu in answering(gpus, scene, look):
        if gpu["persistence"] is None:
            why = gpu["errors"].get("persistence", "this driver knows none")
            look.unknown(part(gpu), "persistence mode", why=why)
            continue
        look.at(
            part(gpu),
            "persistence mode",
            found="on" if gpu["persistence"] else "off",
            expected="on",
            verdict="degraded",
            because="gpu.persistence" if stopped else "",
        )


@check(
    "gpu.mig",
    component="gpu",
    verdict="degraded",
    needs=("nvml", "mig"),
    source="NVML API: MIG mode; torch sees slices, research: verification 1.3",
    fault="mig:0",
)
def test_mig(scene: Scene, gpus: list[dict[str, Any]], look: Look) -> None:
    """GPUs are partitioned where the inventory says so and nowhere else."""
    wished = bool((scene.expected or {}).get("mig"))
    for gpu in answering(gpus, scene, look):
        if gpu["mig"] is None and "mig" in gpu["errors"]:
            look.unknown(part(gpu), "MIG mode", why=gpu["errors"]["mig"])
        else:
            look.at(
                part(gpu),
                "MIG mode",
                found="on" if gpu["mig"] else "off",
                expected="on" if wished else "off",
                verdict="degraded",
            )
