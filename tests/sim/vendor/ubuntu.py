"""The driver in the vendor's Ubuntu 24.04 repository, and in Ubuntu's own archive.

Names and shapes: research provisioning 2.6-2.8, 2.12. The points that a deploy can trip over:
- up to branch 580 the vendor's packages carry the branch in their names, from 590 on they do not,
  and nvidia-smi is in libnvidia-compute;
- the same name has revision -1ubuntu1 here and -1 on Debian: no version can be computed;
- Ubuntu's own packages are called -server, and their modules come built and signed for one kernel.
"""

from __future__ import annotations

from dataclasses import replace

from . import scripts
from .branches import BRANCHES, fabric, pinning
from .debian import next_release, package_suffix
from .driver import VERSIONS, cuda_number, daemon, library, module_sources, nvml
from .packages import Compiled, Package, Payload, Text, shared_library, text_file

ARCHIVE = ("580.159.04",)
"""Versions of the -server drivers in Ubuntu's archive."""


def packages() -> list[Package]:
    """The driver, fabric packages and pins of the vendor's repository."""
    found = [pinning(branch, f"{branch}.*", "-1ubuntu1") for branch in BRANCHES]
    for version in VERSIONS:
        branch = version.split(".")[0]
        suffix = f"-{branch}" if int(branch) <= 580 else ""
        found += driver(version, f"{version}-1ubuntu1", suffix, f"nvidia-graphics-drivers-{branch}")
        found += [*fabric(version, "-1ubuntu1"), pinning(version, f"{version}-*", "-1ubuntu1")]
        found += [_modprobe(f"{version}-1ubuntu1"), *_metas(version, suffix)]
    return found


def archive(kernel_release: str) -> list[Package]:
    """Ubuntu's own: -server drivers, and their modules for this kernel and the next one."""
    found = []
    for version in ARCHIVE:
        package_version = f"{version}-0ubuntu0.24.04.1"
        branch = version.split(".")[0]
        suffix = f"-{branch}-server"
        found += driver(version, package_version, suffix, f"nvidia-graphics-drivers{suffix}")
        found += _archive_fabric(version, package_version)
        for opened in ("-open", ""):
            found.append(
                Package(
                    f"nvidia-headless-no-dkms{suffix}{opened}",
                    package_version,
                    "NVIDIA headless metapackage - no DKMS",
                    section="restricted/libs",
                    relations={
                        "Depends": f"libnvidia-compute{suffix} (= {package_version}), "
                        f"nvidia-compute-utils{suffix} (= {package_version}), "
                        f"nvidia-kernel-common{suffix} (= {package_version})"
                    },
                )
            )
            for release in (kernel_release, next_release(kernel_release)):
                found.append(_prebuilt(version, suffix, opened, release))
    return found


def driver(version: str, package_version: str, suffix: str, source: str) -> list[Package]:
    """User space and both flavours of the module; all names end with `suffix`."""
    exactly = f"(= {package_version})"

    def package(stem: str, description: str, ending: str = "", **more: object) -> Package:
        name = f"{stem}{suffix}{ending}"
        if suffix:  # one of a kind at a time, whatever its branch
            more["relations"] = {
                **more.get("relations", {}),  # type: ignore[dict-item]
                "Provides": f"{stem}{ending}",
                "Conflicts": f"{stem}{ending}",
                "Replaces": f"{stem}{ending}",
            }
        return Package(name, package_version, description, source=source, **more)  # type: ignore[arg-type]

    cuda = Compiled(
        "libcuda.c",
        (("VERSION", f'"{version}"'), ("CUDA", str(cuda_number(version)))),
        "libcuda.so.1",
    )
    smi: dict[str, Payload] = {"/usr/bin/nvidia-smi": Compiled("nvidia-smi.c")}
    compute: dict[str, Payload] = {}
    for stem, what in (
        ("libnvidia-ml", nvml(version)),
        ("libcuda", cuda),
        ("libnvidia-ptxjitcompiler", shared_library("libnvidia-ptxjitcompiler.so.1", version)),
    ):
        compute |= library(stem, 1, version, what)
    persistence: dict[str, Payload] = {
        "/usr/bin/nvidia-persistenced": daemon("PERSISTENCED", version),
        "/lib/systemd/system/nvidia-persistenced.service": text_file("nvidia-persistenced.service"),
    }
    unit = scripts.service("nvidia-persistenced.service", enabled=True)
    ld = ("activate-noawait ldconfig",)
    firmware = f"/lib/firmware/nvidia/{version}/gsp_ga10x.bin"
    found = [
        package("libnvidia-compute", "NVIDIA libcompute package",
                payload=compute if suffix else compute | smi, triggers=ld),
        package("libnvidia-cfg1", "NVIDIA binary OpenGL/GLX configuration library",
                payload=library("libnvidia-cfg", 1, version,
                                shared_library("libnvidia-cfg.so.1", version)), triggers=ld),
        package("nvidia-kernel-common", "Shared files used with the kernel module",
                relations={"Depends": f"nvidia-firmware{suffix} {exactly}"}),
        package("nvidia-firmware", "Firmware files used by the kernel module",
                payload={firmware: Text("simulated\n")}),
    ]  # fmt: skip
    if suffix:
        found += [
            package(
                "nvidia-utils",
                "NVIDIA driver support binaries",
                relations={"Depends": f"libnvidia-compute{suffix} {exactly}"},
                payload=smi,
            ),
            package(
                "nvidia-compute-utils",
                "NVIDIA compute utilities",
                relations={"Depends": f"libnvidia-compute{suffix} {exactly}"},
                payload=persistence,
                scripts=unit,
            ),
        ]
    else:
        found.append(
            package("nvidia-persistenced", "NVIDIA persistence daemon",
                    relations={"Depends": f"libnvidia-compute {exactly}"},
                    payload=persistence, scripts=unit)
        )  # fmt: skip
    for ending, other, licence in (("-open", "", "Dual MIT/GPL"), ("", "-open", "NVIDIA")):
        ours, theirs = f"nvidia-dkms{suffix}{ending}", f"nvidia-dkms{suffix}{other}"
        found += [
            Package(
                f"nvidia-kernel-source{suffix}{ending}",
                package_version,
                f"NVIDIA kernel source package ({licence})",
                source=source,
                relations={
                    "Conflicts": f"nvidia-kernel-source{suffix}{other}",
                    "Replaces": f"nvidia-kernel-source{suffix}{other}",
                },
                payload=module_sources("nvidia", version, licence),
            ),
            Package(
                ours,
                package_version,
                f"NVIDIA DKMS package ({licence})",
                source=source,
                relations={
                    "Depends": f"dkms, nvidia-kernel-source{suffix}{ending} {exactly}, "
                    f"nvidia-kernel-common{suffix} {exactly}",
                    "Provides": f"nvidia-dkms-kernel {exactly}",
                    "Conflicts": f"nvidia-dkms-kernel, {theirs}",
                    "Replaces": f"nvidia-dkms-kernel, {theirs}",
                },
                scripts=scripts.dkms("nvidia", version),
            ),
        ]
    return found


