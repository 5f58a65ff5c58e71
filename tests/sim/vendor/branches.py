"""What the vendor puts on top of a driver: metas, fabric packages, pins.

Names and shapes: research provisioning 2.6-2.8. The points that a deploy can trip over:
- nvidia-driver-cuda ties its parts with exact versions, the metas nvidia-open and cuda-drivers with
  `>=`: a meta at an exact version pins nothing;
- nvidia-fabricmanager depends on nothing;
- a pinning package is a conffile of priority 1000 by source package, at most one is installed, and
  it works only when apt reads it before it resolves, i.e. when it was installed before.
"""

from __future__ import annotations

from . import interconnect, scripts
from .driver import GRAPHICS, VERSIONS, daemon, library
from .packages import Package, Text, shared_library, text_file

BRANCHES = ("580", "595")


def packages() -> list[Package]:
    """All of it, for every driver version."""
    found = [pinning(branch, f"{branch}.*") for branch in BRANCHES]
    for version in VERSIONS:
        found += [*metas(version), *fabric(version), pinning(version, f"{version}-*")]
    return found


def metas(version: str) -> list[Package]:
    """nvidia-driver-cuda and nvidia-driver; nvidia-open and cuda-drivers, plain and per branch."""
    package_version = f"{version}-1"
    exactly, at_least = f"(= {package_version})", f"(>= {version})"
    branch = version.split(".")[0]
    flavours = {"nvidia-open": "nvidia-kernel-open-dkms", "cuda-drivers": "nvidia-kernel-dkms"}
    compute = [
        *("libcuda1", "libcudadebugger1", "libnvidia-cfg1", "libnvidia-ml1", "nvidia-modprobe"),
        *("nvidia-persistenced", "nvidia-smi"),
    ]
    return [
        Package(
            "nvidia-driver-cuda",
            package_version,
            "NVIDIA driver, compute only",
            source=GRAPHICS,
            section="non-free/utils",
            relations={
                "Depends": f"nvidia-kernel-dkms {exactly} | nvidia-kernel {exactly}, "
                + ", ".join(f"{name} {exactly}" for name in compute)
            },
        ),
        Package(
            "nvidia-driver",
            package_version,
            "NVIDIA driver, compute and graphics",
            source=GRAPHICS,
            section="non-free/x11",
            relations={"Depends": f"nvidia-driver-cuda {exactly}"},
        ),
        *(
            Package(
                name,
                package_version,
                "NVIDIA driver meta-package",
                section="multiverse/devel",
                relations={"Depends": f"nvidia-driver {at_least}, {module} {at_least}"},
            )
            for meta, module in flavours.items()
            for name in (meta, f"{meta}-{branch}")
            if name == meta or branch == "580"  # per-branch metas ended with 580
        ),
    ]


def fabric(version: str, revision: str = "-1") -> list[Package]:
    """NVSwitch and multi-node packages. None of them depends on the driver."""
    package_version = f"{version}{revision}"
    branch = version.split(".")[0]
    return [
        Package(
            "nvidia-fabricmanager",
            package_version,
            "Fabric Manager for NVSwitch based systems",
            relations={"Provides": f"nvidia-fabricmanager-{branch} (= {package_version})"},
            payload={
                "/usr/bin/nv-fabricmanager": daemon("FABRICMANAGER", version),
                "/usr/bin/nvidia-fabricmanager-start.sh": text_file(
                    "nvidia-fabricmanager-start.sh", 0o755
                ),
                "/usr/share/nvidia/nvswitch/fabricmanager.cfg": Text(
                    "LOG_LEVEL=4\nDAEMONIZE=1\nFABRIC_MODE=0\n"
                ),
                "/lib/systemd/system/nvidia-fabricmanager.service": text_file(
                    "nvidia-fabricmanager.service"
                ),
            },
            scripts=scripts.service("nvidia-fabricmanager.service", enabled=False),
        ),
        interconnect.imex(version, package_version),
        Package(
            "libnvidia-nscq",
            package_version,
            "NVSwitch Configuration and Query library",
            payload=library(
                "libnvidia-nscq", 2, version, shared_library("libnvidia-nscq.so.2", version)
            ),
            triggers=("activate-noawait ldconfig",),
        ),
    ]


def pinning(what: str, pattern: str, revision: str = "-1") -> Package:
    """nvidia-driver-pinning-<branch or version>: one preferences file, priority 1000."""
    return Package(
        f"nvidia-driver-pinning-{what}",
        f"{what}{revision}",
        f"pins the NVIDIA driver to {what}",
        architecture="all",
        relations={
            "Provides": "nvidia-driver-pinning",
            "Conflicts": "nvidia-driver-pinning",
            "Replaces": "nvidia-driver-pinning",
        },
        payload={
            "/etc/apt/preferences.d/nvidia-driver-pin": Text(
                "Package: src:*nvidia*:any src:cuda-drivers:any src:cuda-compat:any\n"
                f"Pin: version {pattern}\n"
                "Pin-Priority: 1000\n"
            )
        },
    )
