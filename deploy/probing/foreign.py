"""Who else manages the driver or the GPUs of a host. Pure."""

import re
from typing import Any

from deploy.facts import Foreign, Modules, Package, PciDevice
from deploy.interest import DRIVER_PACKAGES, FOREIGN_DRIVERS


def foreign_owners(values: dict[str, Any]) -> tuple[Foreign, ...] | None:
    """Other owners with the evidence for each; None when what is needed to say so is unknown."""
    paths: list[str] | None = values.get("foreign_paths")
    pci: tuple[PciDevice, ...] | None = values.get("pci")
    packages: dict[str, Package] | None = values.get("packages")
    modules: Modules | None = values.get("modules")
    if paths is None or pci is None or modules is None:
        return None
    found = []
    if "/etc/dgx-release" in paths:
        release = values.get("dgx_version", "")
        found.append(Foreign(owner="dgx-os", evidence=f"/etc/dgx-release {release}".strip()))
    container = [p for p in paths if p.startswith("/run/nvidia/driver/") or "driver-ctr" in p]
    if container:
        found.append(Foreign(owner="driver-container", evidence=", ".join(container[:3])))
    licensing = [p for p in paths if "gridd" in p or "vgpu" in p]
    if licensing:
        found.append(Foreign(owner="vgpu", evidence=", ".join(licensing)))
    taken = [device.slot for device in pci if device.driver == "vfio-pci"]
    if taken:
        found.append(Foreign(owner="vfio", evidence=f"vfio-pci holds {', '.join(taken)}"))
    if packages is not None:
        others = sorted(name for name in packages if re.match(FOREIGN_DRIVERS, name))
        if others:
            evidence = ", ".join(f"{name} {packages[name].version}" for name in others[:3])
            found.append(Foreign(owner="other-packages", evidence=evidence))
    runfile = [p for p in paths if p.endswith(("nvidia-uninstall", "nvidia-installer"))]
    if runfile:
        found.append(Foreign(owner="runfile", evidence=", ".join(runfile)))
    elif not found and (versions := _module_versions(modules)):
        if packages is None:
            return None
        if not _from_packages(packages):
            evidence = f"module {', '.join(versions)}, which no package brought"
            found.append(Foreign(owner="runfile", evidence=evidence))
    return tuple(found)


def _from_packages(packages: dict[str, Package]) -> bool:
    return any(re.match(DRIVER_PACKAGES, name) for name in packages)


def _module_versions(modules: Modules) -> list[str]:
    versions = {module.version for module in modules.installed} | {modules.loaded_version}
    return sorted(versions - {""})