def _metas(version: str, suffix: str) -> list[Package]:
    branch = version.split(".")[0]
    found = []
    for name, ending in (("nvidia-open", "-open"), ("cuda-drivers", "")):
        least = f"(>= {version})"
        needs = f"nvidia-dkms{suffix}{ending} {least}, libnvidia-compute{suffix} {least}"
        for meta in (name, f"{name}-{branch}") if suffix else (name,):
            found.append(
                Package(meta, f"{version}-1ubuntu1", "NVIDIA driver meta-package",
                        section="multiverse/devel", relations={"Depends": needs})
            )  # fmt: skip
    return found


def _modprobe(package_version: str) -> Package:
    return Package(
        "nvidia-modprobe",
        package_version,
        "utility to load NVIDIA kernel modules and create device nodes",
        source="nvidia-modprobe",
        payload={"/usr/bin/nvidia-modprobe": Text("#!/bin/sh\nexec modprobe nvidia\n", 0o755)},
    )


def _archive_fabric(version: str, package_version: str) -> list[Package]:
    """Unlike the vendor's, Ubuntu's are tied to the driver and named by branch."""
    branch = version.split(".")[0]
    needs = {"Depends": f"nvidia-kernel-common-{branch}-server (= {package_version})"}
    return [
        replace(theirs, name=f"{theirs.name}-{branch}", version=package_version, relations=needs)
        for theirs in fabric(version)
    ]


def _prebuilt(version: str, suffix: str, opened: str, release: str) -> Package:
    """Modules for one kernel. The signature is what is simulated: nothing would check it here."""
    licence = "Dual MIT/GPL" if opened else "NVIDIA"
    directory = f"/lib/modules/{release}/kernel/nvidia{suffix.removesuffix('-server')}srv{opened}"
    alias = (("ALIAS", '"pci:v000010DEd*sv*sd*bc03sc02i00*"'),)
    return Package(
        f"linux-modules-nvidia{suffix}{opened}-{package_suffix(release)}",
        f"1.0-1+{version}",
        f"Linux kernel nvidia modules for {release}",
        source="linux-restricted-modules",
        section="restricted/kernel",
        relations={
            "Depends": f"linux-image-{package_suffix(release)}, "
            f"nvidia-kernel-common{suffix} (<= {version}-1), "
            f"nvidia-kernel-common{suffix} (>= {version})"
        },
        payload={
            f"{directory}/{name}.ko": Compiled(
                "module.c",
                (
                    ("VERSION", f'"{version}"'),
                    ("LICENSE", f'"{licence}"'),
                    ("UTS_RELEASE", f'"{release}"'),
                    ("NAME", f'"{name.replace("-", "_")}"'),
                    *(alias if name == "nvidia" else ()),
                ),
            )
            for name in ("nvidia", "nvidia-modeset", "nvidia-uvm")
        },
        scripts={
            "postinst": f'{scripts.HEAD}[ "$1" != configure ] || depmod {release}\n',
            "postrm": f"{scripts.HEAD}depmod {release} || true\n",
        },
    )
