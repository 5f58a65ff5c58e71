"""The driver proper in the vendor's Debian 12 repository: user space and kernel modules.

Names and dependency shapes: research provisioning 2.6-2.8. The points that a deploy can trip over:
- user space is tied together with exact versions;
- the two kernel module packages conflict and provide `nvidia-kernel` at their version;
- libcuda1 recommends a kernel module package, the closed one first.
What stands on top of them is in `branches.py`.
"""

from __future__ import annotations

from . import scripts
from .packages import Compiled, Link, Package, Text, shared_library, text_file

LIB = "/usr/lib/x86_64-linux-gnu"

CUDA_OF_BRANCH = {"535": "12.2", "580": "13.0", "595": "13.2"}
"""CUDA version that a branch reports (research: provisioning 2.2)."""

VERSIONS = ("580.159.04", "580.178.04", "595.71.05", "595.91.07")
"""Upstream versions; package versions append -1 (research: provisioning 2.6)."""

GRAPHICS = "nvidia-graphics-drivers"
"""Source package of the driver proper, which the pinning packages match by `src:*nvidia*`."""


def packages() -> list[Package]:
    """User space and kernel modules of every version."""
    found: list[Package] = []
    for version in VERSIONS:
        found += user_space(version, f"{version}-1", GRAPHICS) + kernel(version)
    return found


def cuda_number(version: str) -> int:
    """CUDA driver API number, e.g. 13020 for a 595 driver."""
    major, minor = CUDA_OF_BRANCH[version.split(".")[0]].split(".")
    return int(major) * 1000 + int(minor) * 10


def nvml(version: str) -> Compiled:
    """The simulated NVML of one driver version."""
    cuda = cuda_number(version)
    return Compiled(
        "nvml.c",
        (("VERSION", f'"{version}"'), ("CUDA", str(cuda)), ("CUDA_MAJOR", f'"{cuda // 1000}"')),
        "libnvidia-ml.so.1",
    )


def daemon(role: str, version: str) -> Compiled:
    """One of the daemons in files/daemon.c."""
    return Compiled("daemon.c", (("VERSION", f'"{version}"'), (role, "1")))


def library(stem: str, major: int, version: str, what: Compiled) -> dict[str, Compiled | Link]:
    """A driver library under its full version, with the link of its SONAME."""
    full = f"{stem}.so.{version}"
    return {f"{LIB}/{full}": what, f"{LIB}/{stem}.so.{major}": Link(full)}


def user_space(version: str, package_version: str, source: str) -> list[Package]:
    """libcuda1, libnvidia-ml1, nvidia-smi and friends, tied to each other exactly.

    Debian's own packages have the same names, so `debian.py` makes them here too.
    """
    exactly = f"(= {package_version})"

    def package(name: str, description: str, **more: object) -> Package:
        more.setdefault("source", source)
        return Package(name, package_version, description, **more)  # type: ignore[arg-type]

    def lib(name: str, stem: str, major: int, depends: str = "") -> Package:
        built = shared_library(f"{stem}.so.{major}", version)
        return package(
            name,
            f"NVIDIA {stem} library",
            payload=library(stem, major, version, built),
            relations={"Depends": depends} if depends else {},
            triggers=("activate-noawait ldconfig",),
        )

    cuda = Compiled(
        "libcuda.c",
        (("VERSION", f'"{version}"'), ("CUDA", str(cuda_number(version)))),
        "libcuda.so.1",
    )
    return [
        package(
            "libnvidia-ml1",
            "NVIDIA Management Library (NVML) runtime library",
            payload=library("libnvidia-ml", 1, version, nvml(version)),
            triggers=("activate-noawait ldconfig",),
        ),
        package(
            "libcuda1",
            "NVIDIA CUDA Driver Library",
            payload=library("libcuda", 1, version, cuda),
            relations={
                "Depends": f"libnvidia-ptxjitcompiler1 {exactly}",
                "Recommends": f"nvidia-kernel-dkms {exactly} | nvidia-kernel {exactly}",
            },
            triggers=("activate-noawait ldconfig",),
        ),
        lib("libnvidia-ptxjitcompiler1", "libnvidia-ptxjitcompiler", 1),
        lib("libcudadebugger1", "libcudadebugger", 1, f"libcuda1 {exactly}"),
        lib("libnvidia-cfg1", "libnvidia-cfg", 1),
        package(
            "nvidia-smi",
            "NVIDIA System Management Interface",
            payload={"/usr/bin/nvidia-smi": Compiled("nvidia-smi.c")},
            relations={"Depends": f"libnvidia-ml1 {exactly}"},
        ),
        package(
            "nvidia-modprobe",
            "utility to load NVIDIA kernel modules and create device nodes",
            source="nvidia-modprobe",
            payload={
                "/usr/bin/nvidia-modprobe": Text(
                    "#!/bin/sh\n# Simulated: loads the modules, the device files come with them.\n"
                    "exec modprobe nvidia\n",
                    0o755,
                )
            },
        ),
        package(
            "nvidia-persistenced",
            "daemon to maintain persistent software state in the NVIDIA driver",
            source="nvidia-persistenced",
            payload={
                "/usr/bin/nvidia-persistenced": daemon("PERSISTENCED", version),
                "/lib/systemd/system/nvidia-persistenced.service": text_file(
                    "nvidia-persistenced.service"
                ),
            },
            scripts=scripts.service("nvidia-persistenced.service", enabled=True),
        ),
    ]


def module_sources(name: str, version: str, licence: str) -> dict[str, Text]:
    """/usr/src/<name>-<version>: what DKMS compiles."""
    root = f"/usr/src/{name}-{version}"
    return {
        f"{root}/dkms.conf": text_file("dkms.conf", NAME=name, VERSION=version),
        f"{root}/Makefile": text_file("module.mk", VERSION=version, LICENSE=licence),
        f"{root}/module.c": text_file("module.c"),
    }


def kernel(version: str) -> list[Package]:
    """The two flavours of the kernel module, and what both need."""
    package_version = f"{version}-1"
    exactly = f"(= {package_version})"

    def flavour(name: str, other: str, licence: str, needs: str) -> Package:
        return Package(
            name,
            package_version,
            f"NVIDIA kernel module DKMS source ({licence})",
            source=GRAPHICS,
            section="non-free/kernel",
            relations={
                "Depends": f"dkms, {needs}",
                "Provides": f"nvidia-kernel {exactly}",
                "Conflicts": other,
                "Replaces": other,
            },
            payload=module_sources("nvidia", version, licence),
            scripts=scripts.dkms("nvidia", version),
        )

    closed, opened = "nvidia-kernel-dkms", "nvidia-kernel-open-dkms"
    needs = f"nvidia-kernel-support {exactly}, firmware-nvidia-gsp {exactly}"
    return [
        flavour(closed, opened, "NVIDIA", needs),
        flavour(opened, closed, "Dual MIT/GPL", needs),
        Package(
            "nvidia-kernel-support",
            package_version,
            "NVIDIA kernel module support files",
            source=GRAPHICS,
            relations={"Depends": f"nvidia-modprobe {exactly}"},
        ),
        Package(
            "firmware-nvidia-gsp",
            package_version,
            "NVIDIA GSP firmware",
            source=GRAPHICS,
            payload={f"/lib/firmware/nvidia/{version}/gsp_ga10x.bin": Text("simulated\n")},
        ),
    ]
