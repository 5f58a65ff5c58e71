"""The fabric between GPUs on hosts with NVSwitches."""

from __future__ import annotations

from typing import Any

from verify.applies import COMPLETED, Scene, fabric_told
from verify.checks import HOST, Component, Look, check
from verify.gpus import having, part
from verify.versions import stale, upstream


@check(
    "fabric.manager",
    component="fabric",
    needs=("driver", "nvswitches"),
    source="CUDA error 802: dstackai/dstack issue 2348; versions apart: "
    "NVIDIA/gpu-driver-container issue 735",
    fault="fabric-stopped",
)
def test_fabric(scene: Scene, host: Any, gpus: list[dict[str, Any]], look: Look) -> None:
    """The fabric manager runs at the driver's version, and every GPU is in its fabric."""
    name_of_unit = unit(scene)
    service = Component(kind="service", name=name_of_unit)
    loaded = scene.report["modules"]["loaded"].get("nvidia", "")
    name, version = _fabric_package(scene, host)
    other = bool(version) and upstream(version) != loaded  # then it refuses to start
    running = look.at(
        service,
        "service",
        found="running" if host.service(name_of_unit).is_running else "not running",
        expected="running",
        evidence=(f"journalctl -u {name_of_unit}", "CUDA fails with error 802 without it"),
        because=_why_other(scene, name, version) if other else "",
    )
    if not loaded:
        look.unknown(service, "version", why="no driver is loaded", because="nvml.answers")
    elif not version:
        look.unknown(service, "version", why="no package of it is installed")
    else:
        look.at(
            service,
            "version of the fabric manager",
            found=upstream(version),
            expected=loaded,
            because=_why_other(scene, name, version),
        )
    if scene.report["nvml"]["state"] != "ok":
        why = "NVML did not answer"
        look.unknown(HOST, "state of the GPUs in the fabric", why=why, because="nvml.answers")
        return
    for gpu, fabric in having("fabric", "state in the fabric", gpus, scene, look):
        good = fabric["state"] == COMPLETED and fabric["status"] == 0
        if not running:
            why = f"state {fabric['state']}: no fabric manager runs"
            if not good:
                look.unknown(part(gpu), "state in the fabric", why=why, because="fabric.manager")
            continue
        look.at(
            part(gpu),
            "state in the fabric",
            found="completed" if good else f"state {fabric['state']}, status {fabric['status']}",
            expected="completed",
        )


def unit(scene: Scene) -> str:
    """The fabric manager's service on this host."""
    services = (scene.expected or {}).get("services", [])
    return next((str(one) for one in services if "fabricmanager" in one), "nvidia-fabricmanager")


def _fabric_package(scene: Scene, host: Any) -> tuple[str, str]:
    loaded = scene.report["modules"]["loaded"].get("nvidia", "")
    names = [name for name in (scene.expected or {}).get("packages", {}) if "fabricmanager" in name]
    # Before branch 580 the package carried the branch in its name.
    names += ["nvidia-fabricmanager", f"nvidia-fabricmanager-{loaded.partition('.')[0]}"]
    for name in names:
        package = host.package(name)
        if package.is_installed:
            return name, str(package.version)
    return "", ""


def _why_other(scene: Scene, name: str, version: str) -> str:
    """What explains that the fabric manager is not of the loaded module's version; "" nothing."""
    if version != (scene.expected or {}).get("packages", {}).get(name, version):
        return "stack.packages"
    return "driver.version" if stale(scene) else ""


HEALTH = (
    (0, "bandwidth is degraded", "degraded", "drain"),
    (2, "routes are being recovered", "degraded", "drain"),
    (4, "a route is unhealthy", "fail", "reset"),
    (6, "an access timed out and is being recovered", "fail", "reset"),
)
"""Pairs of bits of the health mask: where each begins, what 1 means; 0 is not told, 2 is no."""
CONFIGURATION = 8
"""Where four bits on the configuration begin: 0 not told, 1 as it should be, else what is wrong."""
WRONG = {
    2: "the system's GUID is wrong",
    3: "the chassis serial number is wrong",
    4: "it is in no partition",
    5: "it has too few NVLinks",
    6: "its firmware does not fit",
    7: "its place is wrong",
    8: "its state is wrong",
}
SUMMARY = {2: ("unhealthy", "fail"), 3: ("of limited capacity", "degraded")}
"""nvml.h: NVML_GPU_FABRIC_HEALTH_MASK_* and NVML_GPU_FABRIC_HEALTH_SUMMARY_*."""


@check(
    "fabric.health",
    component="fabric",
    needs=("nvml", "fabric-health"),
    action="reset",
    source="NVML API: GPU fabric info, health mask and summary; leptonai/gpud and OCI read them",
    fault="nvml:7:fabric_health=0x19a",
)
def test_fabric_health(scene: Scene, gpus: list[dict[str, Any]], look: Look) -> None:
    """The fabric serves every GPU in full: bandwidth, routes, and its configuration."""
    for gpu, fabric in having("fabric", "health in the fabric", gpus, scene, look):
        if fabric["state"] != COMPLETED:
            why = f"state {fabric['state']}: it is not registered with the fabric"
            look.unknown(part(gpu), "health in the fabric", why=why, because="fabric.manager")
        elif not fabric_told(gpu):
            why = "it tells nothing of it, where other GPUs do"
            look.unknown(part(gpu), "health in the fabric", why=why)
        else:
            mask = fabric["health"] or 0
            wrong = ailments(mask, fabric["summary"])
            look.at(
                part(gpu),
                "health in the fabric",
                found=[text for text, _, _ in wrong] or "good",
                expected="good",
                verdict="fail" if any(one == "fail" for _, one, _ in wrong) else "degraded",
                action="reset" if any(one == "reset" for _, _, one in wrong) else "drain",
                evidence=(f"mask {mask:#x}; nvidia-smi -i {gpu['index']} -q",),
            )


def ailments(mask: int, summary: int | None) -> list[tuple[str, str, str]]:
    """What a health mask says is wrong, with verdict and action. The summary counts where the mask
    says nothing wrong: it may know more than the bits that are known here."""
    found = [
        (text, verdict, action)
        for begins, text, verdict, action in HEALTH
        if mask >> begins & 3 == 1
    ]
    configuration = mask >> CONFIGURATION & 0xF
    if configuration > 1:
        text = WRONG.get(configuration, f"its configuration is wrong ({configuration})")
        found.append((text, "fail", "reset"))
    if not found and summary in SUMMARY:
        text, verdict = SUMMARY[summary]
        found.append((f"the driver calls it {text}", verdict, "drain"))
    return found
