"""The fabric between GPUs on hosts with NVSwitches."""

from __future__ import annotations

from typing import Any

from verify.applies import COMPLETED, Scene
from verify.checks import HOST, Component, Look, check
from verify.gpus import answering, part, readable
from verify.versions import stale, upstream


@check(
    "fabric.manager",
    component="fabric",
    needs=("driver", "nvswitches"),
    source="CUDA error 802, dstackai/dstack issue 2348; research: provisioning 2.8",
    fault="fabric-stopped",
)
def test_fabric(scene: Scene, host: Any, gpus: list[dict[str, Any]], look: Look) -> None:
    """The fabric manager runs at the driver's version, and every GPU is in its fabric."""
    unit = _unit(scene)
    service = Component(kind="service", name=unit)
    loaded = scene.report["modules"]["loaded"].get("nvidia", "")
    name, version = _fabric_package(scene, host)
    other = bool(version) and upstream(version) != loaded  # then it refuses to start
    running = look.at(
        service,
        "service",
        found="running" if host.service(unit).is_running else "not running",
        expected="running",
        evidence=(f"journalctl -u {unit}", "CUDA fails with error 802 without it"),
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
    for gpu in answering(gpus, scene, look):
        if not readable(gpu, "fabric", "state in the fabric", look):
            continue
        fabric = gpu["fabric"]
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


def _unit(scene: Scene) -> str:
    services = (scene.expected or {}).get("services", [])
    return next((str(one) for one in services if "fabricmanager" in one), "nvidia-fabricmanager")


def _fabric_package(scene: Scene, host: Any) -> tuple[str, str]:
    loaded = scene.report["modules"]["loaded"].get("nvidia", "")
    names = [name for name in (scene.expected or {}).get("packages", {}) if "fabricmanager" in name]
    # Before branch 580 the package carried the branch in its name (research: provisioning 2.6).
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
