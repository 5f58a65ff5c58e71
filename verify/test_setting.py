"""How the GPUs of a host are set: persistence, MIG, compute mode, limit of power."""

from __future__ import annotations

from typing import Any

from verify.applies import Scene
from verify.checks import Component, Look, check
from verify.gpus import answering, part, told


@check(
    "gpu.persistence",
    component="gpu",
    verdict="degraded",
    needs=("persistence",),
    source="docs.nvidia.com, Driver Persistence; Azure/azurehpc-health-checks, leptonai/gpud: on",
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
    source="NVML API: MIG mode; torch sees slices; NVIDIA/DCGM refuses its level 4 with MIG",
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


MODES = {
    0: ("any number of processes", ""),
    1: ("one thread", "degraded"),
    2: ("none: computing is prohibited", "fail"),
    3: ("one process", "degraded"),
}
"""NVML's compute modes (nvmlComputeMode_t): who may use a GPU, and what becomes of a host so set.
Where one process may, training with one rank a GPU runs, and whatever opens a second context on it
(a data loader, a profiler, the next job while the last one ends) does not."""


@check(
    "gpu.compute-mode",
    component="gpu",
    needs=("nvml", "compute-mode"),
    source="NVML API: nvmlComputeMode_t; Imbue's cluster-health and OCI's oci-hpc read it",
    fault="nvml:0:compute_mode=2",
)
def test_compute_mode(scene: Scene, gpus: list[dict[str, Any]], look: Look) -> None:
    """Any number of processes may compute on each GPU."""
    for gpu in answering(gpus, scene, look):
        mode = told(gpu, "compute_mode", "compute mode", look)
        if mode is None:
            continue
        who, verdict = MODES.get(mode, (f"mode {mode}, which NVML's reference does not know", ""))
        look.at(
            part(gpu),
            "who may compute on it",
            found=who,
            expected=MODES[0][0],
            verdict=verdict or "degraded",
            evidence=(f"nvidia-smi -i {gpu['index']} -c 0 sets it until the driver is unloaded",),
        )


@check(
    "gpu.power",
    component="gpu",
    verdict="degraded",
    needs=("nvml", "power"),
    source="NVML API: enforced and default power limit; leptonai/gpud compares them",
    fault="nvml:2:power_limit_mw=500000",
)
def test_power(scene: Scene, gpus: list[dict[str, Any]], look: Look) -> None:
    """The limit of every GPU's power is the wished one, else no lower than the board's default."""
    wish = (scene.expected or {}).get("power_limit")
    for gpu in answering(gpus, scene, look):
        found = told(gpu, "power.enforced", "limit of power", look)
        wanted = wish or told(gpu, "power.default", "default limit of power", look)
        if found is None or wanted is None:
            continue
        look.at(
            part(gpu),
            "limit of power",
            found=f"{found:g} W",
            expected=f"{wanted:g} W" if wish else f"{wanted:g} W, the board's default",
            held=round(found) == wanted if wish else found >= wanted - 1,
            verdict="degraded",
            baseline=scene.expected_from if wish else "physics",
            evidence=(f"nvidia-smi -i {gpu['index']} -q -d POWER",),
        )
